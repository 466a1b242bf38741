"""Copies of models, object by object.

Keras clones from configurations, which not every model or layer has, and which give
new names. Here whatever makes up a model (layers, variables, metrics, seeds, and the
nodes and symbolic tensors of its graph) is new, and has the attributes that it had. So
are functions that compute with a part of the model; everything else (initializers,
optimizers, arrays) is shared.
"""

import functools
import types
import weakref
from typing import Any

import keras

from state_of_sparsity.engines.functions import PLAIN, reached, rebound, slots
from state_of_sparsity.engines.keras3 import private
from state_of_sparsity.engines.keras3.layers import ATTRIBUTES, Sparse

_COPIED = (
    keras.Operation,
    keras.Metric,
    keras.KerasTensor,
    keras.random.SeedGenerator,
    *private.PARTS_OF_MODELS,
)

_FUNCTIONS = (types.FunctionType, types.MethodType, functools.partial, weakref.ref)
# Not looked into: layers are copied, and the others compute nothing for a model.
_CLOSED = (*_COPIED, keras.optimizers.Optimizer, keras.callbacks.Callback)


class Copier:
    """Copies everything once, however often it is used.

    Args:
      plain: whether sparse layers, and what holds them, get their plain classes.
      values: other values of variables, of any shape, by the `id` of the original.

    Attributes:
      copies: by the `id` of the original.
    """

    def __init__(self, plain: bool = False, values: dict | None = None):
        self._plain = plain
        self._values = values or {}
        self.copies: dict[int, Any] = {}
        # Keeps what was copied alive, so that no `id` is used twice.
        self._originals: list[Any] = []
        # Nodes and their copies, which have no attributes yet: by way of its nodes a
        # graph is a chain of references, which may be longer than Python's stack.
        self._nodes: list[tuple[Any, Any]] = []
        # The `id` of each layer of the model, and of their variables.
        self._parts: set[int] = set()

    def copy(self, model):
        """The copy of a model.

        Raises:
          ValueError: if it holds something that computes with parts of it, and that
            cannot be copied.
        """
        layers = private.all_layers(model)
        self._parts.update(id(v) for x in layers for v in (x, *x.variables))
        copy = self._copy(model)
        while self._nodes:
            self._fill(*self._nodes.pop())
        return copy

    def _copy(self, value):
        if isinstance(value, PLAIN):
            return value
        if id(value) in self.copies:
            return self.copies[id(value)]
        if isinstance(value, keras.Variable):
            return self._variable(value)
        if isinstance(value, _COPIED):
            return self._object(value)
        if isinstance(value, list | set | dict):
            return self._collection(value)
        if isinstance(value, tuple):
            items = [self._copy(item) for item in value]
            # TensorFlow wraps what it watches.
            cls = type(getattr(value, "__wrapped__", value))
            return cls._make(items) if hasattr(cls, "_make") else cls(items)
        if isinstance(value, _FUNCTIONS):
            value = rebound(value, self._copy_of_part, _CLOSED)
        self._check_parts(value)
        return value

    def _check_parts(self, value, what=None):
        part = reached(value, self._is_part, _CLOSED)
        if part is not None:
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            raise ValueError(
                f"The model holds {what or f'an object of {kind}'} that holds "
                f"{part.name!r} of it, so that a copy of the model would compute with "
                "the original's: hold that in an attribute of a layer, a list or a "
                "dictionary, or reach it by a method of the model."
            )

    def _is_part(self, value):
        return id(value) in self._parts

    def _copy_of_part(self, value):
        return self._copy(value) if id(value) in self._parts else value

    def _remember(self, original, copy):
        self._originals.append(original)
        self.copies[id(original)] = copy
        return copy

    def _variable(self, value):
        new = self._remember(
            value, private.copied_variable(value, self._values.get(id(value)))
        )
        if not self._plain:
            new.regularizer = self._copy(value.regularizer)
            new.constraint = self._copy(value.constraint)
        return new

    def _object(self, value):
        cls = type(value)
        if self._plain:
            cls = getattr(cls, "plain_class", cls)
        is_layer = isinstance(value, keras.layers.Layer)
        if is_layer:
            # A class may name a layer that is global, or around it.
            calls = [vars(base).get("call") for base in cls.__mro__]
            self._check_parts(calls, f"a layer whose class {cls.__name__} has a `call`")
        new = keras.layers.Layer.__new__(cls) if is_layer else object.__new__(cls)
        # Before its parts, which may refer back to it.
        self._remember(value, new)
        if private.is_node(value):
            self._nodes.append((value, new))
        else:
            self._fill(value, new)
        return new

    def _fill(self, value, new):
        for metric in private.metrics_of_compile(value):
            self._remember(metric, None)
        ours = ATTRIBUTES if self._plain and isinstance(value, Sparse) else ()
        for name, attribute in private.attributes_to_copy(value).items():
            if name not in ours:
                vars(new)[name] = self._copy(attribute)
        for name, attribute in slots(value).items():
            object.__setattr__(new, name, self._copy(attribute))
        private.complete_copy(value, new, self.copies)

    def _collection(self, value):
        cls = type(value)
        if cls.__module__.startswith("tensorflow"):
            # What TensorFlow wraps around a list or dictionary in order to watch it.
            cls = next(base for base in (list, dict, set) if isinstance(value, base))
        new = self._remember(value, cls.__new__(cls))
        # Past the tracking of Keras's own collections.
        if isinstance(value, dict):
            for key, item in value.items():
                # PyTorch keeps modules in a dictionary.
                if not private.is_made_anew(key):
                    dict.__setitem__(new, key, self._copy(item))
        elif isinstance(value, list):
            list.extend(new, map(self._copy, value))
        else:
            set.update(new, map(self._copy, value))
        if hasattr(new, "__dict__"):
            vars(new).update({k: self._copy(v) for k, v in vars(value).items()})
        return new
