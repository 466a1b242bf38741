"""Copies of models, object by object.

Keras clones from configurations, which not every model or layer has, and which give
new names. Here whatever makes up a model (layers, variables, metrics, seeds, and the
nodes and symbolic tensors of its graph) is new, and has the attributes that it had;
everything else (functions, initializers, optimizers, arrays) is shared.
"""

import functools
import types
from typing import Any

import keras

from state_of_sparsity.engines.keras3 import private

_COPIED = (
    keras.Operation,
    keras.Metric,
    keras.KerasTensor,
    keras.random.SeedGenerator,
    *private.PARTS_OF_MODELS,
)


class Copier:
    """Copies everything once, however often it is used.

    Args:
      plain: whether sparse layers, and what holds them, get their plain classes.

    Attributes:
      copies: by the `id` of the original.
    """

    def __init__(self, plain: bool = False):
        self._plain = plain
        self.copies: dict[int, Any] = {}
        # Keeps what was copied alive, so that no `id` is used twice.
        self._originals: list[Any] = []
        # Nodes and their copies, which have no attributes yet: by way of its nodes a
        # graph is a chain of references, which may be longer than Python's stack.
        self._nodes: list[tuple[Any, Any]] = []

    def copy(self, value):
        """What stands in a copy for a value in the original."""
        copy = self._copy(value)
        while self._nodes:
            self._fill(*self._nodes.pop())
        return copy

    def _copy(self, value):
        if id(value) in self.copies:
            return self.copies[id(value)]
        if isinstance(value, keras.Variable):
            return self._remember(value, private.copied_variable(value))
        if isinstance(value, _COPIED):
            return self._object(value)
        if isinstance(value, list | set | dict):
            return self._collection(value)
        if isinstance(value, tuple):
            items = [self._copy(item) for item in value]
            # TensorFlow wraps what it watches.
            cls = type(getattr(value, "__wrapped__", value))
            return cls._make(items) if hasattr(cls, "_make") else cls(items)
        if isinstance(value, functools.partial):
            return functools.partial(
                value.func, *self._copy(value.args), **self._copy(value.keywords)
            )
        if isinstance(value, types.MethodType) and isinstance(value.__self__, _COPIED):
            return types.MethodType(value.__func__, self._copy(value.__self__))
        return value

    def _remember(self, original, copy):
        self._originals.append(original)
        self.copies[id(original)] = copy
        return copy

    def _object(self, value):
        cls = type(value)
        if self._plain:
            cls = getattr(cls, "plain_class", cls)
        is_layer = isinstance(value, keras.layers.Layer)
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
        for name, attribute in private.attributes_to_copy(value).items():
            vars(new)[name] = self._copy(attribute)
        for name, attribute in private.slots(value).items():
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
