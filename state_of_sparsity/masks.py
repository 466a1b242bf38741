"""Masks of the lowest of many scores: exact counts, also where scores tie.

A score says how much a weight is worth; the weights with the lowest scores are masked
first. Everything here is a pure function of tensors, works on every backend and device
and in compiled graphs, and gives the same bits on all of them.
"""

import functools
import math

import keras
from keras import ops

from state_of_sparsity.numerics import POSITIVE, keys, random_uniform, traced_once

_LOWEST_INT32 = -(2**31)
# Keys can be read as two digits of so many bits.
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

    The threshold is found by bisection in the bits of a float32, whose order is that of
    the numbers: some two dozen counts, which are a small loop to compile, where a sort
    is long, and the same on every device. No gradient passes.

    Args:
      scores: float tensor of any shape; compared as float32. NaN counts as the
        highest score.
      count: integer scalar, from 0 to the number of scores.

    Returns:
      A boolean tensor of the shape of `scores` with exactly `count` true values.
    """
    vector = ops.reshape(ops.stop_gradient(scores), (-1,))
    return ops.reshape(_lowest(vector, ops.cast(count, "int32")), scores.shape)


def lowest_by_tensor(scores, count):
    """How many of the `count` lowest scores of several tensors each of them has.

    Every tensor keeps its highest score. Among equal scores, those of the first tensors
    are the lowest. No gradient passes.

    Args:
      scores: a float tensor for each, of any shape; compared as by `lowest`.
      count: integer scalar, from 0 to the number of scores without one of each tensor.

    Returns:
      An int32 vector, in the order of the tensors, whose sum is `count`.
    """
    return _lowest_by_tensor(ops.cast(count, "int32"), *map(ops.stop_gradient, scores))


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
    keys = _sortable_bits(scores)
    size = keys.shape[0]
    places = ops.arange(size, dtype="int32")
    is_eager = keras.backend.backend() == "torch"
    search = _search_by_digits if is_eager else _search_by_halves

    def searched(_, state):
        values, count, total, _, found = state
        low, high, below, up_to = search(values, count, total)
        within = ops.logical_and(values >= low, values <= high)
        values = ops.where(within, places, POSITIVE)
        return values, count - below, up_to - below, found, (low, high)

    # First for the key, then for the place of the last of the ties, if not all go. As
    # a loop, it is compiled once.
    none = (ops.zeros_like(count), ops.zeros_like(count))
    state = (keys, count, ops.full_like(count, size), none, none)
    *_, (low, high), (_, last) = ops.fori_loop(0, 2, searched, state)
    ties = ops.logical_and(keys <= high, places <= last)
    return ops.logical_or(keys < low, ties)


@traced_once
def _lowest_by_tensor(count, *scores):
    keys = list(map(_sortable_bits, scores))
    sizes = [math.prod(tensor.shape) for tensor in scores]
    most = ops.convert_to_tensor([size - 1 for size in sizes], "int32")

    # Up to a key, a tensor has as many scores as it has without its highest one, or it
    # has them all, the highest one among them.
    def up_to(key):
        return ops.minimum(ops.stack([_count(tensor <= key) for tensor in keys]), most)

    total = ops.full_like(count, sum(sizes) - len(sizes))
    low, high, below, _ = _search(
        lambda key: ops.sum(up_to(key)), count, total, interpolates=True
    )
    before = up_to(low - 1)
    ties = up_to(high) - before
    # The first tensors give all of theirs.
    given = ops.clip(count - below - (ops.cumsum(ties) - ties), 0, ties)
    return before + given


@traced_once
def _threshold(count, guess, *scores):
    # The bits of numbers that are not negative; -0.0 is below all others.
    keys = [ops.view(ops.cast(tensor, "float32"), "int32") for tensor in scores]
    total = ops.full_like(count, sum(math.prod(tensor.shape) for tensor in scores))
    _, high, _, _ = _search(
        lambda key: sum(_count(tensor <= key) for tensor in keys),
        count,
        total,
        lowest=0,
        guess=ops.maximum(ops.view(guess, "int32"), 0),
        interpolates=True,
    )
    highest = ops.max(
        ops.stack([ops.max(ops.where(x <= high, x, 0)) for x in keys])
    )
    return ops.where(count > 0, ops.view(highest, "float32"), -1.0)


def _search_by_halves(values, count, total):
    return _search(lambda value: _count(values <= value), count, total)


def _search_by_digits(values, count, total):
    """What `_search` gives, in two passes, which a compiler takes long for.

    PyTorch compiles nothing, and would wait for the device at each of two dozen.
    """
    if total == count:
        return -POSITIVE, POSITIVE, 0, total
    upper = ops.right_shift(values, _DIGIT) + _DIGITS // 2
    high, rank = _nth_digit(upper, count)
    # One more digit for those that begin otherwise.
    lower = ops.bitwise_and(values, _DIGITS - 1)
    low, rank = _nth_digit(ops.where(upper == high, lower, _DIGITS), rank)
    value = ops.left_shift(high - _DIGITS // 2, _DIGIT) + low
    return value, value, count - rank, _count(values <= value)


def _nth_digit(digits, rank):
    """The digit of that rank, counted from one, and the rank among its equals."""
    counts = ops.bincount(digits, minlength=_DIGITS + 1)
    up_to = ops.cumsum(ops.cast(counts, "int32"))
    digit = _count(up_to < rank)
    before = ops.take(up_to, ops.maximum(digit - 1, 0))
    return digit, rank - ops.where(digit > 0, before, 0)


def _search(counted, count, total, lowest=-POSITIVE, guess=0, interpolates=False):
    """A span of keys, from `low` to `high`, in which the `count` lowest end.

    Either `high` is the last of them, or the span is one key that others have, too.

    Args:
      counted: `counted(key)` of all keys are not above a key.
      count: int32 scalar.
      total: int32 scalar, how many keys there are.
      lowest: below which there are none.
      guess: the first key that is tried.
      interpolates: whether the next keys are where the `count`-th would be if keys
        were evenly spread, which takes half the passes and more operations.

    Returns:
      `low`, `high`, and how many keys are below `low` and not above `high`.
    """

    def is_wide(low, high, below, up_to, key):
        return ops.logical_and(low < high, ops.not_equal(up_to, count))

    def narrowed(low, high, below, up_to, key):
        counts = counted(key)
        enough = counts >= count
        width = _half_width(low, high)
        low, high = ops.where(enough, low, key + 1), ops.where(enough, key, high)
        below = ops.where(enough, below, counts)
        up_to = ops.where(enough, counts, up_to)
        half = ops.right_shift(ops.bitwise_xor(low, high), 1)
        middle = ops.bitwise_and(low, high) + half
        if not interpolates:
            return low, high, below, up_to, middle
        # Where it is not, and hardly narrows the span, bisection does.
        is_slow = _half_width(low, high) > width // 2
        key = ops.where(is_slow, middle, _interpolated(low, high, below, up_to, count))
        return low, high, below, up_to, key

    numbers = (lowest, POSITIVE, 0, total, guess)
    span = [ops.cast(number, "int32") for number in numbers]
    return ops.while_loop(is_wide, narrowed, span)[:4]


def _interpolated(low, high, below, up_to, count):
    """The key of a rank if keys are evenly spread, and one rank towards the far end."""
    rank, ranks = count - below, up_to - below
    rank = rank + ops.where(2 * rank < ranks, 1, -1)
    share = ops.cast(rank, "float32") / ops.cast(ranks, "float32")
    half = ops.cast(share * ops.cast(_half_width(low, high), "float32"), "int32")
    return ops.clip(low + 2 * half, low, high - 1)


def _half_width(low, high):
    """Half of the difference, which itself may exceed an int32."""
    return ops.right_shift(high, 1) - ops.right_shift(low, 1)


def _count(marked):
    if keras.backend.backend() == "torch":
        return ops.cast(ops.count_nonzero(marked), "int32")
    # Floats are added faster, and exactly up to here.
    dtype = "float32" if math.prod(marked.shape) <= 2**24 else "int32"
    return ops.cast(ops.sum(ops.cast(marked, dtype)), "int32")


def _sortable_bits(scores):
    """Integers in the order of the scores."""
    scores = ops.cast(scores, "float32")
    scores = ops.where(ops.isnan(scores), float("inf"), scores)
    bits = ops.view(scores, "int32")
    # -0.0, whose bits are only those of the sign, equals 0.0.
    bits = ops.where(bits == _LOWEST_INT32, 0, bits)
    # The bits of negative floats grow with the magnitude: turn them round.
    return ops.where(bits < 0, ops.bitwise_xor(bits, POSITIVE), bits)


def random_scores(shape: tuple[int, ...], *stream: int):
    """Uniform scores in [0, 1], the same on every backend, device and replica.

    Args:
      shape: of the scores.
      *stream: non-negative integers; other ones give other, independent scores.

    Returns:
      A float32 tensor.
    """
    return random_uniform(shape, *keys(*stream))
