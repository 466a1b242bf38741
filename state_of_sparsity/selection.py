"""Where the lowest of many numbers end: counts of those that are not above some.

Numbers are compared as integers, in whose order the bits of a float32 are those of the
numbers: the same on every device, also where it takes denormal numbers for zero. A
search is a small loop, quick to compile, which a sort is not.
"""

import math

import keras
from keras import ops

from state_of_sparsity.numerics import POSITIVE

_LOWEST_INT32 = -(2**31)
# Keys can be read as two digits of so many bits.
_DIGIT = 16
_DIGITS = 2**_DIGIT


def sortable_bits(scores):
    """Integers in the order of the scores."""
    scores = ops.cast(scores, "float32")
    scores = ops.where(ops.isnan(scores), float("inf"), scores)
    bits = ops.view(scores, "int32")
    # -0.0, whose bits are only those of the sign, equals 0.0.
    bits = ops.where(bits == _LOWEST_INT32, 0, bits)
    # The bits of negative floats grow with the magnitude: turn them round.
    return ops.where(bits < 0, ops.bitwise_xor(bits, POSITIVE), bits)


def places(keys):
    """The place of each key of a vector."""
    return ops.arange(keys.shape[0], dtype="int32")


def last_of_lowest(keys, count):
    """The last of the `count` lowest keys of a vector, and its place.

    Among equal keys, the first are the lowest. By bisection of the keys, and then of
    the places of those that tie, if a tie is cut: in one loop, which is as long for a
    compiler as one of its passes. PyTorch, which compiles nothing and would wait for
    the device after each, makes two passes with histograms.
    """
    if keras.backend.backend() == "torch":
        return _last_by_digits(keys, count)
    at, last = places(keys), keys.shape[0] - 1

    def is_open(low, high, key, place, ties, done):
        return ops.logical_not(done)

    def narrowed(low, high, key, place, ties, done):
        middle = ops.bitwise_and(low, high)
        middle = middle + ops.right_shift(ops.bitwise_xor(low, high), 1)
        among = ops.logical_and(keys == key, at <= middle)
        among = ops.logical_or(keys < key, among)
        counts = number_of(ops.where(ties, among, keys <= middle))
        enough = counts >= count
        low, high = ops.where(enough, low, middle + 1), ops.where(enough, middle, high)
        found = ops.logical_or(counts == count, low == high)
        key, place = ops.where(ties, key, high), ops.where(ties, high, last)
        done = ops.logical_and(found, ops.logical_or(ties, counts == count))
        low, high = ops.where(found, -1, low), ops.where(found, last, high)
        return low, high, key, place, ops.logical_or(ties, found), done

    numbers = (-POSITIVE, POSITIVE, 0, 0)
    state = [ops.cast(number, "int32") for number in numbers]
    none = ops.cast(False, "bool")
    return ops.while_loop(is_open, narrowed, [*state, none, none])[2:4]


def search(counted, count, total, lowest=-POSITIVE, guess=0):
    """A span of keys, from `low` to `high`, in which the `count` lowest end.

    Either `high` is the last of them, or the span is one key that others have, too. The
    next key that is tried is where the `count`-th would be if keys were evenly spread,
    or else, where that hardly narrows the span, its middle.

    Args:
      counted: `counted(key)` is how many keys are not above a key.
      count: int32 scalar.
      total: int32 scalar, how many keys there are.
      lowest: below which there are none.
      guess: the first key that is tried.

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


def _last_by_digits(keys, count):
    upper = ops.right_shift(keys, _DIGIT) + _DIGITS // 2
    high, rank = _nth_digit(upper, count)
    # One more digit for those that begin otherwise.
    lower = ops.bitwise_and(keys, _DIGITS - 1)
    low, rank = _nth_digit(ops.where(upper == high, lower, _DIGITS), rank)
    key = ops.left_shift(high - _DIGITS // 2, _DIGIT) + low
    ties = ops.cast(ops.cumsum(ops.cast(keys == key, "int32")), "int32")
    return key, number_of(ties <= rank) - 1


def _nth_digit(digits, rank):
    """The digit of that rank, counted from one, and the rank among its equals."""
    counts = ops.bincount(digits, minlength=_DIGITS + 1)
    up_to = ops.cumsum(ops.cast(counts, "int32"))
    digit = number_of(up_to < rank)
    before = ops.take(up_to, ops.maximum(digit - 1, 0))
    return digit, rank - ops.where(digit > 0, before, 0)


def number_of(marked):
    """How many are true: an int32 scalar."""
    backend = keras.backend.backend()
    if backend == "torch":
        # In one pass; that of Keras warns of PyTorch's.
        return ops.cast(marked.count_nonzero(), "int32")
    # XLA adds floats faster for JAX; up to here they are exact.
    is_exact = math.prod(marked.shape) <= 2**24
    dtype = "float32" if backend == "jax" and is_exact else "int32"
    return ops.cast(ops.sum(ops.cast(marked, dtype)), "int32")
