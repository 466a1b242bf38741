"""What the layers of a model are given, one after the other, from examples."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import ops

from state_of_sparsity.engines.matrices import LinearMap
from state_of_sparsity.engines.recording import replaced_attributes

# The arguments and keywords of a call.
Arguments = tuple[tuple, dict]


class _Reached(BaseException):
    """Ends a call of a model as soon as what it was made for has happened."""


def visit(
    part,
    calls: Sequence[Arguments],
    maps: dict[int, tuple[Any, LinearMap]],
    needs_gram: bool,
    use: Callable[[Any, np.ndarray, int], None],
) -> None:
    """Hands the layers inside of a part of a model their inputs, in the order of calls.

    Each layer has those that the layers before it give as `use` has left them. Layers
    that are called on the same tensors, as the projections of attention are, are
    visited together.

    Args:
      part: a layer or model; no more of it is called than is needed.
      calls: of it, one for each batch.
      maps: the layers to visit and their linear maps, by the `id` of a layer.
      needs_gram: whether `use` gets Gram matrices, or their diagonals.
      use: called with a layer, the mean of `x xᵀ` over its inputs x, for each group of
        its map, in float64, and the number of these.
    """
    for layers, number in _visits(part, calls[0], maps):
        kinds = {maps[id(layer)][1].kind: maps[id(layer)][1] for layer in layers}
        sums = {kind: _Sum(needs_gram) for kind in kinds}
        for args, kwargs in calls:
            left = [number]

            def note(values, left=left, sums=sums, kinds=kinds):
                for kind, of_kind in kinds.items():
                    sums[kind].add(of_kind.rows(values))
                left[0] -= 1
                if not left[0]:
                    raise _Reached

            with _heard({id(layers[0]): layers[0]}, lambda _, values: note(values)):
                _call(part, args, kwargs)
        for layer in layers:
            total = sums[maps[id(layer)][1].kind]
            use(layer, total.mean(), total.count)


def _visits(part, call, maps):
    """Which layers to visit together, in order, and how often each is called."""
    inputs: dict[int, list] = {}
    layers = {key: layer for key, (layer, _) in maps.items()}
    with _heard(layers, lambda key, values: inputs.setdefault(key, []).append(values)):
        _call(part, *call)
    visits: dict[tuple, list] = {}
    for key, values in inputs.items():
        visits.setdefault(tuple(map(id, values)), []).append(layers[key])
    return [(together, len(tensors)) for tensors, together in visits.items()]


def _call(part, args, kwargs):
    with contextlib.suppress(_Reached):
        part(*args, **kwargs)


@contextlib.contextmanager
def _heard(layers, note):
    """Has calls of layers, by their `id`, say on what."""

    def heard(key, call):
        @functools.wraps(call)
        def noted(*args, **kwargs):
            note(key, args[0] if args else next(iter(kwargs.values())))
            return call(*args, **kwargs)

        return noted

    with contextlib.ExitStack() as stack:
        for key, layer in layers.items():
            heard_call = {"call": heard(key, layer.call)}
            stack.enter_context(replaced_attributes(layer, heard_call))
        yield


class _Sum:
    """Adds up `x xᵀ`, or its diagonal, over rows."""

    def __init__(self, needs_gram):
        self._needs_gram = needs_gram
        self._total, self.count = np.float64(0), 0

    def add(self, rows):
        if self._needs_gram:
            product = ops.matmul(ops.transpose(rows, (0, 2, 1)), rows)
        else:
            product = ops.sum(ops.square(rows), axis=1)
        self._total += ops.convert_to_numpy(product)
        self.count += rows.shape[1]

    def mean(self):
        return self._total / self.count
