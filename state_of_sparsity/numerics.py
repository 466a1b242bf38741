"""Precision in which logarithms and exponentials are taken, and hashed integers."""

import functools
import importlib
import math
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

# Every bit of an int32 but its sign.
POSITIVE = 2**31 - 1
_HALVES = ("float16", "bfloat16")
# Least squares at Chebyshev nodes, highest power first.
_SINE = (0.0776576603, -0.598291286, 2.55007752, -5.16771008, 3.14159264)


def at_least_float32(value):
    """The value in float32 if it is of half precision, otherwise as it is.

    In float16, 1e-8 is 0 and 1 - 1e-7 is 1.
    """
    tensor = ops.convert_to_tensor(value)
    return ops.cast(tensor, "float32") if is_half(tensor) else tensor


def is_half(tensor) -> bool:
    """Whether a tensor is float16 or bfloat16."""
    return keras.backend.standardize_dtype(tensor.dtype) in _HALVES


def random_uniform(shape, first, second):
    """Independent numbers that are uniform in [0, 1], the same on every backend.

    Odd multiples of 2**-25 as float32 rounds them: hashes of the place in the tensor
    and of two keys. This, and not the generators of the backends: it is a few fused
    operations, where XLA on a CPU takes ten times as long for those of JAX and
    TensorFlow.

    Args:
      shape: of the result; tensors for what is not known in advance.
      first: int32 key.
      second: int32 key. Other keys give other, independent numbers.

    Returns:
      A float32 tensor.
    """
    size = _size(shape)
    return ops.reshape(uniform_at(_places(shape), size, first, second), shape)


def random_normal(shape, first, second):
    """Independent standard normal numbers; the arguments of `random_uniform`."""
    size = _size(shape)
    return ops.reshape(normal_at(_places(shape), size, first, second), shape)


def uniform_at(places, size, first, second):
    """What `random_uniform` has at some places, int32, of the flattened tensor."""
    del size
    return _fractions_at(places, first, second) / 2.0 + 0.5


def normal_at(places, size, first, second):
    """What `random_normal` has at some places: of uniform numbers by Box & Muller 1958.

    `sqrt(-2 log u)` times the cosine of `pi v`, or half of the tensor further on the
    sine, from a polynomial, which XLA computes in a third of the time that an inverse
    error function takes. Each place computes both numbers anew, as it takes longer to
    move them.
    """
    half = (size + 1) // 2
    is_first = places < half
    pair = ops.where(is_first, places, places - half)
    radius = _fractions_at(pair, first, second) / 2.0 + 0.5
    radius = ops.sqrt(-2.0 * ops.log(radius))
    # Of half the angle, for which the polynomial holds.
    angle = _fractions_at(pair + half, first, second) / 2.0
    sine = _sine_of_half_turns(angle)
    cosine = _sine_of_half_turns(0.5 - ops.abs(angle))
    turned = ops.where(is_first, 1.0 - 2.0 * sine * sine, 2.0 * sine * cosine)
    return radius * turned


def _places(shape):
    return ops.arange(_size(shape), dtype="int32")


def _fractions_at(places, first, second):
    """Numbers in (-1, 1), symmetric around 0, without its ends."""
    # Two rounds: the streams of one round alone would be shuffles of each other.
    bits = mixed(mixed(ops.bitwise_xor(places, first)) + second)
    upper = ops.cast(ops.right_shift(bits, 8), "float32")
    return (upper + 0.5) * 2.0**-23


def _sine_of_half_turns(turns):
    """`sin(pi t)` for `|t| <= 1/2`, to 7e-9: an odd polynomial of degree 9."""
    square = turns * turns
    result = _SINE[0]
    for coefficient in _SINE[1:]:
        result = result * square + coefficient
    return result * turns


def _size(shape):
    """Number of the elements: an integer, or a tensor where a length is one."""
    if all(isinstance(length, int) for length in shape):
        return math.prod(shape)
    return ops.prod(ops.stack([ops.cast(length, "int32") for length in shape]))


def traced_once(function: Callable, fused: bool = False) -> Callable:
    """A function of tensors that is traced once for their shapes, not at every call.

    A model calls it for each of its many layers. PyTorch computes as it goes.

    Args:
      function: of tensors alone.
      fused: whether XLA compiles it on TensorFlow, too: many small operations, which
        would each pass over memory. One large one is faster on all cores.
    """

    @functools.wraps(function)
    def call(*tensors):
        return _traced(function, fused)(*tensors)

    return call


@functools.cache
def _traced(function, fused):
    backend = keras.backend.backend()
    if backend == "jax":
        return importlib.import_module("jax").jit(function)
    if backend == "tensorflow":
        tf = importlib.import_module("tensorflow")  # The backend has imported it.
        return tf.function(function, jit_compile=fused or None, autograph=False)
    return function


def mixed(value):
    """A hash of each int32: a bijection that scatters neighbours over all integers.

    Shifts and products that wrap around (a finalizer in the manner of MurmurHash),
    which give the same bits on every backend and device, and under XLA.
    """
    value = _xor_shifted(value, 16)
    value = _xor_shifted(value * 0x7FEB352D, 15)
    return _xor_shifted(value * (0x846CA68B - 2**32), 16)


def _xor_shifted(value, places):
    # A right shift of a negative integer fills with ones.
    shifted = ops.bitwise_and(ops.right_shift(value, places), (1 << (32 - places)) - 1)
    return ops.bitwise_xor(value, shifted)


def keys(*stream: int) -> tuple[int, int]:
    """Two int32 keys that differ for other non-negative integers."""
    first, second = np.random.SeedSequence(stream).generate_state(2).view("int32")
    return int(first), int(second)


def plus(anchor, number: int):
    """`anchor + number`, of which a compiler does not make a part of what uses it.

    XLA compiles equal kernels once. Those of two layers are equal but for the numbers
    in them: so these come as data.

    Args:
      anchor: int32 scalar that is not known when a program is compiled.
      number: int32.
    """
    if keras.backend.backend() != "jax":
        return anchor + number
    # It looks into no reduction.
    pair = ops.stack([anchor, ops.ones_like(anchor)])
    return ops.sum(pair * np.asarray([1, number], "int32"))
