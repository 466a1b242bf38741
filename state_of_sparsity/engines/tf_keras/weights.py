"""Weights of a layer that are made sparse, and their names."""

from state_of_sparsity.engines import linear_maps
from state_of_sparsity.engines.tf_keras.backend import (
    ConvLSTMCell,
    DepthwiseConv,
    PruneLowMagnitude,
    QuantizeWrapper,
    SeparableConv,
    keras,
    names_in_tf_mot,
    quantized_variables,
    tf,
)
from state_of_sparsity.techniques.base import Technique

# Weights of linear maps that TF-MOT's registry does not name; see `add_kind`.
_FURTHER_WEIGHTS = {
    keras.layers.EinsumDense: ["kernel"],
    DepthwiseConv: ["depthwise_kernel"],
    SeparableConv: ["depthwise_kernel", "pointwise_kernel"],
}
_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
_CELLS = (
    keras.layers.SimpleRNNCell,
    keras.layers.GRUCell,
    keras.layers.LSTMCell,
    ConvLSTMCell,
)


def add_kind(cls: type[keras.layers.Layer], weights: list[str]) -> None:
    """Makes a kind of layer one with weights to make sparse, if it is not yet.

    Args:
      cls: of the layers.
      weights: names of the attributes that hold them.
    """
    if not _weights_of_kind(cls):
        _FURTHER_WEIGHTS[cls] = weights


def _weights_of_kind(cls):
    if issubclass(cls, SeparableConv):
        # The registry names the half that pruning masks.
        return list(_FURTHER_WEIGHTS[SeparableConv])
    for base in cls.__mro__:
        known = names_in_tf_mot(base) or _FURTHER_WEIGHTS.get(base)
        if known:
            return list(known)
    return []


def sparsifiable_weights(layer: keras.layers.Layer) -> list[str]:
    """Dotted names of the attributes that hold a layer's weights to make sparse.

    They are those that TF-MOT prunes: kernels of Dense, convolutions and recurrent
    cells, embeddings; those of EinsumDense, which `MultiHeadAttention` is made of; and
    those of depthwise convolutions, also within separable ones, which the pruning
    family, as TF-MOT, leaves dense.
    A subclass of such a layer counts as one. A custom layer names its own with TF-MOT's
    `get_prunable_weights()`.
    """
    if isinstance(layer, QuantizeWrapper):
        return sparsifiable_weights(layer.layer)
    if isinstance(layer, keras.layers.RNN):
        return _cell_weights(layer.cell)
    if isinstance(layer, keras.layers.MultiHeadAttention):
        return []  # The EinsumDense layers inside of it are layers of their own.
    if hasattr(type(layer), "get_prunable_weights"):
        return [_attribute_of(layer, w) for w in layer.get_prunable_weights()]
    return _weights_of_kind(type(layer))


def _cell_weights(cell):
    if isinstance(cell, keras.layers.StackedRNNCells):
        return [
            f"cell.cells.{index}.{name}"
            for index, inner in enumerate(cell.cells)
            for name in _names_in_cell(inner)
        ]
    return [f"cell.{name}" for name in _names_in_cell(cell)]


def _names_in_cell(cell):
    if isinstance(cell, _CELLS):
        return ["kernel", "recurrent_kernel"]
    return sparsifiable_weights(cell)


def _attribute_of(layer, weight):
    path = _path_to(layer, weight)
    if path is None:
        raise ValueError(
            f"get_prunable_weights() of layer {layer.name!r} returns {weight.name}, "
            "which is in none of its attributes."
        )
    return path


def _path_to(holder, weight):
    """Dotted path to a weight from a layer, or from a list in one."""
    if isinstance(holder, keras.layers.Layer):
        # Keras's own lists come last: what they hold has a better name elsewhere.
        names = sorted(vars(holder), key=lambda name: name.startswith("_"))
        items = [(name, vars(holder)[name]) for name in names]
    else:
        items = [(str(index), item) for index, item in enumerate(holder)]
    for name, value in items:
        if value is weight:
            return name
        if isinstance(value, keras.layers.Layer | list | tuple):
            path = _path_to(value, weight)
            if path is not None:
                return f"{name}.{path}"
    return None


def weight_variable(layer: keras.layers.Layer, attribute: str) -> tf.Variable:
    """The variable behind a dotted attribute such as "cell.kernel"."""
    value = layer
    if isinstance(layer, QuantizeWrapper):
        quantized, value = quantized_variables(layer), layer.layer
        if attribute in quantized:
            return quantized[attribute]
    for name in attribute.split("."):
        if name.isdigit():
            value = value[int(name)]
        else:
            # Past the attributes that say what a layer computes with.
            value = vars(value)[name] if name in vars(value) else getattr(value, name)
    return value


def summed_axis(layer: keras.layers.Layer) -> int:
    """The axis of a layer's kernels, from their end, that its map sums over."""
    if isinstance(layer, keras.layers.EinsumDense):
        return linear_maps.summed_axis(layer.equation)
    return -1 if isinstance(layer, _TRANSPOSED) else -2


def scope_of(layer: keras.layers.Layer) -> str:
    """What the names of a built layer's weights begin with: "block/attention/query"."""
    weight = weight_variable(layer, sparsifiable_weights(layer)[0])
    return weight.name.rpartition("/")[0] or layer.name


def plain_layer_of(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The layer itself, or the layer in a wrapper of TF-MOT."""
    wrappers = (PruneLowMagnitude, QuantizeWrapper)
    return layer.layer if isinstance(layer, wrappers) else layer


def wrapped_weights(
    layer: keras.layers.Layer, technique: Technique | None = None
) -> list[str]:
    """Dotted names of the weights that a pruning wrapper masks in a layer.

    Args:
      layer: in the wrapper.
      technique: of the wrapper; None if it is TF-MOT's own.
    """
    if isinstance(layer, keras.layers.MultiHeadAttention):
        return names_in_tf_mot(keras.layers.MultiHeadAttention)
    names = sparsifiable_weights(layer)
    takes_all = technique is not None and technique.applies_to(depthwise=True)
    names_its_own = hasattr(type(layer), "get_prunable_weights")
    if takes_all or names_its_own or not isinstance(layer, SeparableConv):
        return names
    return [name for name in names if name != "depthwise_kernel"]
