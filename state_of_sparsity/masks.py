"""Masks of the lowest of many scores: exact counts, also where scores tie.

A score says how much a weight is worth; the weights with the lowest scores are masked
first. Everything here is a pure function of tensors, works on every backend and device
and in compiled graphs, and gives the same bits on all of them.
"""

import functools
import math

from keras import ops

from state_of_sparsity import selection
from state_of_sparsity.numerics import keys, random_uniform, traced_once


def zero_count(sparsity: float, size: int, tensors: int = 1) -> int:
    """`min(round(sparsity * size), size - tensors)`: a tensor keeps its last weight.

    Args:
      sparsity: in [0, 1). Halves round to even.
      size: number of weights, or of blocks of weights, at least 1 of each tensor.
      tensors: that have them together.
    """
    return min(round(sparsity * size), size - tensors)


def lowest(scores, count):
    """Marks the `count` lowest scores; among equal scores, the first ones.

    No gradient passes.

    Args:
      scores: float tensor of any shape; compared as float32. NaN counts as the
        highest score.
      count: integer scalar, from 0 to the number of scores.

    Returns:
      A boolean tensor of the shape of `scores` with exactly `count` true values.
    """
    vector = ops.reshape(ops.stop_gradient(scores), (-1,))
    return ops.reshape(_lowest(vector, ops.cast(count, "int32")), scores.shape)


def lowest_by_tensor(scores, count, prices=None):
    """How many of the `count` lowest scores of several tensors each of them has.

    Every tensor keeps its highest score. Among equal scores, those of the first tensors
    are the lowest. No gradient passes.

    Args:
      scores: a float tensor for each, of any shape; compared as by `lowest`.
      count: integer scalar, from 0 to the number of scores without one of each tensor.
      prices: what a score of each tensor counts, integers of at least 1; by default 1.
        Then there are the most that count no more than `count`.

    Returns:
      An int32 vector, in the order of the tensors, whose sum is `count` unless there
      are prices.
    """
    prices = ops.convert_to_tensor(prices or [1] * len(scores), "int32")
    count = ops.cast(count, "int32")
    return _lowest_by_tensor(count, prices, *map(ops.stop_gradient, scores))


def threshold(scores, count, guess=0.01):
    """The `count`-th lowest score of several tensors together: a float32 scalar.

    Exact, and below all scores, -1.0, for a count of 0. No gradient passes.

    Args:
      scores: float tensors of any shape, compared as float32, without negative ones;
        NaN without a sign, as `abs` gives it, is the highest.
      count: integer scalar, from 0 to the number of scores.
      guess: float scalar. The closer to the threshold it is, as that of the step before
        would be, the sooner that is found.
    """
    count, guess = ops.cast(count, "int32"), ops.cast(guess, "float32")
    tensors = [guess, *scores]
    return _threshold(count, *map(ops.stop_gradient, tensors))


@functools.partial(traced_once, fused=True)
def _lowest(scores, count):
    keys = selection.sortable_bits(scores)
    key, place = selection.last_of_lowest(keys, count)
    ties = ops.logical_and(keys == key, selection.places(keys) <= place)
    return ops.logical_or(keys < key, ties)


@traced_once
def _lowest_by_tensor(count, prices, *scores):
    keys = list(map(selection.sortable_bits, scores))
    sizes = [math.prod(tensor.shape) for tensor in scores]
    most = ops.convert_to_tensor([size - 1 for size in sizes], "int32")

    # Up to a key, a tensor has as many scores as it has without its highest one, or it
    # has them all, the highest one among them.
    def up_to(key):
        return ops.minimum(
            ops.stack([selection.number_of(tensor <= key) for tensor in keys]), most
        )

    low, high, below, _ = selection.search(
        lambda key: ops.sum(prices * up_to(key)), count, ops.sum(prices * most)
    )
    before = up_to(low - 1)
    ties = up_to(high) - before
    # The first tensors give all of theirs.
    of_ties = prices * ties
    left = count - below - (ops.cumsum(of_ties) - of_ties)
    return before + ops.clip(left // prices, 0, ties)


@traced_once
def _threshold(count, guess, *scores):
    # The bits of numbers that are not negative; -0.0 is below all others.
    keys = [ops.view(ops.cast(tensor, "float32"), "int32") for tensor in scores]
    total = ops.full_like(count, sum(math.prod(tensor.shape) for tensor in scores))
    _, high, _, _ = selection.search(
        lambda key: sum(selection.number_of(tensor <= key) for tensor in keys),
        count,
        total,
        lowest=0,
        guess=ops.maximum(ops.view(guess, "int32"), 0),
    )
    highest = ops.max(ops.stack([ops.max(ops.where(x <= high, x, 0)) for x in keys]))
    return ops.where(count > 0, ops.view(highest, "float32"), -1.0)


def random_scores(shape: tuple[int, ...], *stream: int):
    """Uniform scores in [0, 1], the same on every backend, device and replica.

    Args:
      shape: of the scores.
      *stream: non-negative integers; other ones give other, independent scores.

    Returns:
      A float32 tensor.
    """
    return random_uniform(shape, *keys(*stream))
