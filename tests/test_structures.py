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


# Shapes of kernels, and axes of which slices have one place: of Dense, convolutions,
# and the projections of attention.
SLICES = [
    ((7, 5), (-1,)),
    ((7, 5), (-2,)),
    ((3, 3, 4, 6), (-1,)),
    ((3, 3, 6, 4), (-2,)),
    ((6, 4, 3), (-2,)),
    ((6, 4, 3), (-2, -1)),
    ((4, 3, 6), (-3,)),
]


@pytest.mark.parametrize(("shape", "axes"), SLICES)
def test_whole_slices_go_in_order_of_their_mean_scores(rng, shape, axes):
    scores = np.abs(rng.normal(size=shape)).astype("float32")
    slices = structures.Slices("channels", axes)
    others = tuple({*range(-len(shape), 0)} - {*axes})
    means = scores.astype("float64").mean(axis=others, keepdims=True)
    assert slices.unit_shape(shape) == means.shape
    assert slices.price(shape) * means.size == scores.size
    zeros = min(round(0.6 * means.size), means.size - 1)
    kept = np.ones(means.size, bool)
    kept[np.argsort(means, axis=None)[:zeros]] = False
    expected = np.broadcast_to(kept.reshape(means.shape), shape)
    np.testing.assert_array_equal(mask_of(slices, scores, 0.6), expected)
    share = slices.masked_share(np.array([0.6]), shape)
    assert share == pytest.approx(1 - expected.mean())


def test_slices_that_are_masked_already_go_first(rng):
    scores = rng.normal(size=(3, 5)).astype("float32")
    scores[:, 2] = -np.inf
    mask = mask_of(structures.Slices("channels", (-1,)), scores, 0.2)
    np.testing.assert_array_equal(mask, np.isfinite(scores))


def test_slices_without_axes_are_refused_and_say_who_knows_them():
    heads = structures.Slices("heads")
    assert heads.refusal((4, 4)) == "its layer has no heads that are known"
    deep = structures.Slices("channels", (-4,))
    assert deep.refusal((3, 4)) == "channels on axes (-4,) need a kernel of higher rank"
    assert deep.refusal((3, 3, 3, 4)) is None
    with pytest.raises(ValueError, match=r"are its heads: give.*sos\.sparsify"):
        heads.units((3, 4, 5))
    with pytest.raises(ValueError, match=r"of must be one of inputs, .*'rows'"):
        structures.Slices("rows")


def counts_of_a_sort(scores, prices, count):
    """Units go one by one, in the order of a stable sort, for as long as one fits."""
    tensor = np.concatenate([np.full(s.size, i) for i, s in enumerate(scores)])
    order = np.argsort(np.concatenate([s.ravel() for s in scores]), kind="stable")
    gone = np.zeros(len(scores), int)
    for place in tensor[order]:
        if gone[place] < scores[place].size - 1:
            if gone @ prices + prices[place] > count:
                break
            gone[place] += 1
    return gone


@pytest.mark.parametrize("kind", ["scales", "ties"])
def test_of_units_of_unequal_price_those_go_that_fit(rng, kind):
    scores = [rng.normal(size=n).astype("float32") for n in (20, 1, 18, 30)]
    if kind == "ties":
        scores = [np.round(s) for s in scores]
    prices = [9, 4, 25, 1]
    lowest_by_tensor = quick(
        lambda *given: masks.lowest_by_tensor(given[1:], given[0], prices)
    )
    tensors = [ops.convert_to_tensor(s) for s in scores]
    most = sum(p * (s.size - 1) for p, s in zip(prices, scores, strict=True))
    for count in (0, 1, 30, 31, 100, 222, 400, most - 1, most):
        found = ops.convert_to_numpy(lowest_by_tensor(np.int32(count), *tensors))
        np.testing.assert_array_equal(found, counts_of_a_sort(scores, prices, count))
