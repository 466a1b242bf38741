"""Keras layers whose weights a technique of the reparameterization family learns.

`VariationalX` and `L0X` take the arguments of the Keras layer `X`, and with their names
the hyperparameters of `sos.VariationalDropout` and `sos.L0Regularization`. In training
they compute with noise, in inference with the deployed weight, in which zeros are
exact. The penalty joins the loss of the model as a regularizer's does.

    layers.VariationalDense(300, activation="relu", kl_weight=1e-5)

What is new about a layer kind is its linear map, and that is Keras's own: here it
is called with another weight. To add a kind, derive a class from a technique
(`_Variational`, `_L0`), a kind of map (`_Linear`, `_Lookup`) and the Keras layer.
"""

import contextlib
import dataclasses
from typing import ClassVar

from state_of_sparsity.backend import keras, raw_variable, smart_cond, tf
from state_of_sparsity.conversion import plain_layer
from state_of_sparsity.counting import is_first_call_in_graph
from state_of_sparsity.techniques.l0 import L0Regularization
from state_of_sparsity.techniques.reparameterization import ReparameterizationTechnique
from state_of_sparsity.techniques.variational_dropout import VariationalDropout
from state_of_sparsity.weights import (
    DeployedWeight,
    added_variables,
    deployed_weights,
    technique_name,
)


class Reparameterized:
    """What the layers of the family have in common, put before a Keras layer.

    Attributes:
      technique: with the hyperparameters.
      training_step: how many training steps the layer has taken part in.
    """

    technique_class: ClassVar[type[ReparameterizationTechnique]]
    keras_class: ClassVar[type[keras.layers.Layer]]
    # The attribute that holds the trainable weight.
    sparse_weight: ClassVar[str] = "kernel"

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        plain = [base for base in cls.__mro__ if base in vars(keras.layers).values()]
        if plain:
            cls.keras_class = plain[0]

    def __init__(self, *args, **kwargs):
        names = {field.name for field in dataclasses.fields(self.technique_class)}
        given = {name: kwargs.pop(name) for name in names & kwargs.keys()}
        self.technique = self.technique_class(**given)
        super().__init__(*args, **kwargs)

    def build(self, input_shape):
        super().build(input_shape)
        self.add_technique()

    def add_technique(self):
        """Makes what the technique adds to the weights of the Keras layer."""
        extra = self.add_weight(
            self.technique.extra_name,
            shape=getattr(self, self.sparse_weight).shape,
            initializer=self.technique.extra_initializer(),
            dtype=tf.float32,
            experimental_autocast=False,
        )
        setattr(self, self.technique.extra_name, extra)
        self.training_step = self.add_weight(
            "training_step", shape=(), dtype=tf.int64, initializer="zeros",
            trainable=False,
        )  # fmt: skip
        self.add_loss(self.weighted_penalty)

    def parameters(self):
        """Theta and the technique's parameter, in float32."""
        theta = tf.cast(raw_variable(getattr(self, self.sparse_weight)), tf.float32)
        return theta, tf.convert_to_tensor(getattr(self, self.technique.extra_name))

    def penalty(self):
        """The penalty without its weight: a float32 scalar."""
        return self.technique.penalty(*self.parameters())

    def penalty_weight(self):
        """The weight of the penalty at the present step."""
        # Within a step, it has been counted already.
        step = tf.maximum(self.training_step - 1, 0)
        return self.technique.current_penalty_weight(step)

    def weighted_penalty(self):
        """What the layer adds to the loss."""
        return self.penalty_weight() * self.penalty()

    # The maps are Keras's own, which need no AutoGraph.
    @tf.autograph.experimental.do_not_convert
    def call(self, inputs, training=None):
        if training is None:
            training = keras.backend.learning_phase()
        if is_first_call_in_graph(self, training):
            smart_cond(training, self._count_step, tf.no_op)
        outputs = smart_cond(
            training,
            lambda: self.training_map(inputs, *self.parameters()),
            lambda: self.linear_map(
                inputs, self.technique.deployed_weight(*self.parameters())
            ),
        )
        return self.finish(outputs)

    def _count_step(self):
        self.training_step.assign_add(1)
        return tf.no_op()

    def get_config(self):
        return {**super().get_config(), **self.technique.get_config()}


class _Linear(Reparameterized):
    """A layer that multiplies its inputs with a kernel."""

    def training_map(self, inputs, theta, extra):
        return self.technique.training_output(self.linear_map, inputs, theta, extra)

    def linear_map(self, inputs, weight):
        """The Keras layer with another kernel, without bias and activation."""
        replaced = {
            self.sparse_weight: tf.cast(weight, inputs.dtype),
            "use_bias": False,
            "bias": None,
            "activation": None,
        }
        with _replaced_attributes(self, replaced):
            # Past the family, to the Keras layer.
            return super(Reparameterized, self).call(inputs)

    def finish(self, outputs):
        if getattr(self, "bias", None) is not None:
            bias = tf.cast(self.bias, outputs.dtype)
            if getattr(self, "data_format", None) == "channels_first":
                bias = tf.reshape(bias, (-1, *[1] * (len(outputs.shape) - 2)))
            outputs += bias
        return outputs if self.activation is None else self.activation(outputs)


