"""Precision in which logarithms and exponentials are taken."""

from state_of_sparsity.backend import tf


def at_least_float32(value) -> tf.Tensor:
    """The value in float32 if it is of half precision, otherwise as it is.

    In float16, 1e-8 is 0 and 1 - 1e-7 is 1.
    """
    tensor = tf.convert_to_tensor(value)
    return tf.cast(tensor, tf.float32) if tensor.dtype.size < 4 else tensor
