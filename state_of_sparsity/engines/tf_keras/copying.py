"""Copies of models in which other layers stand in for some.

Keras can clone a functional model from the configurations of its layers, but no
subclassed model, and no layer whose configuration does not say everything (an
activation that is not registered, a custom layer without `get_config`). Here a
layer is copied attribute by attribute instead: its variables and the layers inside of
it are new; everything else is shared, and so are metrics and preprocessing layers.
"""

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any

from state_of_sparsity.engines.tf_keras.backend import (
    KerasTensor,
    carry_settings,
    copy_variable,
    forget_layers,
    fresh_layer,
    give_class,
    graph_tensors,
    is_functional,
    is_operator,
    is_preprocessing,
    keras,
    loss_functions,
    plain_clone,
    tf,
    tracked_names,
    weight_lists,
)

Replace = Callable[[keras.layers.Layer, str, Callable], keras.layers.Layer | None]


def converted(value: keras.layers.Layer, replace: Replace) -> keras.layers.Layer:
    """A copy of a model or a layer with variables of its own.

    Args:
      value: a built Sequential, functional or subclassed model, or a layer; models and
        layers inside of it are copied the same way.
      replace: called as `replace(layer, path, copy)` for every layer before it is
        copied, the outermost first. It returns the layer to stand in its place, or
        None for a plain copy. `path` says where the layer is held: attributes, keys of
        dictionaries, positions in lists and in functional models, joined by slashes.
        `copy(layer, cls=None, without=())` makes a copy of a layer, of another class
        if given, without the attributes named: not their values, nor, if one is a
        method, the loss that it computes.

    Returns:
      A model that is not compiled, or a layer.
    """
    return Copier(replace).value(value, "")


def held_layers(layer: keras.layers.Layer) -> Iterator[tuple[str, keras.layers.Layer]]:
    """The layers that one holds itself, by path, whether Keras tracks them or not."""
    if is_functional(layer):
        for position, inner in enumerate(layer.layers):
            yield str(position), inner
    for name, value in own_attributes(layer):
        yield from layers_in(value, name)


def own_attributes(layer: keras.layers.Layer) -> list[tuple[str, Any]]:
    """Names and values of the attributes that a layer does not have from Keras."""
    if is_functional(layer):
        from_keras = _keras_attributes_of_graphs()
    else:
        from_keras = _keras_attributes(isinstance(layer, keras.Model))
    return [
        (name, value)
        for name, value in vars(layer).items()
        # Saving a SavedModel leaves methods of a layer among its attributes.
        if name not in from_keras and not _is_method_of(layer, name, value)
    ]


def layers_in(value: Any, path: str) -> Iterator[tuple[str, keras.layers.Layer]]:
    """The layers in the value of an attribute of that name, by path."""
    if isinstance(value, keras.metrics.Metric):
        return
    if isinstance(value, keras.layers.Layer):
        yield path, value
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            yield from layers_in(item, join(path, str(position)))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from layers_in(item, join(path, _escaped(key)))


