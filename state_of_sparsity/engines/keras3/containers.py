"""Layers and models that make the layers inside of them, as Keras saves and loads them.

Keras makes a layer again from its class and its configuration. The class of a
container (MultiHeadAttention, a custom layer, a subclassed model) makes plain layers in
itself. So in a sparse model a container has a class of its own, which notes in its
configuration what is sparse in it, and makes it so again: at once, or as soon as the
plain class has built it.
"""

import contextlib
import functools
import inspect
from typing import ClassVar

import keras

from state_of_sparsity.engines.foreign import foreign_class
from state_of_sparsity.engines.handmade import KINDS
from state_of_sparsity.engines.keras3 import adapters, private
from state_of_sparsity.engines.keras3.layers import Sparse, make_sparse
from state_of_sparsity.techniques.saving import restored_technique, saved_technique

# Of all by one name: a process that loads a model has not made the class yet.
_register = keras.saving.register_keras_serializable("state_of_sparsity", "Container")


@_register
class SparseContainer:
    """Put before the class of a container, keeps what it holds sparse.

    Attributes:
      plain_class: of the container in a dense model.
    """

    plain_class: ClassVar[type[keras.layers.Layer]]

    def call(self, *args, training=None, **kwargs):
        if "training" in private.call_parameters(self.plain_class):
            kwargs["training"] = training
        with private.entry_call(self, training):
            return super().call(*args, **kwargs)

    def get_config(self):
        return {
            "name": self.name,
            "plain": private.described(self, self.plain_class),
            "sparse": {
                place: saved_technique(
                    layer.technique, index=layer.index, **adapters.saved(layer)
                )
                for place, layer in _places(self)
                if isinstance(layer, Sparse)
            },
        }

    @classmethod
    def from_config(cls, config):
        # KerasHub adds arguments of the plain class, such as `dtype`, to those saved.
        further = {
            key: config[key] for key in config.keys() - {"name", "plain", "sparse"}
        }
        plain = {**config["plain"], "config": config["plain"]["config"] | further}
        container = keras.saving.deserialize_keras_object(plain)
        make_container(container)
        _restore(container, dict(config["sparse"]))
        return container


def make_container(layer: keras.layers.Layer) -> None:
    """Gives a layer that holds sparse ones, or will, the class of a container."""
    if not isinstance(layer, SparseContainer):
        private.give_class(layer, container_class(type(layer)))
        private.refresh_signature(layer)


@functools.cache
def container_class(plain_class: type[keras.layers.Layer]) -> type[SparseContainer]:
    """The class of containers of sparse layers that derives from a plain class."""
    members = {"plain_class": plain_class, "__module__": __name__}
    name = plain_class.__name__
    if not hasattr(plain_class, "save_to_preset"):
        bases = SparseContainer, plain_class
        return _register(private.derived_class(name, bases, members))
    if inspect.isclass(of_backbone := getattr(plain_class, "backbone_cls", None)):
        members["backbone_cls"] = container_class(of_backbone)
    bases = _SparsePreset, SparseContainer, plain_class
    made = private.derived_class(name, bases, members)
    return _register(_register_alone(made))


class _SparsePreset:
    """Put before the class of a model of KerasHub, which has presets.

    `from_preset` asks whether the class of the name in a preset derives from its own,
    so that this name cannot be that of all containers.
    """

    def get_config(self):
        config = super().get_config()
        of_plain = config["plain"]["config"]
        # KerasHub looks for it there, and changes its arguments.
        return config | {k: of_plain.pop(k) for k in ("backbone",) if k in of_plain}

    def save_to_preset(self, *args, **kwargs):
        _register_alone(type(self))
        try:
            super().save_to_preset(*args, **kwargs)
        finally:
            _register(type(self))


def _register_alone(made):
    """Has a class of containers saved by a name of its own, from now on."""
    name = f"Container of {keras.saving.get_registered_name(made.plain_class)}"
    return keras.saving.register_keras_serializable("state_of_sparsity", name)(made)


def makes_its_layers(layer: keras.layers.Layer) -> bool:
    """Whether the class of a layer makes the layers inside of it.

    Sequential and functional models are saved with the layers in them.
    """
    return type(layer) not in (keras.Sequential, keras.Model, private.Functional)


def _places(layer, place="", seen=None):
    """Layers at any depth by positions among their siblings, each layer once."""
    seen = {id(layer)} if seen is None else seen
    if isinstance(layer, Sparse):
        return
    for position, inner in enumerate(private.children(layer)):
        if id(inner) not in seen:
            seen.add(id(inner))
            inner_place = f"{place}/{position}" if place else str(position)
            yield inner_place, inner
            yield from _places(inner, inner_place, seen)


def _restore(container, awaited):
    """Makes the awaited layers sparse: those that are there, others once they are."""
    for place, layer in list(_places(container)):
        saved = awaited.pop(place, None)
        if saved is not None and not isinstance(layer, Sparse):
            make_sparse(layer, restored_technique(saved), saved["index"])
            adapters.restore(layer, saved)
    # The innermost first: they make theirs when they are built themselves.
    for place, layer in reversed(list(_places(container))):
        within = [p for p in awaited if p.startswith(f"{place}/")]
        holds_sparse = any(isinstance(inner, Sparse) for _, inner in _places(layer))
        if (holds_sparse or within) and makes_its_layers(layer):
            make_container(layer)
            if not layer.built:
                own = {p.removeprefix(f"{place}/"): awaited.pop(p) for p in within}
                _restore_when_built(layer, own)
    if awaited and not container.built:
        _restore_when_built(container, awaited)
    elif awaited:
        raise ValueError(
            f"{type(container).__name__} {container.name!r} was saved with sparse "
            f"layers at {sorted(awaited)}, and has not made them there in its __init__ "
            "or build. Make them so, or build the model, call sos.sparsify, and load "
            "its weights."
        )


def _restore_when_built(container, awaited):
    plain_build = vars(container)["build"]

    @functools.wraps(plain_build)
    def build(*args, **kwargs):
        plain_build(*args, **kwargs)
        _restore(container, awaited)

    vars(container)["build"] = build


for _class in list(keras.saving.get_custom_objects().values()):
    # What a preset that is loaded next may name.
    is_model = inspect.isclass(_class) and issubclass(_class, keras.Model)
    if is_model and hasattr(_class, "save_to_preset"):
        with contextlib.suppress(ValueError):
            container_class(_class)

_sparse = [f"Sparse{kind}" for kind in (*KINDS, "TiedEmbedding")]
for _name in ("PrunedLayer", "SparseContainer", "TiedEmbedding", *_sparse):
    # As tf_keras names them in its files, with the package and without.
    for _saved in (f"state_of_sparsity>{_name}", _name):
        keras.saving.get_custom_objects()[_saved] = foreign_class(
            _name, "tf_keras", "Keras 3"
        )
