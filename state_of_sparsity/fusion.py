"""Functions of whole tensors, with their noise, computed in one pass over memory.

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

from state_of_sparsity import numerics

# For less, calling what XLA has compiled takes as long as it saves.
_WORTH_IT = 2**15
_SHORTEST_ROW, _LONGEST_ROW = 16, 4096
_DRAWN = {"normal": numerics.normal_at, "uniform": numerics.uniform_at}


def fused(function: Callable, static: tuple = (), drawn: str | None = None) -> Callable:
    """A function of tensors of one shape, element by element.

    On TensorFlow, XLA compiles it and its gradient, for large float32 tensors of which
    all lengths but the first are known in advance. JAX compiles whole steps, and
    PyTorch none.

    Args:
      function: `function(*tensors, *static)`, a tensor of their shape; with `drawn`,
        noise comes between the two.
      static: further arguments, which are hashable.
      drawn: "normal" or "uniform", for noise of the same shape.

    Returns:
      A function of the tensors, with two keywords: `noise`, which an engine draws from,
      and `onto`, a tensor that the result is added to, in the same pass.
    """

    def call(*tensors, noise=None, onto=None):
        given = tensors if onto is None else (onto, *tensors)
        if keras.backend.backend() != "tensorflow" or not _is_worth_it(given):
            shape = ops.shape(tensors[0])
            numbers = [] if drawn is None else [getattr(noise, drawn)(shape)]
            result = function(*tensors, *numbers, *static)
            return result if onto is None else onto + result
        keys = () if drawn is None else noise.keys()
        columns = _columns(given[0])
        matrices = [ops.reshape(tensor, (-1, columns)) for tensor in given]
        compiled = _compiled(function, static, drawn, onto is not None, len(given))
        return ops.reshape(compiled(*keys, *matrices), ops.shape(given[0]))

    return call


def weighted(function: Callable, weight, *tensors):
    """`weight * function(*tensors)`, which is not computed where the weight is 0.

    Args:
      function: gives a scalar.
      weight: a scalar, through which no gradient passes.
      tensors: through which it does.
    """

    def computed(*values):
        return weight * ops.cast(function(*values), weight.dtype)

    def nothing():
        return ops.zeros_like(weight)

    backend = keras.backend.backend()
    if backend == "torch":
        # To decide, it would wait for the device.
        return computed(*tensors)
    if backend == "jax":
        return ops.cond(weight != 0.0, lambda: computed(*tensors), nothing)
    tf = importlib.import_module("tensorflow")  # The backend has imported it.

    # The gradient of `tf.cond` knows no functions with gradients of their own.
    @tf.custom_gradient
    def decided(*values):
        def slopes(upstream):
            with tf.GradientTape() as tape:
                tape.watch(values)
                result = computed(*values)
            return tape.gradient(result, values, upstream, "zero")

        def gradient(upstream):
            return tf.cond(
                tf.not_equal(weight, 0.0),
                lambda: [*slopes(upstream)],
                lambda: [tf.zeros_like(value) for value in values],
            )

        return tf.cond(
            tf.not_equal(weight, 0.0), lambda: computed(*values), nothing
        ), gradient

    # Of variables, it would want to know.
    return decided(*map(tf.convert_to_tensor, tensors))


def _is_worth_it(tensors):
    return all(
        None not in tuple(tensor.shape)[1:]
        # A batch whose size is not known is one of a size that is known later.
        and math.prod(n or 1 for n in tensor.shape) >= _WORTH_IT
        and keras.backend.standardize_dtype(tensor.dtype) == "float32"
        for tensor in tensors
    )


def _columns(tensor):
    """The length of rows that XLA makes vector operations of, with noise in them.

    In one long row, it takes three times as long for the place of each number.
    """
    known = math.prod(n or 1 for n in tensor.shape)
    columns = math.gcd(known, _LONGEST_ROW)
    return columns if columns >= _SHORTEST_ROW else known


@functools.cache
def _compiled(function, static, drawn, has_onto, count):
    """The function of matrices as XLA computes it, with a gradient that it computes."""
    tf = importlib.import_module("tensorflow")  # The backend has imported it.
    compiled = functools.partial(tf.function, jit_compile=True, autograph=False)
    key_count = 0 if drawn is None else 2
    matrices = [tf.TensorSpec([None, None], "float32")] * count
    signature = [tf.TensorSpec([], "int32")] * key_count + matrices

    def computed(keys, tensors):
        numbers = []
        if drawn is not None:
            rows, columns = map(tf.range, tf.unstack(tf.shape(tensors[0])))
            places = rows[:, tf.newaxis] * tf.size(columns) + columns
            size = tf.size(tensors[0])
            numbers = [_DRAWN[drawn](places, size, *map(numerics.mixed, keys))]
        return function(*tensors, *numbers, *static)

    def divided(arguments):
        keys, tensors = arguments[:key_count], arguments[key_count:]
        return keys, tensors[:has_onto], tensors[has_onto:]

    @compiled(input_signature=signature)
    def forward(*arguments):
        keys, onto, tensors = divided(arguments)
        return sum(onto, start=computed(keys, tensors))

    # Computes what it needs of the function anew, noise included, which is less than to
    # keep it.
    @compiled
    def backward(upstream, *arguments):
        keys, _, tensors = divided(arguments)
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            result = computed(keys, tensors)
        return [*tape.gradient(result, tensors, upstream)]

    @tf.custom_gradient
    def with_gradient(*arguments):
        def gradient(upstream):
            slopes = backward(upstream, *arguments)
            return *[None] * key_count, *[upstream] * has_onto, *slopes

        return forward(*arguments), gradient

    return with_gradient
