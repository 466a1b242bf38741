"""Which weights of a model are made sparse, under which names, and their masks."""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from state_of_sparsity.backend import (
    ConvLSTMCell,
    DepthwiseConv,
    PruneLowMagnitude,
    PruneRegistry,
    child_layers,
    keras,
    raw_variable,
    tf,
)
from state_of_sparsity.copying import join

# Weights of linear maps that TF-MOT's registry does not name; see `add_kind`.
_FURTHER_WEIGHTS = {
    keras.layers.EinsumDense: ["kernel"],
    DepthwiseConv: ["depthwise_kernel"],
}
_CELLS = (
    keras.layers.SimpleRNNCell,
    keras.layers.GRUCell,
    keras.layers.LSTMCell,
    ConvLSTMCell,
)


@dataclasses.dataclass(frozen=True)
class DeployedWeight:
    """A weight tensor as it is deployed.

    Attributes:
      attribute: its name within the layer, such as "kernel".
      value: what inference multiplies with, zeros in place.
      mask: boolean array of the same shape, true where a weight stays.
      variable: the variable that holds it in the stripped layer.
    """

    attribute: str
    value: np.ndarray
    mask: np.ndarray
    variable: tf.Variable


@dataclasses.dataclass(frozen=True)
class LayerSite:
    """A layer of a model that has weights to make sparse, or has sparse ones.

    Attributes:
      layer: the layer, the wrapper if it is wrapped.
      path: names of the layers around it and of itself, joined by slashes; the same
        for a sparse layer and for its stripped counterpart.
    """

    layer: keras.layers.Layer
    path: str

    @property
    def is_sparse(self) -> bool:
        return is_sparse(self.layer)

    @property
    def technique(self) -> str:
        """Name of the technique, or "dense"."""
        return technique_name(self.layer) if self.is_sparse else "dense"

    def deployed(self) -> dict[str, DeployedWeight]:
        """The deployed weights by name: path, slash, attribute."""
        return {join(self.path, w.attribute): w for w in deployed_weights(self.layer)}


def sites(model: keras.layers.Layer) -> Iterator[LayerSite]:
    """Every layer of a model, at any depth, that has weights to make sparse.

    Each layer comes once, however often it is used, in the order of creation. A
    layer of the same path as an earlier one gets "_1", "_2", … appended.
    """
    seen_layers: set[int] = set()
    seen_paths: dict[str, int] = {}
    for layer, path in _walk(model, ""):
        if id(layer) in seen_layers:
            continue
        seen_layers.add(id(layer))
        count = seen_paths.get(path, 0)
        seen_paths[path] = count + 1
        yield LayerSite(layer, f"{path}_{count}" if count else path)


def _walk(layer, path):
    for child in child_layers(layer):
        child_path = join(path, plain_layer_of(child).name)
        if is_sparse(child) or sparsifiable_weights(child):
            yield child, child_path
        else:
            yield from _walk(child, child_path)


def add_kind(cls: type[keras.layers.Layer], weights: list[str]) -> None:
    """Makes a kind of layer one with weights to make sparse, if it is not yet.

    Args:
      cls: of the layers.
      weights: names of the attributes that hold them.
    """
    if not _weights_of_kind(cls):
        _FURTHER_WEIGHTS[cls] = weights


def _weights_of_kind(cls):
    for base in cls.__mro__:
        known = PruneRegistry._LAYERS_WEIGHTS_MAP.get(base) or _FURTHER_WEIGHTS.get(
            base
        )
        if known:
            return list(known)
    return []


def sparsifiable_weights(layer: keras.layers.Layer) -> list[str]:
    """Dotted names of the attributes that hold a layer's weights to make sparse.

    They are those that TF-MOT prunes: kernels of Dense, convolutions and recurrent
    cells, embeddings; those of EinsumDense, which `MultiHeadAttention` is made of; and
    those of depthwise convolutions, which the pruning family, as TF-MOT, leaves dense.
    A subclass of such a layer counts as one. A custom layer names its own with TF-MOT's
    `get_prunable_weights()`.
    """
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
    for name in attribute.split("."):
        value = value[int(name)] if name.isdigit() else getattr(value, name)
    return value


def scope_of(layer: keras.layers.Layer) -> str:
    """What the names of a built layer's weights begin with: "block/attention/query"."""
    weight = weight_variable(layer, sparsifiable_weights(layer)[0])
    return weight.name.rpartition("/")[0] or layer.name


def plain_layer_of(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The layer itself, or the layer in a pruning wrapper."""
    return layer.layer if isinstance(layer, PruneLowMagnitude) else layer


# What the two families of sparse layers and TF-MOT's own wrapper tell of themselves.
# A family registers its layer class with each of these.


@functools.singledispatch
def technique_name(layer) -> str:
    """Name of the technique that makes a layer sparse; of a dense one, "dense"."""
    return "dense"


@functools.singledispatch
def deployed_weights(layer) -> list[DeployedWeight]:
    """The weights of a layer that a technique can make sparse, as deployed."""
    return [
        DeployedWeight(attribute, value, value != 0, variable)
        for attribute in sparsifiable_weights(layer)
        for variable in [weight_variable(layer, attribute)]
        for value in [raw_variable(variable).numpy()]
    ]


@functools.singledispatch
def added_variables(layer) -> list[tf.Variable]:
    """The variables that a technique adds to a layer, and that are not deployed."""
    return []


def is_sparse(layer) -> bool:
    """Whether a layer is one that a technique has made."""
    return technique_name(layer) != "dense"


@technique_name.register
def _(layer: PruneLowMagnitude) -> str:
    return "prune_low_magnitude"


@deployed_weights.register
def _(layer: PruneLowMagnitude) -> list[DeployedWeight]:
    deployed = []
    names = wrapped_weights(layer.layer)
    for name, (variable, mask, _) in zip(names, layer.pruning_vars, strict=True):
        keep = raw_variable(mask).numpy() != 0
        value = np.where(keep, raw_variable(variable).numpy(), 0)
        deployed.append(DeployedWeight(name, value, keep, variable))
    return deployed


@added_variables.register
def _(layer: PruneLowMagnitude) -> list[tf.Variable]:
    masks_and_thresholds = [
        v for variables in layer.pruning_vars for v in variables[1:]
    ]
    return [*masks_and_thresholds, layer.pruning_step]


def wrapped_weights(layer: keras.layers.Layer) -> list[str]:
    """Dotted names of the weights that TF-MOT's wrapper masks in a layer."""
    if isinstance(layer, keras.layers.MultiHeadAttention):
        return list(PruneRegistry._LAYERS_WEIGHTS_MAP[keras.layers.MultiHeadAttention])
    return sparsifiable_weights(layer)
