"""Layers and models that hold sparse layers, as Keras saves and loads them.

Keras makes a layer again from its class and its configuration. The class of a
container (MultiHeadAttention, a custom layer, a subclassed model) makes plain layers
in itself. So in a sparse model a container has a class of its own, which derives from
the plain one, notes in its configuration which technique each layer has, and makes
the layers sparse again, be it at once or when the plain class comes to make them.
"""

import functools
import importlib

from state_of_sparsity.backend import (
    attention_shapes,
    build_attention,
    is_functional,
    keras,
    register_layer,
)
from state_of_sparsity.copying import converted, held_layers, join
from state_of_sparsity.techniques.base import restored_technique, saved_technique
from state_of_sparsity.weights import is_sparse

_SEPARATOR = "/"


@register_layer
class SparseContainer:
    """Put before the class of a container, keeps what it holds sparse.

    Attributes:
      plain_class: the class of the container in a dense model.
    """

    plain_class: type[keras.layers.Layer]

    def get_config(self):
        cls = self.plain_class
        return {
            "name": self.name,
            "plain": {
                "registered_name": keras.utils.get_registered_name(cls),
                "module": cls.__module__,
                "name": cls.__name__,
                "config": super().get_config(),
            },
            "layers": {
                path: saved
                for path, layer in _each_once(_layers_within(self))
                if (saved := _saved(layer))
            },
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        plain = config["plain"]
        with keras.utils.custom_object_scope(custom_objects or {}):
            container = _class_of(plain).from_config(dict(plain["config"]))
        return _sparse_again(container, "", dict(config["layers"]))

    def __setattr__(self, name, value):
        awaited = vars(self).get("_awaited_layers")
        if awaited:
            value = _sparse_again(value, name, awaited)
        super().__setattr__(name, value)

    def __call__(self, *args, **kwargs):
        outputs = super().__call__(*args, **kwargs)
        awaited = vars(self).get("_awaited_layers")
        if awaited:
            raise ValueError(
                f"The sparse layers {sorted(awaited)} of {self.plain_class.__name__} "
                f"{self.name!r} cannot be restored, since it does not make them in its "
                "__init__, nor sets them as attributes in build or call. Build the "
                "model, call sos.sparsify, and load its weights instead."
            )
        return outputs


@functools.cache
def container_class(cls: type[keras.layers.Layer]) -> type[keras.layers.Layer]:
    """The class of containers of sparse layers that derives from a plain class."""
    if issubclass(cls, SparseContainer):
        return cls
    # All go by the name of this one, which is registered: a process that loads a model
    # has not made the class yet.
    name = SparseContainer.__name__
    return type(name, (SparseContainer, cls), {"plain_class": cls})


def is_container_of(layer, wanted) -> bool:
    """Whether Keras makes a layer by itself that holds layers that are `wanted`.

    Sequential and functional models tell of the layers in them.

    Args:
      layer: any layer.
      wanted: `wanted(layer)` for a layer at any depth.
    """
    return not is_functional(layer) and any(
        wanted(inner) for _, inner in _layers_within(layer)
    )


def _layers_within(layer, path="", around=()):
    """Pairs of a path and a layer, for all layers at any depth."""
    if is_sparse(layer) or any(layer is outer for outer in around):
        return
    for key, inner in held_layers(layer):
        inner_path = join(path, key)
        yield inner_path, inner
        yield from _layers_within(inner, inner_path, (*around, layer))


def _each_once(places):
    """A layer that is held in several places counts where it comes first."""
    seen = set()
    for path, layer in places:
        if id(layer) not in seen:
            seen.add(id(layer))
            yield path, layer


def _saved(layer):
    """What a layer inside of a container needs, to be what it was."""
    if is_sparse(layer):
        return saved_technique(layer)
    # Made by a custom layer, it makes its own layers in its first call, when values
    # from a SavedModel have been assigned: Keras loses those of dense models so.
    if isinstance(layer, keras.layers.MultiHeadAttention):
        return attention_shapes(layer)
    return None


def _class_of(plain):
    registered = keras.utils.get_registered_object(plain["registered_name"])
    if registered is not None:
        return registered
    module = importlib.import_module(plain["module"])
    cls = getattr(module, plain["name"], None)
    if cls is None:
        raise ValueError(
            f"Unknown class {plain['registered_name']!r}: import the module that "
            "registers it with keras.utils.register_keras_serializable, or give it to "
            "load_model in custom_objects."
        )
    return cls


def _sparse_again(value, path, awaited):
    """A value in which the layers awaited are sparse.

    Args:
      value: a container, or what one of its attributes is set to.
      path: of the value within the container whose attribute it is.
      awaited: `{path: what was saved}` for layers of the container. Those that are
        found, or left to a container within, are taken out.
    """

    def is_within(outer):
        return any(not outer or p.startswith(outer + _SEPARATOR) for p in awaited)

    def replace(layer, path, copy):
        if path in awaited and isinstance(layer, keras.layers.MultiHeadAttention):
            build_attention(layer, awaited.pop(path))
        elif path in awaited:
            saved = awaited.pop(path)
            # A wrapper such as TimeDistributed tells of its layer in its configuration.
            if is_sparse(layer):
                return layer
            return restored_technique(saved).sparse_layer(layer, copy, saved["index"])
        if is_functional(layer) or not is_within(path):
            return None
        container = copy(layer, container_class(type(layer)))
        left = [p for p in awaited if not path or p.startswith(path + _SEPARATOR)]
        vars(container)["_awaited_layers"] = {
            p.removeprefix(path + _SEPARATOR): awaited.pop(p) for p in left
        }
        return container

    if path and path not in awaited and not is_within(path):
        return value
    return converted(value, replace, path)
