"""Models without the channels that are masked for good."""

import copy
import functools
import warnings
from typing import ClassVar

import keras
import numpy as np
from keras import ops

from state_of_sparsity.engines.keras3 import private
from state_of_sparsity.engines.keras3.containers import makes_its_layers
from state_of_sparsity.engines.keras3.copying import Copier
from state_of_sparsity.engines.keras3.dependencies import Dependencies
from state_of_sparsity.engines.keras3.following import (
    DEPTHWISE,
    PRODUCTS,
    Follower,
    of_kind,
)
from state_of_sparsity.engines.keras3.layers import Sparse
from state_of_sparsity.engines.keras3.stripping import added_variables
from state_of_sparsity.engines.recording import is_kind


def shrink(model: keras.Model) -> keras.Model:
    """See `state_of_sparsity.shrinking.shrink`."""
    graph = private.functional_of(model)
    if graph is None:
        raise ValueError(
            f"Model {model.name!r} is subclassed, so that nothing says how its layers "
            "are connected: build it as a functional model, keras.Model(inputs, "
            "outputs), of the same layers, and shrink that."
        )
    dependencies = followed(graph)
    values, left = dependencies.shrunk()
    for layer in private.all_layers(model):
        kernel = getattr(layer, "kernel", None)
        if isinstance(kernel, keras.Variable) and not dependencies.holds(kernel):
            value = private.to_numpy(kernel)
            axes = range(value.ndim)
            # Heads, of a kernel with three axes, are not along the last one.
            alive = [value.any(axis=(*{*axes} - {i},)).all() for i in axes[1:]]
            if not all(alive):
                reason = f"{type(layer).__name__} is not followed, or not where it is"
                left[reason].append(layer.path or layer.name)
    if left:
        texts = (f"{', '.join(names)} ({reason})" for reason, names in left.items())
        warnings.warn(
            f"Masked channels of these layers stay: {'; '.join(texts)}.", stacklevel=4
        )
    return resized(model, values)


def followed(graph) -> Dependencies:
    """What the channels of a functional model depend on."""
    follower = Follower()
    follower.pin(follower.follow(graph, {}), "the model returns them")
    return follower.dependencies


def resized(layer: keras.layers.Layer, values: dict[int, np.ndarray]):
    """A copy of a model or layer that has other values, of other shapes, in it.

    Args:
      layer: a plain one.
      values: by the `id` of the variable.
    """
    copier = Copier(values=values)
    with private.scope_of(layer):
        new = copier.copy(layer)
    changed = {id(copier.copies[i]) for i in values}
    for inner in private.all_layers(new):
        if not any(id(v) in changed for v in inner.weights):
            continue
        _fit(inner)
        is_attention = isinstance(inner, keras.layers.MultiHeadAttention)
        if makes_its_layers(inner) and private.children(inner) and not is_attention:
            make_smaller(inner)
        else:
            private.forget_build(inner)
    graph = private.functional_of(new)
    if graph is not None:
        private.infer_shapes(graph)
    private.list_parameters(new)
    return new


def _fit(layer):
    """Has the arguments of a layer say what its weights are."""
    if isinstance(layer, keras.layers.MultiHeadAttention):
        private.fit_attention(layer)
        if is_kind(layer, "CachedMultiHeadAttention"):
            private.give_class(layer, _with_padded_cache(type(layer)))
            private.refresh_signature(layer)
    inputs = None
    if product := of_kind(layer, PRODUCTS):
        name, rows, columns = product
        kernel = getattr(layer, name)
        is_dense = isinstance(layer, keras.layers.Dense)
        setattr(layer, "units" if is_dense else "filters", kernel.shape[columns])
        inputs = kernel.shape[rows]
    if each := of_kind(layer, DEPTHWISE):
        inputs = getattr(layer, each).shape[-2]
    if isinstance(layer, keras.layers.BatchNormalization):
        inputs = layer.moving_mean.shape[0]
    if inputs is not None:
        # The copy shares what it had.
        layer.input_spec = copy.copy(layer.input_spec)
        layer.input_spec.axes = dict.fromkeys(layer.input_spec.axes, inputs)


@functools.cache
def _with_padded_cache(cls):
    """Attention of KerasHub with fewer heads than its cache, made for all layers."""

    @functools.wraps(cls.call)
    def call(self, *args, cache=None, **kwargs):
        if cache is None:
            return super(padded, self).call(*args, **kwargs)
        own, rest = ops.split(cache, [self.num_heads], axis=-2)
        *outputs, own = super(padded, self).call(*args, cache=own, **kwargs)
        return *outputs, ops.concatenate([own, rest], axis=-2)

    if hasattr(cls, "with_padded_cache"):
        return cls
    members = {"call": call, "with_padded_cache": True, "__module__": __name__}
    padded = private.derived_class(cls.__name__, (cls,), members)
    return padded


_register = keras.saving.register_keras_serializable("state_of_sparsity", "Smaller")


@_register
class Smaller:
    """Put before the class of what makes its layers, some of which are smaller now.

    Its configuration is that of the layer it was, and the shapes of the weights.

    Attributes:
      larger_class: that of the layer it was.
    """

    larger_class: ClassVar[type[keras.layers.Layer]]

    def get_config(self):
        larger = private.described(self, self.larger_class)
        return {
            "name": self.name,
            "larger": larger | {"build_config": self.get_build_config()},
            "shapes": [list(variable.shape) for variable in _plain_weights(self)],
        }

    @classmethod
    def from_config(cls, config):
        larger = keras.saving.deserialize_keras_object(config["larger"])
        pairs = zip(_plain_weights(larger), config["shapes"], strict=True)
        values = {
            id(v): np.zeros(shape, "float32")
            for v, shape in pairs
            if [*shape] != [*v.shape]
        }
        # What is inside may be all that is smaller, and sparse again.
        layer = resized(larger, values) if values else larger
        make_smaller(layer)
        return layer


def _plain_weights(layer):
    """Without what is added to the sparse layers inside."""
    sparse = [x for x in private.all_layers(layer) if isinstance(x, Sparse)]
    added = {id(v) for x in sparse for v in added_variables(x).values()}
    return [variable for variable in layer.weights if id(variable) not in added]


def _no_preset(self, *args, **kwargs):
    del args, kwargs
    raise ValueError(
        "KerasHub loads a preset by the name of a class, and all models of fewer units "
        f"are saved by one name: save {self.name!r} as a .keras file, which loads "
        "where state_of_sparsity is imported."
    )


def make_smaller(layer: keras.layers.Layer) -> None:
    """Has a layer that makes its layers saved with the sizes that they have."""
    if not isinstance(layer, Smaller):
        private.give_class(layer, _smaller_class(type(layer)))


@functools.cache
def _smaller_class(cls):
    members = {"larger_class": cls, "__module__": __name__}
    if hasattr(cls, "save_to_preset"):
        members["save_to_preset"] = _no_preset
    return _register(private.derived_class(cls.__name__, (Smaller, cls), members))
