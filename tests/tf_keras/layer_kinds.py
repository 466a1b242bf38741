"""Every kind of layer of the reparameterization family, and how to use it in tests."""

import dataclasses

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras, raw_variable, tf
from state_of_sparsity.engines.tf_keras.weights import weight_variable
from state_of_sparsity.layers import tf_keras as layers

TECHNIQUES = [sos.VariationalDropout(1e-3), sos.L0Regularization(1e-3)]


def doubled(x):
    """An activation that Keras cannot serialize."""
    return 2.0 * x


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of layer, and how to use it.

    Attributes:
      cls: the Keras class.
      arguments: to make one.
      shape: of an input, without the batch.
      call: further arguments of a call.
    """

    cls: type
    arguments: dict
    shape: tuple
    call: dict = dataclasses.field(default_factory=dict)

    @property
    def takes_ids(self):
        return issubclass(self.cls, keras.layers.Embedding) and not self.call


KINDS = {
    "dense": Kind(keras.layers.Dense, {"units": 3}, (5,)),
    "dense sequence": Kind(keras.layers.Dense, {"units": 3, "use_bias": False}, (4, 5)),
    "conv1d": Kind(keras.layers.Conv1D, {"filters": 3, "kernel_size": 2}, (5, 2)),
    "causal": Kind(
        keras.layers.Conv1D,
        {"filters": 2, "kernel_size": 3, "padding": "causal", "dilation_rate": 2},
        (6, 2),
    ),
    "conv2d": Kind(keras.layers.Conv2D, {"filters": 2, "kernel_size": 3}, (4, 4, 2)),
    "strided": Kind(
        keras.layers.Conv2D,
        {"filters": 2, "kernel_size": 3, "strides": 2, "padding": "same"},
        (5, 5, 2),
    ),
    "dilated": Kind(
        keras.layers.Conv2D,
        {"filters": 2, "kernel_size": 2, "dilation_rate": 2},
        (5, 5, 2),
    ),
    "grouped": Kind(
        keras.layers.Conv2D,
        {"filters": 4, "kernel_size": 2, "groups": 2},
        (3, 3, 4),
    ),
    "conv3d": Kind(keras.layers.Conv3D, {"filters": 2, "kernel_size": 2}, (3, 3, 3, 2)),
    "depthwise": Kind(
        keras.layers.DepthwiseConv2D,
        {"kernel_size": 2, "depth_multiplier": 2},
        (3, 3, 2),
    ),
    "depthwise 1d": Kind(
        keras.layers.DepthwiseConv1D, {"kernel_size": 2, "padding": "same"}, (4, 2)
    ),
    "transposed 1d": Kind(
        keras.layers.Conv1DTranspose,
        {"filters": 3, "kernel_size": 2, "dilation_rate": 2},
        (4, 2),
    ),
    "transposed": Kind(
        keras.layers.Conv2DTranspose,
        {"filters": 2, "kernel_size": 3, "strides": 2, "output_padding": 1},
        (2, 2, 3),
    ),
    "transposed 3d": Kind(
        keras.layers.Conv3DTranspose,
        {"filters": 2, "kernel_size": 2, "strides": 2, "padding": "same"},
        (2, 2, 2, 2),
    ),
    "einsum": Kind(
        keras.layers.EinsumDense,
        {"equation": "abc,cde->abde", "output_shape": (None, 2, 3), "bias_axes": "de"},
        (3, 4),
    ),
    "embedding": Kind(keras.layers.Embedding, {"input_dim": 9, "output_dim": 4}, (3,)),
    "tied lookup": Kind(layers.TiedEmbedding, {"input_dim": 9, "output_dim": 4}, (3,)),
    "tied logits": Kind(
        layers.TiedEmbedding,
        {"input_dim": 9, "output_dim": 4},
        (3, 4),
        {"transposed": True},
    ),
}


RECURRENT = {
    "simple rnn": Kind(keras.layers.SimpleRNN, {"units": 3}, (4, 2)),
    "lstm": Kind(keras.layers.LSTM, {"units": 3}, (4, 2)),
    "gru": Kind(keras.layers.GRU, {"units": 3, "return_sequences": True}, (4, 2)),
    "unrolled gru": Kind(
        keras.layers.GRU, {"units": 3, "reset_after": False, "unroll": True}, (4, 2)
    ),
}


CHANNELS_FIRST = {
    "conv2d channels first": Kind(
        keras.layers.Conv2D,
        {"filters": 3, "kernel_size": 2, "data_format": "channels_first"},
        (2, 5, 5),
    ),
    "depthwise channels first": Kind(
        keras.layers.DepthwiseConv2D,
        {"kernel_size": 2, "data_format": "channels_first"},
        (2, 4, 4),
    ),
    "transposed 1d channels first": Kind(
        keras.layers.Conv1DTranspose,
        {"filters": 3, "kernel_size": 2, "data_format": "channels_first"},
        (2, 4),
    ),
    "transposed channels first": Kind(
        keras.layers.Conv2DTranspose,
        {"filters": 3, "kernel_size": 2, "data_format": "channels_first"},
        (2, 3, 3),
    ),
}


# Two linear maps each.
SEPARABLE = {
    "separable": Kind(
        keras.layers.SeparableConv2D,
        {"filters": 3, "kernel_size": 2, "strides": 2, "depth_multiplier": 2},
        (5, 5, 2),
    ),
    "causal separable": Kind(
        keras.layers.SeparableConv1D,
        {"filters": 3, "kernel_size": 2, "padding": "causal", "dilation_rate": 2},
        (5, 2),
    ),
    "separable 1d channels first": Kind(
        keras.layers.SeparableConv1D,
        {"filters": 3, "kernel_size": 2, "data_format": "channels_first"},
        (2, 5),
    ),
    "separable channels first": Kind(
        keras.layers.SeparableConv2D,
        {"filters": 3, "kernel_size": 2, "data_format": "channels_first"},
        (2, 4, 4),
    ),
}


EVERY_KIND = KINDS | RECURRENT | CHANNELS_FIRST | SEPARABLE


def with_a_technique(kinds, first=0):
    """Parametrizes `kind` and `technique`: kinds, and the two techniques by turns."""
    pairs = [(kind, TECHNIQUES[(first + i) % 2]) for i, kind in enumerate(kinds)]
    ids = [f"{kind}-{technique.technique_name()}" for kind, technique in pairs]
    return pytest.mark.parametrize(("kind", "technique"), pairs, ids=ids)


def make_inputs(kind, rng, batch=2):
    shape = (batch, *EVERY_KIND[kind].shape)
    if EVERY_KIND[kind].takes_ids:
        return rng.integers(0, 9, shape)
    return rng.normal(size=shape).astype("float32")


def compiled(kind, layer, **further):
    """The layer as a function; XLA computes what TensorFlow's CPU kernels do not."""
    call = EVERY_KIND[kind].call | further
    compile_it = "data_format" in EVERY_KIND[kind].arguments
    return tf.function(lambda x: layer(x, **call), jit_compile=compile_it)


