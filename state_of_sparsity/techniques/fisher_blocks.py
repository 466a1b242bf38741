"""The inverse of the Fisher information of a weight, block by block of its diagonal.

A weight is cut into blocks of B of its elements, in the order of memory, the last one
filled up with zeros; the inverse is a tensor of (blocks, B, B).
"""

import math

import numpy as np
from keras import ops


def first_inverse(shape: tuple[int, ...], size: int, damping: float) -> np.ndarray:
    """`I / damping` for each block of a weight of that shape."""
    blocks = -(-math.prod(shape) // size)
    return np.tile(np.eye(size, dtype="float32") / damping, (blocks, 1, 1))


def updated(inverse, gradient, samples: int):
    """The inverse once `g g' / samples` has been added to what it is the inverse of.

    `F - (F g)(F g)' / (samples + g' F g)`, F being the inverse (Sherman & Morrison;
    Singh & Alistarh 2020, arXiv 2004.14340, equation 13).
    """
    columns = _blocks(gradient, inverse)[..., None]
    products = ops.matmul(inverse, columns)
    norm = samples + ops.sum(columns * products, axis=(1, 2), keepdims=True)
    return inverse - ops.matmul(products, ops.transpose(products, (0, 2, 1))) / norm


def cost(inverse, weight):
    """`w^2 / (2 [F]_ii)`: what the loss rises by without each weight."""
    diagonal = ops.reshape(ops.diagonal(inverse, axis1=1, axis2=2), (-1,))
    diagonal = ops.reshape(diagonal[: math.prod(weight.shape)], weight.shape)
    return ops.square(weight) / (2.0 * diagonal)


def correction(inverse, weight, mask):
    """What to add to a weight, so that the others make up for those that go.

    `-F[:, Q] F[Q, Q]^-1 w[Q]` in each block, Q being what is masked (Kurtic et al.
    2022, arXiv 2203.07259, equation 5). With it, the masked ones are zero.
    """
    gone = 1.0 - _blocks(ops.cast(mask, weight.dtype), inverse, filling=1.0)
    wanted = (gone * _blocks(weight, inverse))[..., None]
    both = gone[:, :, None] * gone[:, None, :]
    system = both * inverse + (1.0 - gone)[..., None] * ops.eye(gone.shape[1])
    change = -ops.matmul(inverse, ops.solve(system, wanted))
    flat = ops.reshape(change, (-1,))[: math.prod(weight.shape)]
    return ops.reshape(flat, weight.shape)


def _blocks(tensor, inverse, filling=0.0):
    """The elements of a tensor of the shape of the weight, a row for each block."""
    blocks, size = inverse.shape[:2]
    flat = ops.reshape(tensor, (-1,))
    missing = blocks * size - math.prod(tensor.shape)
    return ops.reshape(
        ops.pad(flat, ((0, missing),), constant_values=filling), (blocks, size)
    )
