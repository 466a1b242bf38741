"""Patterns of masks against independent computations in NumPy."""

import numpy as np
import pytest
from keras import ops

from state_of_sparsity import masks, structures
from tests.autodiff import quick


def mask_of(structure, scores, sparsity):
    zeros = masks.zero_count(sparsity, structure.units(scores.shape))
    mask = quick(structure.mask)(ops.convert_to_tensor(scores), zeros)
    return ops.convert_to_numpy(mask)


@pytest.mark.parametrize(
    ("shape", "pooling"), [((8, 12), "AVG"), ((7, 10), "MAX"), ((1, 12), "AVG")]
)
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
    zeros = min(round(0.6 * pooled.size), pooled.size - 1)
    kept = np.ones(pooled.size, bool)
    kept[np.argsort(pooled, axis=None, kind="stable")[:zeros]] = False
    expected = np.kron(kept.reshape(pooled.shape), np.ones(block, bool))
    mask = mask_of(structures.Blocks(block, pooling), scores, 0.6)
    np.testing.assert_array_equal(mask, expected[: shape[0], : shape[1]])


@pytest.mark.parametrize(
    ("m", "n", "shape", "axis"),
    [
        (2, 4, (16, 5), -2),
        (1, 4, (3, 3, 8, 4), -2),
        (1, 2, (16, 5), -2),
        (3, 4, (8, 3, 5), -3),
        (2, 4, (3, 5, 8), -1),
        (1, 2, (2, 4, 3, 3, 2), -4),
    ],
)
def test_m_of_n_weights_along_an_axis_go(rng, shape, m, n, axis):
    scores = np.abs(rng.normal(size=shape)).astype("float32")
    mask = mask_of(structures.ZerosOfN(m, n, axis), scores, m / n)
    groups = np.moveaxis(scores, axis, -1).reshape(-1, n)
    kept = np.moveaxis(mask, axis, -1).reshape(-1, n)
    assert (kept.sum(axis=1) == n - m).all()
    lowest_kept = np.where(kept, groups, np.inf).min(axis=1)
    highest_gone = np.where(kept, -np.inf, groups).max(axis=1)
    assert (lowest_kept >= highest_gone).all()


def test_of_equal_scores_in_a_group_the_first_stay():
    mask = mask_of(structures.ZerosOfN(2, 4), np.zeros((8, 3), "float32"), 0.5)
    expected = np.repeat([[True], [True], [False], [False]] * 2, 3, axis=1)
    np.testing.assert_array_equal(mask, expected)


def test_shapes_that_a_structure_does_not_fit_are_refused():
    blocks, groups = structures.Blocks((2, 2), "AVG"), structures.ZerosOfN(2, 4)
    assert blocks.refusal((3, 3, 4, 4)) == "blocks of (2, 2) need matrices"
    assert groups.refusal((8,)) == "2 zeros of 4 need a kernel of a linear map"
    refusal = "4 does not divide axis 2, its 6 input channels"
    assert groups.refusal((3, 3, 6, 8)) == refusal
    assert groups.refusal((3, 4, 4)) is None
    of_inputs = structures.ZerosOfN(2, 4, axis=-3)
    assert (
        of_inputs.refusal((6, 4, 4)) == "4 does not divide axis 0, its 6 input channels"
    )
    for structure in (blocks, groups, structures.SingleWeights()):
        assert structure.refusal((8, 8)) is None
