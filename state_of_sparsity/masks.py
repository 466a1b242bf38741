"""Masks of the lowest of many scores: exact counts, also where scores tie.

A score says how much a weight is worth; the weights with the lowest scores are masked
first. Everything here is a pure function of tensors, works on every backend and device
and in compiled graphs, and gives the same bits on all of them.
"""

import itertools
import math

from keras import ops

from state_of_sparsity.numerics import counts, keys, random_uniform

# Bits of a float32, apart from its sign.
_MAGNITUDE_BITS = 0x7FFFFFFF
_LOWEST_INT32 = -(2**31)
# Keys are read as two digits of so many bits.
_DIGIT = 16
_DIGITS = 2**_DIGIT


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

    The threshold is found in the bits of a float32, whose order is that of the numbers:
    a few counts instead of a sort, the same on every device.

    Args:
      scores: float tensor of any shape; compared as float32. NaN counts as the
        highest score.
      count: integer scalar, from 0 to the number of scores.

    Returns:
      A boolean tensor of the shape of `scores` with exactly `count` true values.
    """
    return ops.reshape(_lowest(_sortable_bits(scores), count), scores.shape)


def lowest_by_tensor(scores, count):
    """How many of the `count` lowest scores of several tensors each of them has.

    Every tensor keeps its highest score. Among equal scores, those of the first tensors
    are the lowest.

    Args:
      scores: a float tensor for each, of any shape; compared as by `lowest`.
      count: integer scalar, from 0 to the number of scores without one of each tensor.

    Returns:
      An int32 vector, in the order of the tensors, whose sum is `count`.
    """
    keys = [_without_highest(_sortable_bits(tensor)) for tensor in scores]
    marked = _lowest(ops.concatenate(keys), count)
    ends = itertools.accumulate(math.prod(tensor.shape) for tensor in scores)
    up_to = [0, *ends]
    return ops.stack([_count(marked[i:j]) for i, j in itertools.pairwise(up_to)])


def _without_highest(keys):
    """The keys, the last of the highest one above those of all scores."""
    last = ops.shape(keys)[0] - 1 - ops.argmax(ops.flip(keys))
    places = ops.arange(ops.shape(keys)[0])
    return ops.where(places == ops.cast(last, places.dtype), _MAGNITUDE_BITS, keys)


def _lowest(keys, count):
    """Marks the `count` lowest of a vector of keys; among equal ones, the first."""
    count = ops.cast(count, "int32")
    threshold = _threshold(keys, count)
    below = keys < threshold
    ties = keys == threshold
    missing = count - _count(below)

    def first_of_ties():
        return ops.logical_and(ties, ops.cumsum(ops.cast(ties, "int32")) <= missing)

    # Almost always there is one, and counting them all takes longer than the rest.
    marked = ops.cond(_count(ties) == missing, lambda: ties, first_of_ties)
    return ops.logical_or(below, marked)


def _count(marked):
    return ops.sum(ops.cast(marked, "int32"))


def _sortable_bits(scores):
    """Integers in the order of the scores, as a vector."""
    scores = ops.reshape(ops.cast(scores, "float32"), (-1,))
    scores = ops.where(ops.isnan(scores), float("inf"), scores)
    bits = ops.view(scores, "int32")
    # -0.0, whose bits are only those of the sign, equals 0.0.
    bits = ops.where(bits == _LOWEST_INT32, 0, bits)
    # The bits of negative floats grow with the magnitude: turn them round.
    return ops.where(bits < 0, ops.bitwise_xor(bits, _MAGNITUDE_BITS), bits)


def _threshold(keys, count):
    """The smallest of the keys that at least `count` keys are not above."""
    upper = ops.right_shift(keys, _DIGIT) + _DIGITS // 2
    high, rank = _nth_digit(upper, count)
    # One more digit for the keys that begin otherwise.
    lower = ops.bitwise_and(keys, _DIGITS - 1)
    low, _ = _nth_digit(ops.where(upper == high, lower, _DIGITS), rank)
    return ops.left_shift(high - _DIGITS // 2, _DIGIT) + low


def _nth_digit(digits, rank):
    """The digit of that rank, counted from one, and the rank among its equals."""
    up_to = ops.cumsum(counts(digits, _DIGITS + 1))
    digit = _count(up_to < rank)
    before = ops.take(up_to, ops.maximum(digit - 1, 0))
    return digit, rank - ops.where(digit > 0, before, 0)


def random_scores(shape: tuple[int, ...], *stream: int):
    """Uniform scores in [0, 1], the same on every backend, device and replica.

    Args:
      shape: of the scores.
      *stream: non-negative integers; other ones give other, independent scores.

    Returns:
      A float32 tensor.
    """
    return random_uniform(shape, *keys(*stream))