def run(kind, layer, inputs, **further):
    if "data_format" in EVERY_KIND[kind].arguments:
        return compiled(kind, layer, **further)(tf.constant(inputs))
    return layer(tf.constant(inputs), **EVERY_KIND[kind].call, **further)


def make_layer(kind, technique, rng, **further):
    """A built layer with scattered parameters, and its Keras namesake."""
    cls, arguments = EVERY_KIND[kind].cls, {**EVERY_KIND[kind].arguments, **further}
    layer = layers.LAYERS[type(technique), cls](**technique.get_config(), **arguments)
    plain = cls(**arguments)
    inputs = make_inputs(kind, rng)
    run(kind, layer, inputs)
    run(kind, plain, inputs)
    for weight in layer.sparse_weights:
        theta = weight_variable(layer, weight)
        theta.assign(rng.normal(size=theta.shape))
        extra = getattr(layer, layer.extra_name(weight))
        extra.assign(rng.normal(0, 3, size=extra.shape))
    for holder, plain_holder in ((layer, plain), cells(layer, plain)):
        if getattr(holder, "bias", None) is not None:
            holder.bias.assign(rng.normal(size=holder.bias.shape))
            plain_holder.bias.assign(holder.bias)
    return layer, plain


def cells(*recurrent_layers):
    return [getattr(layer, "cell", None) for layer in recurrent_layers]


def assign(layer, weight, value):
    raw_variable(weight_variable(layer, weight)).assign(value)


def as_model(kind, layer):
    """A model of one layer."""
    described = EVERY_KIND[kind]
    dtype = "int32" if described.takes_ids else "float32"
    inputs = keras.Input(described.shape, dtype=dtype)
    return keras.Model(inputs, layer(inputs, **described.call))


def reference_deployed(technique, theta, extra):
    """Weight and mask in NumPy's float64, after Gale et al. 2019."""
    theta, extra = theta.astype("float64"), extra.astype("float64")
    if isinstance(technique, sos.VariationalDropout):
        mask = extra - np.log(theta**2 + 1e-8) < technique.log_alpha_threshold
        return theta * mask, mask
    gate = np.clip(1.2 / (1 + np.exp(-extra)) - 0.1, 0, 1)
    return theta * gate, gate > 0
