"""Layers and models that hold sparse layers, as Keras saves and loads them.

Keras makes a layer again from its class and its configuration. The class of a
container (MultiHeadAttention, a custom layer, a subclassed model) makes plain layers
in itself. So in a sparse model a container has a class of its own, which derives from
the plain one, notes in its configuration which technique each layer has, and makes
the layers sparse again, be it at once or when the plain class comes to make them.
"""

import contextlib
import functools
import importlib

from state_of_sparsity.engines.tf_keras.backend import (
    attention_shapes,
    build_attention,
    has_own_build,
    is_functional,
    keras,
    register_layer,
    replaced_attributes,
    saves_its_layers,
)
from state_of_sparsity.engines.tf_keras.copying import (
    FUNCTIONS,
    Copier,
    held_layers,
    join,
    layers_in,
    own_attributes,
)
from state_of_sparsity.engines.tf_keras.families import is_sparse
from state_of_sparsity.engines.tf_keras.sparse_layers import sparse_layer
from state_of_sparsity.techniques.saving import restored_technique, saved_technique


@register_layer
class SparseContainer:
    """Put before the class of a container, keeps what it holds sparse.

    Attributes:
      plain_class: the class of the container in a dense model.
      restoration: of its sparse layers; None but from loading to the first call.
    """

    plain_class: type[keras.layers.Layer] | None = None
    restoration: "_Restoration | None" = None

    def get_config(self):
        cls, plain_config = self.plain_class, super().get_config
        # Keras looks whether `get_config` is its own, and then knows another way.
        with replaced_attributes(self, {"get_config": plain_config}):
            config = plain_config()
        return {
            "name": self.name,
            "plain": {
                "registered_name": keras.utils.get_registered_name(cls),
                "module": cls.__module__,
                "name": cls.__name__,
                "config": config,
            },
            "layers": {
                path: saved
                for path, layer in _layers_within(self)
                if (saved := _saved(layer))
            },
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        with keras.utils.custom_object_scope(custom_objects or {}):
            plain_class = cls.plain_class or _class_of(config["plain"])
            container = plain_class.from_config(dict(config["plain"]["config"]))
        return _Restoration(config["layers"]).restored(container, "")

    def __setattr__(self, name, value):
        if self.restoration is not None:
            value = self.restoration.restored(value, name)
        super().__setattr__(name, value)

    def __call__(self, *args, **kwargs):
        outputs = super().__call__(*args, **kwargs)
        if self.restoration is not None:
            self._end_restoration()
        return outputs

    def _end_restoration(self):
        """Raises if the container still has plain layers where it had sparse ones."""
        inner = [x for _, x in _layers_within(self) if isinstance(x, SparseContainer)]
        for container in (self, *inner):
            if container.restoration is None:
                continue
            if container.restoration.awaited:
                raise ValueError(
                    f"{container.plain_class.__name__} {container.name!r} was saved "
                    f"with sparse layers at {sorted(container.restoration.awaited)}, "
                    "and has not made them there in its __init__ or build. Make them "
                    "so, or build the model, call sos.sparsify, and load its weights."
                )
            vars(container).pop("restoration").check(container)


@functools.cache
def container_class(cls: type[keras.layers.Layer]) -> type[keras.layers.Layer]:
    """The class of containers of sparse layers that derives from a plain class."""
    if issubclass(cls, SparseContainer):
        return cls
    members = {"plain_class": cls}
    if has_own_build(cls):
        members["build"] = _build
    # All go by the name of this one, which is registered: a process that loads a model
    # has not made the class yet.
    return type(SparseContainer.__name__, (SparseContainer, cls), members)


def _build(self, input_shape):
    """Builds a container, and makes sparse what it has put into lists."""
    self.plain_class.build(self, input_shape)
    if self.restoration is None:
        return
    attributes = [(n, v) for n, v in own_attributes(self) if any(layers_in(v, n))]
    values = {
        name: self.restoration.restored(value, name) for name, value in attributes
    }
    if all(values[name] is value for name, value in attributes):
        return
    # All of them anew, since Keras orders weights by when an attribute was set.
    for name in values:
        delattr(self, name)
    for name, value in values.items():
        setattr(self, name, value)


def is_container_of(layer: keras.layers.Layer, wanted) -> bool:
    """Whether Keras makes a layer by itself that holds layers that are `wanted`.

    Args:
      layer: any layer.
      wanted: `wanted(layer)` for a layer at any depth.
    """
    return makes_its_layers(layer) and any(
        wanted(inner) for _, inner in _layers_within(layer)
    )


def makes_its_layers(layer: keras.layers.Layer) -> bool:
    """Whether the class of a layer makes the layers inside of it.

    Sequential and functional models are saved with the layers in them, unless their
    class has a constructor or a configuration of its own.
    """
    return not (is_functional(layer) and saves_its_layers(layer))


def _layers_within(layer, path="", seen=None):
    """Pairs of a path and a layer, for all layers at any depth, each layer once."""
    seen = {id(layer)} if seen is None else seen
    if is_sparse(layer):
        return
    for key, inner in held_layers(layer):
        if id(inner) not in seen:
            seen.add(id(inner))
            inner_path = join(path, key)
            yield inner_path, inner
            yield from _layers_within(inner, inner_path, seen)


def _saved(layer):
    """What a layer inside of a container needs to be what it was, if anything."""
    if is_sparse(layer):
        return saved_technique(layer.technique, index=getattr(layer, "index", 0))
    # Attention makes its projections at its first call. If a custom layer has made the
    # attention, that is too late for the values of a SavedModel.
    if isinstance(layer, keras.layers.MultiHeadAttention):
        return attention_shapes(layer)
    return None


def _class_of(plain):
    cls = keras.utils.get_registered_object(plain["registered_name"])
    if cls is None:
        with contextlib.suppress(ModuleNotFoundError):
            cls = getattr(importlib.import_module(plain["module"]), plain["name"], None)
    if cls is None:
        raise ValueError(
            f"Unknown class {plain['registered_name']!r}: import the module that "
            "registers it with keras.utils.register_keras_serializable, or give it to "
            "load_model in custom_objects."
        )
    return cls


class _Restoration:
    """Makes layers of a container sparse again as they come up.

    Args:
      saved: `{path: what _saved said of the layer there}`.

    Attributes:
      awaited: what is left of that, for layers that have not come up yet.
    """

    def __init__(self, saved):
        self.awaited = dict(saved)
        self._copier = Copier(self._replace)

    def restored(self, value, path):
        """What to set an attribute of the container to, or the container at path ""."""
        if isinstance(value, FUNCTIONS) or any(
            place in self.awaited
            or self._below(place)
            or self._copier.has_replaced(layer)
            for place, layer in layers_in(value, path)
        ):
            return self._copier.value(value, path)
        return value

    def check(self, container):
        """Raises if a function in a container has a plain layer that is sparse now."""
        for name, value in own_attributes(container):
            self._copier.check_originals(container, f"attribute {name!r}", value)

    def _below(self, path):
        """The paths awaited within a layer."""
        return [p for p in self.awaited if not path or p.startswith(join(path, ""))]

    def _replace(self, layer, path, copy):
        saved = self.awaited.pop(path, None)
        if isinstance(layer, keras.layers.MultiHeadAttention):
            if saved:
                build_attention(layer, saved)
        elif saved:
            # What a wrapper such as TimeDistributed holds is in its configuration.
            if is_sparse(layer):
                return layer
            technique = restored_technique(saved)
            return sparse_layer(technique, layer, copy, saved["index"])
        if isinstance(layer, SparseContainer):
            # Was itself in a configuration, and looks after its layers.
            for inner_path in self._below(path):
                del self.awaited[inner_path]
        shares = any(self._copier.has_replaced(x) for _, x in _layers_within(layer))
        if not self._below(path) and not shares:
            return layer
        return self._container(layer, path, copy) if makes_its_layers(layer) else None

    def _container(self, layer, path, copy):
        container = copy(layer, container_class(type(layer)))
        left = {
            inner_path.removeprefix(join(path, "")): self.awaited.pop(inner_path)
            for inner_path in self._below(path)
        }
        # Not an attribute to Keras, which would save it.
        vars(container)["restoration"] = _Restoration(left)
        return container
