"""Kinds of layers, and the weights of each that can be made sparse."""

import dataclasses
from typing import Any

import keras

from state_of_sparsity.engines.keras3.private import (
    BaseConv,
    BaseConvTranspose,
    BaseDepthwiseConv,
    BaseSeparableConv,
    ConvLSTMCell,
    children,
    own_attributes,
)
from state_of_sparsity.engines.linear_maps import summed_axis
from state_of_sparsity.techniques.base import Technique

# Names of the weights, by the class of the layer; that of a class derived from it, too.
_WEIGHTS = {
    keras.layers.Dense: ("kernel",),
    keras.layers.EinsumDense: ("kernel",),
    BaseConv: ("kernel",),
    BaseConvTranspose: ("kernel",),
    BaseDepthwiseConv: ("kernel",),
    BaseSeparableConv: ("depthwise_kernel", "pointwise_kernel"),
    keras.layers.ReversibleEmbedding: ("embeddings", "reverse_embeddings"),
    keras.layers.Embedding: ("embeddings",),
    keras.layers.SimpleRNNCell: ("kernel", "recurrent_kernel"),
    keras.layers.GRUCell: ("kernel", "recurrent_kernel"),
    keras.layers.LSTMCell: ("kernel", "recurrent_kernel"),
    ConvLSTMCell: ("kernel", "recurrent_kernel"),
}


@dataclasses.dataclass(frozen=True)
class Located:
    """A weight, and where a layer holds it.

    Attributes:
      label: its name, after those of the layers around it in a recurrent layer:
        "kernel", "cell.recurrent_kernel".
      path: attributes, keys and positions that lead to it.
      variable: the weight.
    """

    label: str
    path: tuple
    variable: keras.Variable


def located_weights(
    layer: keras.layers.Layer, technique: Technique | None = None
) -> list[Located]:
    """The weights of a built layer that can be made sparse.

    A recurrent layer has those of its cell, and of all layers inside of that: they are
    used in a loop over time, in which nothing can be drawn or counted. A custom layer
    names its own in `get_prunable_weights()`.

    Args:
      layer: the layer.
      technique: if given, without those that it leaves dense: pruning leaves that part
        of a separable convolution which is a depthwise one.

    Raises:
      ValueError: if it names a weight that is in none of its attributes.
    """
    if isinstance(layer, keras.layers.RNN):
        return [
            dataclasses.replace(
                found,
                path=("cell", *place, *found.path),
                label=".".join(("cell", *map(_shown, place), found.label)),
            )
            for place, inner in _with_inner(layer.cell, ())
            for found in _own(inner)
        ]
    found = _own(layer)
    if technique is None or not isinstance(layer, BaseSeparableConv):
        return found
    return [
        located
        for located in found
        if technique.applies_to(depthwise=located.label == "depthwise_kernel")
    ]


def _own(layer):
    if hasattr(type(layer), "get_prunable_weights"):
        named = {id(v): v for v in layer.get_prunable_weights()}
        paths = {id(v): path for path, v in _held(layer, keras.Variable)}
        unknown = [v.path for i, v in named.items() if i not in paths]
        if unknown:
            raise ValueError(
                f"get_prunable_weights() of layer {layer.name!r} returns weights that "
                f"are in none of its attributes. Received: {unknown}"
            )
        return [
            Located(".".join(map(_shown, paths[i])), paths[i], v)
            for i, v in named.items()
        ]
    names = next((_WEIGHTS[c] for c in type(layer).__mro__ if c in _WEIGHTS), ())
    held = {
        v.name: (path, v) for path, v in _held(layer, keras.Variable) if len(path) == 1
    }
    return [Located(name, *held[name]) for name in names if name in held]


def _with_inner(layer, place):
    """A layer and all layers inside of it, with the attributes that lead to them."""
    yield place, layer
    inner = {id(child) for child in children(layer)}
    for path, held in _held(layer, keras.layers.Layer):
        if id(held) in inner:
            inner.remove(id(held))
            yield from _with_inner(held, (*place, *path))


def _held(value, wanted, path=()):
    """Paths and objects of a class in a layer, but not in the layers inside of it."""
    items = ()
    if path and isinstance(value, wanted):
        yield path, value
    elif not path:
        items = own_attributes(value)
    elif isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    for key, item in items:
        if not str(key).startswith("_self_"):
            yield from _held(item, wanted, (*path, key))


def _shown(key: Any) -> str:
    return str(key).removeprefix("_")


def has_weights(layer: keras.layers.Layer) -> bool:
    """Whether a layer is of a kind with weights to make sparse, built or not."""
    if isinstance(layer, keras.layers.RNN):
        return any(has_weights(inner) for _, inner in _with_inner(layer.cell, ()))
    return hasattr(type(layer), "get_prunable_weights") or isinstance(
        layer, tuple(_WEIGHTS)
    )


def summed_axis_of(layer: keras.layers.Layer) -> int:
    """The axis of its kernel that a layer sums over, counted from the end."""
    if isinstance(layer, keras.layers.EinsumDense):
        return summed_axis(layer.equation)
    return -1 if isinstance(layer, BaseConvTranspose) else -2
