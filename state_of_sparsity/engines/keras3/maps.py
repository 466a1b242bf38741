"""Computation of a sparse layer: that of its plain class, with another weight.

What differs between kinds of layers is where noise comes in: at the outputs of a linear
map, at the rows that are looked up, or at the weight, which then is drawn once for the
whole batch and all positions. A kind is a line in `MAPS`.
"""

import re

import keras
from keras import ops

from state_of_sparsity.engines.functions import slots
from state_of_sparsity.engines.keras3 import private
from state_of_sparsity.engines.linear_maps import finished, positions_axes


def view_of(layer: keras.layers.Layer, values: dict):
    """A layer that shares all attributes with another one, but for some of its own.

    For one call: other calls of the layer see nothing of it.

    Args:
      layer: any layer, or, within one, a list, tuple or dictionary.
      values: by paths of attributes, keys and positions, what stands there instead.
    """
    inner: dict = {}
    for (key, *rest), value in values.items():
        inner.setdefault(key, {})[tuple(rest)] = value
    replaced = {
        key: within[()] if () in within else view_of(_held(layer, key), within)
        for key, within in inner.items()
    }
    if isinstance(layer, dict):
        return {**layer, **replaced}
    if isinstance(layer, list | tuple):
        return [replaced.get(place, item) for place, item in enumerate(layer)]
    view = object.__new__(type(layer))
    # Past Keras's tracking.
    vars(view).update(vars(layer) | replaced)
    for name, value in slots(layer).items():
        object.__setattr__(view, name, value)
    return view


def _held(holder, key):
    return (
        getattr(holder, key)
        if isinstance(key, str) and not isinstance(holder, dict)
        else holder[key]
    )


def with_weights(layer, training, *args, **kwargs):
    """The layer with weights as they are used in training, or as deployed."""
    weights = {w.path: layer.used_weight(w, training) for w in layer.sparse_weights}
    return layer.plain_call(weights, *args, training=training, **kwargs)


def linear(layer, training, inputs, **kwargs):
    """A layer that multiplies with a kernel, adds a bias and activates."""
    if not (training and layer.has_noisy_outputs):
        return with_weights(layer, training, inputs, **kwargs)
    (weight,) = layer.sparse_weights
    bare = {("use_bias",): False, ("bias",): None, ("activation",): None}

    def linear_map(values, kernel):
        kernel = ops.cast(kernel, values.dtype)
        return layer.plain_call({weight.path: kernel, **bare}, values)

    axes = positions_axes(layer, len(inputs.shape))
    return finished(layer, layer.noisy_output(weight, linear_map, inputs, axes))


def separable(layer, training, inputs, **kwargs):
    """A depthwise convolution, then one of size one: two linear maps."""
    if not (training and layer.has_noisy_outputs):
        return with_weights(layer, training, inputs, **kwargs)
    weights = {weight.label: weight for weight in layer.sparse_weights}

    def depthwise(values, kernel):
        return ops.depthwise_conv(
            values,
            ops.cast(kernel, values.dtype),
            strides=layer.strides,
            padding=layer.padding,
            data_format=layer.data_format,
            dilation_rate=layer.dilation_rate,
        )

    def pointwise(values, kernel):
        kernel = ops.cast(kernel, values.dtype)
        return ops.conv(values, kernel, data_format=layer.data_format)

    if "depthwise_kernel" in weights:
        outputs = layer.noisy_output(weights["depthwise_kernel"], depthwise, inputs)
    else:
        outputs = depthwise(inputs, layer.depthwise_kernel)
    outputs = layer.noisy_output(weights["pointwise_kernel"], pointwise, outputs)
    return finished(layer, outputs)


def lookup(layer, training, inputs, **kwargs):
    """A table: noise is drawn for each row that is looked up."""
    weight = layer.sparse_weights[0]
    ids = ops.cast(inputs, "int32")
    rows = layer.used_parts(weight, training, lambda t: ops.take(t, ids, axis=0))
    return ops.cast(rows, layer.compute_dtype)


def tied_lookup(layer, training, inputs, reverse=False):
    """A table that is looked up, and a linear map with its transpose."""
    if not reverse:
        outputs = lookup(layer, training, inputs)
        if layer.mask_zero:
            private.set_mask(outputs, ops.not_equal(inputs, 0))
        return outputs
    if not (training and layer.has_noisy_outputs):
        return with_weights(layer, training, inputs, reverse=True)
    weight = layer.sparse_weights[-1]
    dtype = layer.reverse_dtype or inputs.dtype
    bare = {("logit_soft_cap",): None, ("reverse_dtype",): None}

    def linear_map(values, table):
        table = ops.cast(table, values.dtype)
        return layer.plain_call({weight.path: table, **bare}, values, reverse=True)

    logits = layer.noisy_output(weight, linear_map, ops.cast(inputs, dtype))
    cap = layer.logit_soft_cap
    return logits if cap is None else ops.tanh(logits / cap) * cap


# By the class whose `call` it stands for; all others are called `with_weights`.
MAPS = {
    keras.layers.Dense: linear,
    keras.layers.EinsumDense: linear,
    private.BaseConv: linear,
    keras.layers.Conv1D: linear,
    private.BaseConvTranspose: linear,
    private.BaseDepthwiseConv: linear,
    private.BaseSeparableConv: separable,
    keras.layers.Embedding: lookup,
    keras.layers.ReversibleEmbedding: tied_lookup,
}


# What a class may override without computing in another way.
_NO_COMPUTATION = re.compile(
    "__|_abc_|build|get_|from_config|compute_output|save_|load_|quantize|enable_lora"
)


def map_of(layer):
    """How a sparse layer computes.

    One that has anything of its own instead of what its Keras class has (a `call`, the
    hook `convolution_op`, a property `kernel`) computes in a way that is not known
    here: its kernel may pass through any function.
    """
    own = {name for name in vars(layer) if callable(getattr(type(layer), name, None))}
    for cls in layer.plain_class.__mro__:
        if cls.__module__.startswith("keras."):
            changed = {n for n in own if hasattr(cls, n)}
            if any(not _NO_COMPUTATION.match(name) for name in changed):
                return with_weights
            ways = (way for kind, way in MAPS.items() if cls.call is kind.call)
            return next(ways, with_weights)
        own |= vars(cls).keys()
    return with_weights
