"""Masks from scores: how many weights stay, which ones, in which pattern.

A score says how much a weight is worth; the weights with the lowest scores are
masked first. Everything here is a pure function of tensors, works in graphs, on every
device and under XLA, and is exact: a mask has the number of zeros that was asked
for, to the last weight, also where scores tie.
"""

from state_of_sparsity.backend import pruning_utils, tf

# Bits of a float32, apart from its sign.
_MAGNITUDE_BITS = 0x7FFFFFFF


def zero_count(sparsity: tf.Tensor, size: int) -> tf.Tensor:
    """`min(round(sparsity * size), size - 1)`: a tensor keeps its last weight.

    Args:
      sparsity: scalar in [0, 1). A float32 is read as the decimal number of at
        most seven digits that it stands for, since the float32 nearest to 0.7 is
        below 0.7 and would round 3.5 zeros of 5 down. Halves round to even, as
        Python's `round` does.
      size: number of weights, or of blocks of weights, at least 1.

    Returns:
      An int32 scalar.
    """
    sparsity = tf.convert_to_tensor(sparsity)
    exact = tf.cast(sparsity, tf.float64)
    if sparsity.dtype == tf.float32:
        exact = tf.round(exact * 1e7) / 1e7
    return tf.minimum(tf.cast(tf.round(exact * size), tf.int32), size - 1)


def lowest(scores: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Marks the `count` lowest scores; among equal scores, the first ones.

    The threshold is found by bisection over the bits of a float32, whose order is
    that of the numbers: 32 counts instead of a sort, the same on every device.

    Args:
      scores: float tensor of any shape; compared as float32. NaN counts as the
        highest score.
      count: int32 scalar, from 0 to the number of scores.

    Returns:
      A boolean tensor of the shape of `scores` with exactly `count` true values.
    """
    marked = _lowest_of_vector(tf.reshape(tf.cast(scores, tf.float32), [-1]), count)
    return tf.reshape(marked, scores.shape)


# One graph for tensors of all sizes, since a model has many of them and the graph
# of a training step would repeat it for each.
@tf.function(
    input_signature=[tf.TensorSpec([None], tf.float32), tf.TensorSpec([], tf.int32)],
    autograph=False,
)
def _lowest_of_vector(scores, count):
    keys = _sortable_bits(scores)
    threshold = _smallest_key_with_rank(keys, count)
    below = keys < threshold
    ties = keys == threshold
    missing = count - tf.math.count_nonzero(below, dtype=tf.int32)
    tie_rank = tf.cumsum(tf.cast(ties, tf.int32))
    return below | (ties & (tie_rank <= missing))


def _sortable_bits(scores):
    """Integers in the order of the scores."""
    scores = tf.where(tf.math.is_nan(scores), float("inf"), scores)
    bits = tf.bitcast(scores, tf.int32)
    # -0.0, whose bits are only those of the sign, equals 0.0.
    bits = tf.where(bits == tf.int32.min, 0, bits)
    # The bits of negative floats grow with the magnitude: turn them round.
    return tf.where(bits < 0, tf.bitwise.bitwise_xor(bits, _MAGNITUDE_BITS), bits)


def _smallest_key_with_rank(keys, count):
    """The smallest integer `k` with at least `count` keys `<= k`."""

    def halve(low, high):
        # The mean, rounded down, without an overflow of the sum.
        shared = tf.bitwise.bitwise_and(low, high)
        differing = tf.bitwise.bitwise_xor(low, high)
        middle = shared + tf.bitwise.right_shift(differing, 1)
        enough = tf.math.count_nonzero(keys <= middle, dtype=tf.int32) >= count
        return tf.where(enough, low, middle + 1), tf.where(enough, middle, high)

    limits = (tf.constant(tf.int32.min), tf.constant(tf.int32.max))
    _, high = tf.while_loop(lambda low, high: low < high, halve, limits)
    return high


def unstructured(scores: tf.Tensor, sparsity: tf.Tensor) -> tf.Tensor:
    """Mask of single weights: true where a weight stays.

    Args:
      scores: float tensor of any shape, of at least one weight.
      sparsity: scalar in [0, 1).

    Returns:
      A boolean tensor of the shape of `scores` with
      `min(round(sparsity * size), size - 1)` false values.
    """
    return ~lowest(scores, zero_count(sparsity, scores.shape.num_elements()))


def blocks(
    scores: tf.Tensor,
    sparsity: tf.Tensor,
    block_size: tuple[int, int],
    pooling_type: str,
) -> tf.Tensor:
    """Mask of whole blocks of a matrix: true where a weight stays.

    Args:
      scores: float matrix. Blocks that reach beyond its edge are cut.
      sparsity: scalar in [0, 1), the share of blocks that go.
      block_size: height and width of a block.
      pooling_type: "AVG" or "MAX": what of its weights' scores a block counts.

    Returns:
      A boolean matrix of the shape of `scores`, of which
      `min(round(sparsity * blocks), blocks - 1)` blocks are false.
    """
    kept = unstructured(_pool(scores, block_size, pooling_type), sparsity)
    expanded = tf.repeat(tf.repeat(kept, block_size[0], axis=0), block_size[1], axis=1)
    return expanded[: scores.shape[0], : scores.shape[1]]


def _pool(scores, block_size, pooling_type):
    """A score per block; what an edge cuts off a block does not count.

    TF-MOT pools with the padding "SAME", which shifts the blocks against those of the
    mask where it pads at both ends.
    """
    (height, width), (rows, columns) = scores.shape, block_size
    padding = [[0, -height % rows], [0, -width % columns]]

    def by_block(reduce, values, fill):
        padded = tf.pad(values, padding, constant_values=tf.cast(fill, values.dtype))
        blocks_first = tf.reshape(
            padded,
            (padded.shape[0] // rows, rows, padded.shape[1] // columns, columns),
        )
        return reduce(blocks_first, axis=(1, 3))

    if pooling_type == "MAX":
        return by_block(tf.reduce_max, scores, scores.dtype.min)
    counts = by_block(tf.reduce_sum, tf.ones_like(scores), 0)
    return by_block(tf.reduce_sum, scores, 0) / counts


def m_by_n(scores: tf.Tensor, m_by_n: tuple[int, int]) -> tf.Tensor:
    """Mask with `m` zeros in every `n` consecutive weights: true where one stays.

    Args:
      scores: non-negative float tensor of a Dense (rank 2) or Conv2D (rank 4)
        kernel. Groups run along the input channels.
      m_by_n: zeros, and the size of the group that they are in.

    Returns:
      A boolean tensor of the shape of `scores`.
    """
    matrix = pruning_utils.weights_rearrange(scores)
    mask = pruning_utils.generate_m_by_n_mask(matrix, m_by_n)
    return pruning_utils.m_by_n_sparsity_mask_prepare(mask, scores.shape) > 0