class Copier:
    """Copies everything once, however often it is used.

    Args:
      replace: as of `converted`.
    """

    def __init__(self, replace: Replace):
        self._replace = replace
        self._copies: dict[int, Any] = {}
        # Keeps what was copied alive, so that no `id` is used twice.
        self._originals: list[Any] = []

    def layer(self, layer, path):
        """The layer that stands in the copy where `layer` stands in the original."""
        if id(layer) not in self._copies:
            copy = functools.partial(self.copy, path=path)
            replacement = self._replace(layer, path, copy)
            self._remember(layer, copy(layer) if replacement is None else replacement)
        return self._copies[id(layer)]

    def copy(self, layer, cls=None, without=(), *, path):
        if is_functional(layer):
            return self._copy_graph(layer, cls or type(layer), without, path)
        if is_operator(layer):
            return type(layer).from_config(layer.get_config())
        if is_preprocessing(layer):
            # What it has adapted to is in tables, too.
            return layer
        return self._copy_attributes(layer, cls or type(layer), without, path)

    def _copy_graph(self, model, cls, without, path):
        positions = {id(inner): str(i) for i, inner in enumerate(model.layers)}
        new = plain_clone(
            model,
            lambda inner: self.layer(inner, join(path, positions[id(inner)])),
        )
        self._remember(model, new)
        pairs = [
            (x, self._copies[id(x)]) for x in model.layers if id(x) in self._copies
        ]
        for old, copied in graph_tensors(model, new, pairs):
            self._remember(old, copied)
        self._check_symbols(model)
        give_class(new, model, cls)
        carry_settings(model, new)
        # Attributes bring layers that are in no call, and those after them in order.
        held = {id(x) for _, v in own_attributes(model) for _, x in layers_in(v, "")}
        forget_layers(new, [copied for x, copied in pairs if id(x) in held])
        self._copy_own(model, new, without, path)
        return new

    def _check_symbols(self, model):
        for name, value in own_attributes(model):
            for held in tf.nest.flatten(value):
                if isinstance(held, KerasTensor) and id(held) not in self._copies:
                    raise ValueError(
                        f"Model {model.name!r} cannot be copied: its attribute "
                        f"{name!r} holds a symbolic tensor that is not in its graph. "
                        "Delete the attribute, or hold a model that gives the tensor. "
                        f"Received: {held}"
                    )

    def _copy_attributes(self, layer, cls, without, path):
        new = fresh_layer(layer, cls)
        # Before its parts, which may refer back to it.
        self._remember(layer, new)
        carry_settings(layer, new)
        self._copy_own(layer, new, without, path)
        return new

    def _copy_own(self, layer, new, without, path):
        """Copies what a layer has of its own: weights, losses, attributes."""
        left_out = [getattr(layer, name) for name in without if hasattr(layer, name)]
        for held, copies in zip(weight_lists(layer), weight_lists(new), strict=True):
            kept = (v for v in held if not _is_one_of(v, left_out))
            # Some are lookup tables, which copies share.
            copies.extend(self.value(v, path) for v in kept)
        tracked = tracked_names(layer)
        for name, value in own_attributes(layer):
            # TF-MOT hangs this on a layer; it refers to the layer's own variables.
            if name in (*without, "get_prunable_weights"):
                continue
            copied = self.value(value, join(path, name))
            if name in tracked:
                setattr(new, name, copied)
            else:
                # Keras must not track in the copy what it does not in the original.
                vars(new)[name] = copied
        for loss in loss_functions(layer):
            if not _is_one_of(_innermost(loss), left_out):
                loss_functions(new).append(self._loss(loss, path))

    def _loss(self, loss, path):
        """A function of the copy: a loss that is a closure holds the layer in it."""
        if isinstance(loss, functools.partial):
            arguments = [self._loss(argument, path) for argument in loss.args]
            keywords = {name: self.value(v, path) for name, v in loss.keywords.items()}
            return functools.partial(
                self._loss(loss.func, path), *arguments, **keywords
            )
        if not getattr(loss, "__closure__", None) or not inspect.isfunction(loss):
            return self.value(loss, path)
        cells = [cell.cell_contents for cell in loss.__closure__]
        known = [self._copies.get(id(value), value) for value in cells]
        if all(new is old for new, old in zip(known, cells, strict=True)):
            return loss
        new = types.FunctionType(
            loss.__code__,
            loss.__globals__,
            loss.__name__,
            loss.__defaults__,
            tuple(map(types.CellType, known)),
        )
        new.__kwdefaults__ = loss.__kwdefaults__
        return new

    def has_replaced(self, layer: keras.layers.Layer) -> bool:
        """Whether another layer stands for this one already."""
        return self._copies.get(id(layer), layer) is not layer

    def value(self, value, path):
        """What stands in the copy for the value of the attribute at a path.

        Lists, tuples and dictionaries come back with copies in place of layers.
        """
        if isinstance(value, keras.metrics.Metric):
            return value
        if isinstance(value, keras.layers.Layer):
            return self.layer(value, path)
        if isinstance(value, tf.Variable):
            return self._variable(value)
        if isinstance(value, KerasTensor):
            return self._copies.get(id(value), value)
        if isinstance(value, list):
            return self._items(value, path)
        if isinstance(value, dict):
            return {
                key: self.value(v, join(path, _escaped(key)))
                for key, v in value.items()
            }
        if isinstance(value, tuple):
            items = self._items(value, path)
            return value._make(items) if hasattr(value, "_make") else tuple(items)
        if isinstance(value, functools.partial):
            arguments = self._items(value.args, path)
            keywords = {name: self.value(v, path) for name, v in value.keywords.items()}
            return functools.partial(value.func, *arguments, **keywords)
        if isinstance(value, types.MethodType) and id(value.__self__) in self._copies:
            return types.MethodType(value.__func__, self._copies[id(value.__self__)])
        return value

    def _items(self, items, path):
        return [self.value(item, join(path, str(i))) for i, item in enumerate(items)]

    def _variable(self, variable):
        if id(variable) not in self._copies:
            self._remember(variable, copy_variable(variable))
        return self._copies[id(variable)]

    def _remember(self, original, copy):
        self._originals.append(original)
        self._copies[id(original)] = copy


def _is_one_of(value, values):
    """Membership by identity; a method is made anew whenever it is looked up."""
    if isinstance(value, types.MethodType):
        return any(isinstance(v, types.MethodType) and v == value for v in values)
    return any(v is value for v in values)


def _innermost(function):
    """The function within those that Keras wraps around a loss."""
    while isinstance(function, functools.partial):
        function = function.args[0] if function.args else function.func
    return function


def join(path: str, name: str) -> str:
    """The path of a layer from that of the layer around it."""
    return f"{path}/{name}" if path else name


def _escaped(key):
    """The key of a dictionary as part of a path."""
    return str(key).replace("~", "~0").replace("/", "~1")


def _is_method_of(layer, name, value):
    return (
        isinstance(value, types.MethodType)
        and value.__self__ is layer
        and hasattr(type(layer), name)
    )


@functools.cache
def _keras_attributes_of_graphs():
    """Names of the attributes that Sequential and functional models have from Keras."""
    inputs = keras.Input((1,), name="inputs")
    functional = keras.Model(inputs, inputs, name="functional")
    sequential = keras.Sequential([inputs], name="sequential")
    for model in (functional, sequential):
        # Some come with `compile` and `fit`.
        model.compile()
    return frozenset(vars(functional)) | frozenset(vars(sequential)) | {"history"}


@functools.cache
def _keras_attributes(of_model):
    """Names of the attributes that layers or models have from Keras."""
    if not of_model:
        layer = keras.layers.Layer()
        # Some come with the first thing that is tracked.
        layer.inner = keras.layers.Layer()
        return frozenset(vars(layer)) - {"inner"}
    model = keras.Sequential()
    # Some come with `compile` and `fit`.
    model.compile()
    return frozenset(vars(model)) | {"history"}
