"""Functions of whole weight tensors, computed in one pass over memory.

TensorFlow passes over memory for each of their many small operations, and once more for
each gradient: for a weight of variational dropout, that is more work than the layer.
XLA makes one loop of them all, forward, and one backward.
"""

import functools
import importlib
import math
from collections.abc import Callable

import keras
from keras import ops

# For less, calling what XLA has compiled takes as long as it saves.
_WORTH_IT = 2**15


def fused(function: Callable, static: tuple = (), constants: int = 0) -> Callable:
    """A function of tensors of one shape, element by element.

    On TensorFlow, XLA compiles it and its gradient, for large float32 tensors of a
    shape that is known in advance. JAX compiles whole steps, and PyTorch none.

    Args:
      function: `function(*tensors, *static)`, a tensor of their shape.
      static: further arguments, which are hashable.
      constants: how many of the last tensors need no gradient.

    Returns:
      A function of the tensors.
    """

    def call(*tensors):
        if keras.backend.backend() != "tensorflow" or not _is_worth_it(tensors):
            return function(*tensors, *static)
        shape = tensors[0].shape
        flat = [ops.reshape(tensor, (-1,)) for tensor in tensors]
        result = _compiled(function, static, len(flat), constants)(*flat)
        return ops.reshape(result, shape)

    return call


def _is_worth_it(tensors):
    return all(
        None not in tuple(tensor.shape)
        and math.prod(tensor.shape) >= _WORTH_IT
        and keras.backend.standardize_dtype(tensor.dtype) == "float32"
        for tensor in tensors
    )


@functools.cache
def _compiled(function, static, count, constants):
    """The function of vectors as XLA computes it, with a gradient that it computes."""
    tf = importlib.import_module("tensorflow")  # The backend has imported it.
    vector = tf.TensorSpec([None], "float32")
    compiled = functools.partial(tf.function, jit_compile=True, autograph=False)

    @compiled(input_signature=[vector] * count)
    def forward(*vectors):
        return function(*vectors, *static)

    # Computes what it needs of the function anew, which is less than to keep it.
    @compiled
    def backward(upstream, *vectors):
        learned = vectors[: count - constants]
        with tf.GradientTape() as tape:
            tape.watch(learned)
            result = function(*vectors, *static)
        return [*tape.gradient(result, learned, upstream)]

    @tf.custom_gradient
    def with_gradient(*vectors):
        def gradient(upstream):
            return *backward(upstream, *vectors), *[None] * constants

        return forward(*vectors), gradient

    return with_gradient
