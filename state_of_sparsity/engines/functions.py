"""Functions that hold parts of a model, and what else holds some.

A function holds what is in its closure and its default arguments, the object that it
is a method of, the arguments of a `functools.partial`, and global variables: in a
script, the layers that a lambda calls are global.
"""

import collections
import dis
import functools
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

# Nothing of a user's is in what these make, and much else.
_FRAMEWORKS = (
    *("builtins", "jax", "keras", "keras_hub", "numpy", "tensorflow"),
    *("tensorflow_model_optimization", "tf_keras", "torch"),
)
_COLLECTIONS = (list, tuple, set, frozenset, collections.deque)
# What holds nothing.
PLAIN = (str, bytes, int, float, complex, type(None), np.ndarray, np.generic)
_DEPTH = 8


def rebound(
    function: Any, copy: Callable[[Any], Any], closed: tuple[type, ...] = ()
) -> Any:
    """A function that computes with copies of what another one computes with.

    Args:
      function: of Python, a `functools.partial`, or a method.
      copy: gives the copy of a part of a model, and anything else as it is.
      closed: as of `reached`.

    Returns:
      The same function if it holds no such part.
    """
    return _Rebinding(copy, closed).value(function)


def reached(
    value: Any, is_part: Callable[[Any], bool], closed: tuple[type, ...] = ()
) -> Any | None:
    """A part of a model that a value holds, at some depth, or None.

    Args:
      value: a function, a collection, an object of a user's class.
      is_part: whether something is such a part. What it holds is not looked at.
      closed: classes of further objects that are not looked into.
    """
    seen, level = {id(value): value}, [value]
    for _ in range(_DEPTH):
        held = {
            id(inner): inner
            for outer in level
            for inner in _held(outer, closed)
            if not isinstance(inner, PLAIN)
        }
        level = [inner for key, inner in held.items() if key not in seen]
        for inner in level:
            if is_part(inner):
                return inner
        seen |= held
    return None


def slots(value: Any) -> dict[str, Any]:
    """What an object holds in the slots that its class has, by name."""
    names = _slots_of(type(value))
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


@functools.cache
def _slots_of(cls):
    members = (member for base in cls.__mro__ for member in vars(base).items())
    return [n for n, m in members if isinstance(m, types.MemberDescriptorType)]


def _held(value, closed) -> Iterator[Any]:
    """What a value holds itself."""
    if isinstance(value, (*closed, type, types.ModuleType)):
        return
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, _COLLECTIONS):
        yield from value
    elif isinstance(value, types.MethodType):
        yield value.__self__
        yield value.__func__
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, weakref.ref):
        yield value()
    elif isinstance(value, types.FunctionType):
        yield from (cell.cell_contents for cell in _filled_cells(value))
        yield from (value.__defaults__, value.__kwdefaults__, vars(value))
        yield from _globals_used(value).values()
    elif _is_of_framework(type(value)):
        # Some are around a function: what `jit` and `tf.function` make.
        yield getattr(value, "__wrapped__", None)
        yield getattr(value, "python_function", None)
    else:
        yield from getattr(value, "__dict__", {}).values()
        yield from slots(value).values()


def _is_of_framework(value):
    return (value.__module__ or "").partition(".")[0] in _FRAMEWORKS


def _filled_cells(function):
    # A cell is empty until the variable is set; it may never be.
    empty = types.CellType()
    return [cell for cell in function.__closure__ or () if cell != empty]


def _globals_used(function):
    """The global variables that a function, or one written in it, reads."""
    if _is_of_framework(function):
        return {}
    known, names = function.__globals__, _names_of_globals(function.__code__)
    return {name: known[name] for name in names if name in known}


@functools.cache
def _names_of_globals(code):
    names = {x.argval for x in dis.get_instructions(code) if x.opname == "LOAD_GLOBAL"}
    inner = (x for x in code.co_consts if isinstance(x, types.CodeType))
    return names.union(*map(_names_of_globals, inner))


class _Globals(dict):
    """Some global variables of a function anew, and all others as they are then."""

    def __init__(self, others):
        super().__init__()
        self._others = others

    def __missing__(self, name):
        return self._others[name]


class _Rebinding:
    """Makes each function once, so that one that calls itself does so in the copy."""

    def __init__(self, copy, closed):
        self._copy, self._closed = copy, closed
        self._known: dict[int, Any] = {}

    def value(self, value):
        """A value with copies in it, or the same if there are none to put there."""
        if id(value) in self._known:
            return self._known[id(value)]
        if self._has_copy(value) or not self._changes(value):
            return self._copy(value)
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            return self._method(value)
        if isinstance(value, functools.partial):
            parts = (value.func, *value.args)
            keywords = self.value(value.keywords)
            return functools.partial(*map(self.value, parts), **keywords)
        if isinstance(value, weakref.ref):
            return weakref.ref(self.value(value()))
        if isinstance(value, dict):
            return {key: self.value(inner) for key, inner in value.items()}
        if isinstance(value, tuple) and hasattr(value, "_make"):
            return value._make(map(self.value, value))
        for kind in _COLLECTIONS:
            if isinstance(value, kind):
                return kind(map(self.value, value))
        return value

    def _has_copy(self, value):
        return self._copy(value) is not value

    def _changes(self, value):
        if self._has_copy(value):
            return True
        return reached(value, self._has_copy, self._closed) is not None

    def _method(self, method):
        holder, name = self.value(method.__self__), getattr(method, "__name__", "")
        # Of another class, the copy may have a method of its own of that name, or none.
        if getattr(type(method.__self__), name, None) is method.__func__:
            return getattr(holder, name, method)
        return types.MethodType(self.value(method.__func__), holder)

    def _function(self, function):
        old = _globals_used(function)
        changed = [name for name in old if self._changes(old[name])]
        known = _Globals(function.__globals__) if changed else function.__globals__
        filled = [x for x in _filled_cells(function) if self._changes(x.cell_contents)]
        new_cells = {id(cell): types.CellType() for cell in filled}
        # The others are shared: what functions tell each other by a variable.
        cells = tuple(new_cells.get(id(x), x) for x in function.__closure__ or ())
        new = types.FunctionType(
            function.__code__, known, function.__name__, None, cells
        )
        # Before its parts, which may refer back to it.
        self._known[id(function)] = new
        for name in changed:
            known[name] = self.value(old[name])
        for cell in filled:
            new_cells[id(cell)].cell_contents = self.value(cell.cell_contents)
        for name in ("__defaults__", "__kwdefaults__"):
            setattr(new, name, self.value(getattr(function, name)))
        for name in ("__annotations__", "__module__", "__qualname__"):
            setattr(new, name, getattr(function, name))
        vars(new).update(self.value(vars(function)))
        return new
