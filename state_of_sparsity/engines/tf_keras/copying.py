"""Copies of models in which other layers stand in for some.

Keras can clone a functional model from the configurations of its layers, but no
subclassed model, and no layer whose configuration does not say everything (an
activation that is not registered, a custom layer without `get_config`). Here a
layer is copied attribute by attribute instead: its variables and the layers inside of
it are new, and so are functions that hold some of these; everything else is shared, and
so are metrics and preprocessing layers.
"""

import copy
import functools
import types
import weakref
from collections.abc import Callable, Collection, Iterator
from typing import Any

from state_of_sparsity.engines.functions import reached, rebound
from state_of_sparsity.engines.tf_keras.backend import (
    KerasTensor,
    QuantizedActivation,
    TracedFunction,
    all_layers,
    call_arguments,
    carry_settings,
    copy_variable,
    forget_layers,
    fresh_layer,
    give_class,
    graph_tensors,
    holder_of,
    is_functional,
    is_operator,
    is_preprocessing,
    keras,
    loss_functions,
    module_variables,
    plain_clone,
    tf,
    traced_anew,
    tracked_names,
    weight_lists,
)

Replace = Callable[[keras.layers.Layer, str, Callable], keras.layers.Layer | None]

FUNCTIONS = (
    types.FunctionType,
    types.MethodType,
    functools.partial,
    weakref.ref,
    TracedFunction,
)
# Layers are copied or shared; the others compute nothing for the model.
_CLOSED = (keras.layers.Layer, keras.optimizers.Optimizer, keras.callbacks.Callback)


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

    Raises:
      ValueError: for a layer that holds parts of the model where they are not copied,
        so that the copy would compute with those of the original.
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


def layers_in(
    value: Any, path: str, kind: type = keras.layers.Layer
) -> Iterator[tuple[str, Any]]:
    """The layers, or other things, in the value of an attribute, by path."""
    if isinstance(value, keras.metrics.Metric):
        return
    if isinstance(value, kind):
        yield path, value
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            yield from layers_in(item, join(path, str(position)), kind)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from layers_in(item, join(path, _escaped(key)), kind)


def held_part(layer: keras.layers.Layer, ids: Collection[int]) -> Any | None:
    """What a layer holds of things with these `id`s, by an attribute or a function."""
    values = [value for _, value in own_attributes(layer)]
    values += [loss_functions(layer), call_arguments(layer)]
    return reached(values, lambda value: id(value) in ids, _CLOSED)


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
        # The layers and variables of the original, and where they are held.
        self._parts: dict[int, tuple[Any, str]] = {}
        self._graphs: set[int] = set()

    def layer(self, layer, path):
        """The layer that stands in the copy where `layer` stands in the original."""
        self._note_parts(layer, path)
        if id(layer) not in self._copies:
            _, path = self._parts.get(id(layer), (layer, path))
            copy = functools.partial(self.copy, path=path)
            replacement = self._replace(layer, path, copy)
            self._remember(layer, copy(layer) if replacement is None else replacement)
        return self._copies[id(layer)]

    def _note_parts(self, layer, path):
        if id(layer) in self._parts or is_preprocessing(layer):
            return
        self._parts[id(layer)] = layer, path
        attributes = dict(own_attributes(layer))
        found = (v for _, v in layers_in(attributes, path, tf.Variable))
        for held in (*found, *weight_lists(layer), module_variables(layer)):
            self._parts |= {id(v): (v, path) for v in tf.nest.flatten(held)}
        for key, inner in held_layers(layer):
            self._note_parts(inner, join(path, key))

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
        if id(model) in self._graphs:
            raise ValueError(
                f"Model {model.name!r} cannot be copied: a function in one of its "
                "layers uses the model itself."
            )
        self._graphs.add(id(model))
        positions = {id(inner): str(i) for i, inner in enumerate(model.layers)}
        new = plain_clone(
            model,
            lambda inner: self.layer(inner, join(path, positions[id(inner)])),
            self._part,
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
            self.check_originals(layer, f"attribute {name!r}", copied)
            if name in tracked:
                setattr(new, name, copied)
            else:
                # Keras must not track in the copy what it does not in the original.
                vars(new)[name] = copied
        for loss in loss_functions(layer):
            if not _is_one_of(_innermost(loss), left_out):
                loss_functions(new).append(self.value(loss, path))
        calls = [vars(base).get("call") for base in type(layer).__mro__]
        functions = (calls, loss_functions(new), layer.activity_regularizer)
        self.check_originals(layer, "call or one of its losses", functions)

    def check_originals(self, layer, place, value):
        """Raises if a value in the copy of a layer holds a part of the original."""
        part = reached([value], self._is_original, _CLOSED)
        if part is not None:
            raise ValueError(
                f"{type(layer).__name__} {layer.name!r} cannot be copied: its {place} "
                f"uses {getattr(part, 'name', part)!r} of the model, and the copy "
                "would compute with that of the original. Hold it in an attribute of "
                "the layer, in a list, tuple or dictionary there, or in a function of "
                "these; let an object that holds it be a keras.layers.Layer."
            )

    def _is_original(self, value):
        if isinstance(value, TracedFunction):
            function = value.python_function
            return reached([function], self._is_original, _CLOSED) is not None
        return self._part(value) is not value

    def _part(self, value):
        """The copy of a part of the original, or of a function; anything else as it is.

        A layer around a part is one as well: a model that gives features of another.
        """
        if id(value) in self._copies:
            return self._copies[id(value)]
        if isinstance(value, TracedFunction):
            return self._traced(value)
        _, path = self._parts.get(id(value), (value, None))
        if path is None and isinstance(value, keras.layers.Layer):
            holds = any(id(inner) in self._parts for inner in all_layers(value))
            path = "~" if holds else None
        return value if path is None else self.value(value, path)

    def _traced(self, function):
        holder, inner = holder_of(function), function.python_function
        if self._part(holder) is not holder:
            method = getattr(self._part(holder), inner.__name__)
            self._remember(function, method)
        elif (bound := self._function(inner)) is not inner:
            self._remember(function, traced_anew(function, bound))
        return self._copies.get(id(function), function)

    def _function(self, function):
        return rebound(function, self._part, _CLOSED)

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
        if isinstance(value, FUNCTIONS):
            return self._function(value)
        if isinstance(value, QuantizedActivation):
            return self._quantized(value, path)
        return value

    def _quantized(self, activation, path):
        if id(activation) not in self._copies:
            self._remember(activation, copy.copy(activation))
            attributes = self.value(vars(activation), path)
            vars(self._copies[id(activation)]).update(attributes)
        return self._copies[id(activation)]

    def _items(self, items, path):
        return [self.value(item, join(path, str(i))) for i, item in enumerate(items)]

    def _variable(self, variable):
        if id(variable) not in self._copies:
            self._remember(variable, copy_variable(variable))
        return self._copies[id(variable)]

    def _remember(self, original, copy):
        self._originals.append(original)
        # A copy stands for itself, wherever it comes up.
        self._copies |= {id(original): copy, id(copy): copy}


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
