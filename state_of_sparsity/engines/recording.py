"""Calls of layers that a model makes for an example, with their shapes."""

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import keras

Shape = tuple[int | None, ...]


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of a layer.

    Attributes:
      layer: that is called.
      path: names of the layers around it and of itself, joined by slashes.
      inputs: shapes of the tensors among its arguments, in the order of its `call`.
      outputs: shape of its first output.
      times: how often it takes place.
    """

    layer: Any
    path: str
    inputs: list[Shape]
    outputs: Shape
    times: int


def is_kind(layer, *names: str) -> bool:
    """Whether a layer is of one of Keras's or KerasHub's kinds, by their names."""
    packages = ("keras.", "tf_keras.", "keras_hub.")
    return any(
        cls.__name__ in names and cls.__module__.startswith(packages)
        for cls in type(layer).__mro__
    )


def record(
    layers: Iterable,
    run: Callable[[], Any],
    note: Callable[[str, Any], None] | None = None,
) -> list[Call]:
    """The calls of layers while something runs, outermost models included.

    TimeDistributed calls its layer once for each step, in a loop, or for all: the first
    call is taken down, as often as it takes place. What a recurrent layer calls, which
    on some devices is nothing, is not taken down.

    Args:
      layers: of either Keras.
      run: calls them. If it calls the outermost one again, only that counts.
      note: if given, is told the path and the outputs of each call.
    """
    recorder = _Recorder(note)
    with contextlib.ExitStack() as stack:
        for layer in {id(layer): layer for layer in layers}.values():
            stack.enter_context(recorder.listening(layer))
        run()
    return recorder.calls


@contextlib.contextmanager
def replaced_attributes(layer, values):
    """Gives a layer other attributes for a while, unseen by Keras's tracking."""
    attributes = vars(layer)
    kept = {name: attributes[name] for name in values if name in attributes}
    attributes.update(values)
    try:
        yield
    finally:
        for name in values:
            del attributes[name]
        attributes.update(kept)


class _Recorder:
    def __init__(self, note):
        self.calls: list[Call] = []
        self._note = note
        # Layers whose calls are under way, and shapes of their inputs.
        self._around: list = []
        # Of the next call; 0 if it is not to be taken down.
        self._times = 1

    def listening(self, layer):
        heard = {
            "call": self._recorded(layer, layer.call),
            # In tf_keras, that of a functional model computes all of it again.
            "compute_mask": self._unheard(layer.compute_mask),
        }
        return replaced_attributes(layer, heard)

    def _recorded(self, layer, call):
        @functools.wraps(call)
        def recorded(*args, **kwargs):
            given = inspect.signature(call).bind(*args, **kwargs).arguments
            inputs = _shapes(list(given.values()))
            times = self._begin(layer, inputs)
            outputs = call(*args, **kwargs)
            self._end(layer, inputs, outputs, times)
            return outputs

        return recorded

    def _unheard(self, method):
        @functools.wraps(method)
        def unheard(*args, **kwargs):
            before = self.calls, self._around, self._times
            self.calls, self._around, self._times = [], [], 1
            result = method(*args, **kwargs)
            self.calls, self._around, self._times = before
            return result

        return unheard

    def _begin(self, layer, inputs):
        if not self._around or layer is self._around[0][0]:
            # PyTorch begins anew, with data, if it could not go on without.
            self.calls, self._around, self._times = [], [], 1
        elif self._in_loop():
            examples, steps = self._around[-1][1][0][:2]
            # In one call for all steps, they are among the examples.
            self._times *= examples * steps // (inputs[0][0] or examples * steps)
        times = self._times
        self._around.append((layer, inputs))
        if is_kind(layer, "RNN"):
            self._times = 0
        return times

    def _end(self, layer, inputs, outputs, times):
        path = "/".join(inner.name for inner, _ in self._around[1:])
        self._around.pop()
        if times:
            shapes = [*_shapes(outputs), ()]
            self.calls.append(Call(layer, path, inputs, shapes[0], times))
            if self._note:
                self._note(path, outputs)
        self._times = 0 if self._in_loop() else times

    def _in_loop(self):
        return self._around and is_kind(self._around[-1][0], "TimeDistributed")


def _shapes(values):
    leaves = keras.tree.flatten(values)
    return [tuple(leaf.shape) for leaf in leaves if hasattr(leaf, "shape")]