class _Lookup(Reparameterized):
    """A layer that looks up rows of a table; noise is drawn per row looked up."""

    sparse_weight = "embeddings"

    def training_map(self, inputs, theta, extra):
        rows = self.linear_map(inputs, theta, cast=False)
        drawn = self.technique.training_weight(
            rows, self.linear_map(inputs, extra, cast=False)
        )
        return tf.cast(drawn, self.compute_dtype)

    def linear_map(self, inputs, weight, cast=True):
        rows = tf.nn.embedding_lookup(weight, tf.cast(inputs, tf.int32))
        return tf.cast(rows, self.compute_dtype) if cast else rows

    def finish(self, outputs):
        return outputs


@contextlib.contextmanager
def _replaced_attributes(layer, values):
    """Gives a layer other attributes for a while, unseen by Keras's tracking."""
    attributes = vars(layer)
    kept = {name: attributes[name] for name in values if name in attributes}
    attributes.update(values)
    try:
        yield
    finally:
        for name in values:
            del attributes[name]
        attributes.update(kept)


class _Variational:
    technique_class = VariationalDropout


class _L0:
    technique_class = L0Regularization


_register = keras.utils.register_keras_serializable("state_of_sparsity")


@_register
class VariationalDense(_Variational, _Linear, keras.layers.Dense):
    """`Dense` with variational dropout; see the module."""


@_register
class VariationalConv1D(_Variational, _Linear, keras.layers.Conv1D):
    """`Conv1D` with variational dropout; see the module."""


@_register
class VariationalConv2D(_Variational, _Linear, keras.layers.Conv2D):
    """`Conv2D` with variational dropout; see the module."""


@_register
class VariationalConv3D(_Variational, _Linear, keras.layers.Conv3D):
    """`Conv3D` with variational dropout; see the module."""


@_register
class VariationalDepthwiseConv2D(_Variational, _Linear, keras.layers.DepthwiseConv2D):
    """`DepthwiseConv2D` with variational dropout; see the module."""

    sparse_weight = "depthwise_kernel"


@_register
class VariationalEinsumDense(_Variational, _Linear, keras.layers.EinsumDense):
    """`EinsumDense` with variational dropout; see the module."""


@_register
class VariationalEmbedding(_Variational, _Lookup, keras.layers.Embedding):
    """`Embedding` with variational dropout; see the module."""


@_register
class L0Dense(_L0, _Linear, keras.layers.Dense):
    """`Dense` with L0 gates; see the module."""


@_register
class L0Conv1D(_L0, _Linear, keras.layers.Conv1D):
    """`Conv1D` with L0 gates; see the module."""


@_register
class L0Conv2D(_L0, _Linear, keras.layers.Conv2D):
    """`Conv2D` with L0 gates; see the module."""


@_register
class L0Conv3D(_L0, _Linear, keras.layers.Conv3D):
    """`Conv3D` with L0 gates; see the module."""


@_register
class L0DepthwiseConv2D(_L0, _Linear, keras.layers.DepthwiseConv2D):
    """`DepthwiseConv2D` with L0 gates; see the module."""

    sparse_weight = "depthwise_kernel"


@_register
class L0EinsumDense(_L0, _Linear, keras.layers.EinsumDense):
    """`EinsumDense` with L0 gates; see the module."""


@_register
class L0Embedding(_L0, _Lookup, keras.layers.Embedding):
    """`Embedding` with L0 gates; see the module."""


# The layer class for each technique and Keras layer.
LAYERS = {
    (cls.technique_class, cls.keras_class): cls
    for cls in list(globals().values())
    if isinstance(cls, type) and "keras_class" in vars(cls)
}


@technique_name.register
def _(layer: Reparameterized) -> str:
    return layer.technique.technique_name()


@deployed_weights.register
def _(layer: Reparameterized) -> list[DeployedWeight]:
    parameters = layer.parameters()
    variable = getattr(layer, layer.sparse_weight)
    return [
        DeployedWeight(
            layer.sparse_weight,
            layer.technique.deployed_weight(*parameters).numpy(),
            layer.technique.keeps(*parameters).numpy(),
            variable,
        )
    ]


@added_variables.register
def _(layer: Reparameterized) -> list[tf.Variable]:
    return [getattr(layer, layer.technique.extra_name), layer.training_step]


@plain_layer.register
def _(layer: Reparameterized, copy):
    without = (
        "technique",
        "training_step",
        "weighted_penalty",
        layer.technique.extra_name,
    )
    plain = copy(layer, layer.keras_class, without)
    (weight,) = deployed_weights(layer)
    raw_variable(getattr(plain, layer.sparse_weight)).assign(weight.value)
    return plain
