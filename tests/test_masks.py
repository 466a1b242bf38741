"""Masks against independent computations in NumPy."""

import numpy as np
import pytest

from state_of_sparsity import masks
from state_of_sparsity.backend import tf


def expected_mask(scores, zeros):
    """The lowest scores, the first ones among equals, by a stable sort."""
    order = np.argsort(scores.ravel(), kind="stable")
    mask = np.ones(scores.size, bool)
    mask[order[:zeros]] = False
    return mask.reshape(scores.shape)


def expected_zeros(sparsity, size):
    return min(round(sparsity * size), size - 1)


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.7, 0.9, 0.98, 0.999])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 10, 1000])
def test_zero_count_is_rounded_and_leaves_a_weight(sparsity, size):
    for dtype in (tf.float32, tf.float64):
        count = masks.zero_count(tf.constant(sparsity, dtype), size)
        assert int(count) == expected_zeros(sparsity, size)


@pytest.mark.parametrize("shape", [(1,), (7,), (5, 6), (3, 3, 4, 8)])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.9, 0.99])
def test_mask_is_that_of_a_stable_sort(rng, shape, sparsity):
    scores = np.abs(rng.normal(size=shape)).astype("float32")
    mask = masks.unstructured(tf.constant(scores), tf.constant(sparsity, tf.float64))
    zeros = expected_zeros(sparsity, scores.size)
    np.testing.assert_array_equal(mask, expected_mask(scores, zeros))


@pytest.mark.parametrize(
    "scores",
    [
        np.zeros(10),
        np.full(10, 0.25),
        np.array([1, 0, 1, 0, 1, 0, 1, 0, 0, 1]),
        np.array([0.0, -0.0] * 5),
        np.array([-3, 2, -1, 0, 5, -3, 2, 7, -8, 1]),
        np.array([1e-45, 0, 1e-40, 3e38, np.inf, -np.inf, 1, -1, 2, -2]),
    ],
    ids=["zeros", "equal", "two values", "signed zeros", "negative", "extreme"],
)
def test_ties_go_in_order_and_any_float_is_compared(scores):
    scores = scores.astype("float32")
    for zeros in range(11):
        marked = masks.lowest(tf.constant(scores), tf.constant(zeros))
        np.testing.assert_array_equal(~marked.numpy(), expected_mask(scores, zeros))


def test_nan_scores_are_kept_longest():
    scores = tf.constant([np.nan, 1.0, np.nan, 2.0])
    mask = masks.unstructured(scores, tf.constant(0.5, tf.float64))
    np.testing.assert_array_equal(mask, [True, False, True, False])


def test_half_precision_scores_are_compared_exactly(rng):
    scores = tf.cast(np.abs(rng.normal(size=(50, 20))), tf.bfloat16)
    mask = masks.unstructured(scores, tf.constant(0.8, tf.float64))
    as_float = tf.cast(scores, tf.float32).numpy()
    np.testing.assert_array_equal(mask, expected_mask(as_float, 800))


def test_masks_are_the_same_under_xla(rng):
    scores = tf.constant(rng.integers(0, 9, (40, 30)).astype("float32"))
    sparsity = tf.constant(0.77, tf.float64)
    compiled = tf.function(masks.unstructured, jit_compile=True)
    np.testing.assert_array_equal(
        compiled(scores, sparsity), masks.unstructured(scores, sparsity)
    )


@pytest.mark.parametrize("pooling", ["AVG", "MAX"])
@pytest.mark.parametrize("shape", [(8, 12), (7, 10), (1, 12), (8, 1)])
def test_whole_blocks_go_in_order_of_their_pooled_scores(rng, pooling, shape):
    block = (2, 4)
    scores = np.abs(rng.normal(size=shape)).astype("float32")
    pool = np.mean if pooling == "AVG" else np.max
    rows, columns = (-(-side // b) for side, b in zip(shape, block, strict=True))
    pooled = np.array(
        [
            [pool(scores[2 * i : 2 * i + 2, 4 * j : 4 * j + 4]) for j in range(columns)]
            for i in range(rows)
        ]
    )
    kept = expected_mask(pooled, expected_zeros(0.6, pooled.size))
    expected = np.kron(kept, np.ones(block, bool))[: shape[0], : shape[1]]
    mask = masks.blocks(
        tf.constant(scores), tf.constant(0.6, tf.float64), block, pooling
    )
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("shape", [(16, 5), (3, 3, 8, 4)])
def test_two_of_four_weights_along_the_input_channels_go(rng, shape):
    scores = np.abs(rng.normal(size=shape)).astype("float32")
    mask = masks.m_by_n(tf.constant(scores), (2, 4)).numpy()
    groups = np.moveaxis(scores, -2, -1).reshape(-1, 4)
    kept = np.moveaxis(mask, -2, -1).reshape(-1, 4)
    assert (kept.sum(axis=1) == 2).all()
    lowest_kept = np.where(kept, groups, np.inf).min(axis=1)
    highest_gone = np.where(kept, -np.inf, groups).max(axis=1)
    assert (lowest_kept >= highest_gone).all()
