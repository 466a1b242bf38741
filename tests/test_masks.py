"""Masks against independent computations in NumPy."""

import importlib

import keras
import numpy as np
import pytest
from keras import ops

from state_of_sparsity import masks
from tests.autodiff import gradient, quick
from tests.shared import reference

_lowest, _lowest_by_tensor = quick(masks.lowest), quick(masks.lowest_by_tensor)
_threshold = quick(masks.threshold)


def lowest(scores, zeros):
    return ops.convert_to_numpy(_lowest(ops.convert_to_tensor(scores), zeros))


def expected_mask(scores, zeros):
    """The lowest scores, the first ones among equals, by a stable sort."""
    order = np.argsort(scores.ravel(), kind="stable")
    mask = np.ones(scores.size, bool)
    mask[order[:zeros]] = False
    return mask.reshape(scores.shape)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 10, 1000])
def test_zero_count_is_rounded_and_leaves_a_weight(size):
    for sparsity in (0.0, 0.1, 0.5, 0.7, 0.9, 0.98, 0.999):
        check_zero_count(sparsity, size)


def check_zero_count(sparsity, size):
    count = masks.zero_count(sparsity, size)
    assert count == min(int(np.rint(sparsity * size)), size - 1)
    together = masks.zero_count(sparsity, 3 * size, 3)
    assert together == min(int(np.rint(sparsity * 3 * size)), 3 * size - 3)


@pytest.mark.parametrize("shape", [(1,), (7,), (5, 6), (3, 3, 4, 8)])
def test_mask_is_that_of_a_stable_sort(rng, shape):
    scores = np.abs(rng.normal(size=shape)).astype("float32")
    for sparsity in (0.0, 0.3, 0.9, 0.99):
        zeros = masks.zero_count(sparsity, scores.size)
        expected = expected_mask(scores, zeros)
        np.testing.assert_array_equal(~lowest(scores, zeros), expected)


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
        marked = lowest(scores, zeros)
        np.testing.assert_array_equal(~marked, expected_mask(scores, zeros))


def test_nan_scores_are_kept_longest():
    scores = np.array([np.nan, 1.0, -np.nan, 2.0, np.inf, 3.0], "float32")
    np.testing.assert_array_equal(~lowest(scores, 3), [1, 0, 1, 0, 1, 0])


@pytest.mark.parametrize("xla", [False, True])
def test_branches_of_compiled_graphs_select_the_same(rng, xla):
    scores = np.round(rng.normal(size=(40, 30)), 1).astype("float32")

    def selected(scores, count):
        return ops.cond(
            count > 5,
            lambda: (masks.lowest(scores, count), masks.threshold([scores**2], count)),
            lambda: (ops.zeros(scores.shape, "bool"), ops.zeros(())),
        )

    if keras.backend.backend() == "tensorflow":
        tf = importlib.import_module("tensorflow")
        selected = tf.function(selected, jit_compile=xla)
    for count in (5, 500, 700):
        arguments = ops.convert_to_tensor(scores), ops.convert_to_tensor(count)
        marked, found = map(ops.convert_to_numpy, quick(selected)(*arguments))
        expected = ~expected_mask(scores, count) & (count > 5)
        np.testing.assert_array_equal(marked, expected)
        assert found == (count > 5) * np.sort(scores.ravel() ** 2)[count - 1]


def test_no_gradient_passes():
    def kept(scores):
        shrunk = scores - masks.threshold([scores], 2)
        return ops.where(masks.lowest(scores, 3), 0.0, shrunk)

    (slope,) = gradient(kept, np.arange(5, dtype="float32"))
    np.testing.assert_array_equal(slope, [0, 0, 0, 1, 1])


def test_half_precision_scores_are_compared_exactly(rng):
    scores = ops.cast(np.abs(rng.normal(size=(50, 20))), "bfloat16")
    as_float = ops.convert_to_numpy(ops.cast(scores, "float32"))
    np.testing.assert_array_equal(~lowest(scores, 800), expected_mask(as_float, 800))


def counts_of_a_sort(scores, count):
    """Weights go one by one, in the order of a stable sort of all tensors' scores."""
    tensor = np.concatenate([np.full(s.size, i) for i, s in enumerate(scores)])
    order = np.argsort(np.concatenate([s.ravel() for s in scores]), kind="stable")
    gone = np.zeros(len(scores), int)
    for place in tensor[order]:
        if gone.sum() < count and gone[place] < scores[place].size - 1:
            gone[place] += 1
    return gone


@pytest.mark.parametrize("kind", ["scales", "ties", "equal", "signed", "extreme"])
def test_the_lowest_scores_of_several_tensors_are_those_of_one_sort(rng, kind):
    shapes = [(4, 5), (1,), (3, 3, 2), (2,), (30,)]
    scores = [rng.normal(size=shape).astype("float32") for shape in shapes]
    if kind == "scales":
        scores = [np.abs(s) * 10.0**e for s, e in zip(scores, range(5), strict=True)]
    elif kind == "ties":
        scores = [np.abs(np.round(s)) for s in scores]
    elif kind == "equal":
        scores = [np.zeros_like(s) for s in scores]
    elif kind == "extreme":
        scores[0][0], scores[2][0], scores[4][:9] = np.inf, -np.inf, -0.0
    scores = [s.astype("float32") for s in scores]
    tensors = [ops.convert_to_tensor(s) for s in scores]
    most = sum(s.size for s in scores) - len(scores)
    for count in (*range(0, most, 9), most):
        found = ops.convert_to_numpy(_lowest_by_tensor(tensors, count))
        np.testing.assert_array_equal(found, counts_of_a_sort(scores, count))


SIZES = [(4, 50), (1,), (3, 3, 20)]
# Also denormal, infinite, equal; and many of 0, as masked weights have.
KINDS = {
    "normal": lambda x: x,
    "masked": lambda x: np.maximum(x - 1, 0),
    "ties": np.round,
    "equal": np.ones_like,
    "tiny": lambda x: x * 1e-44,
    "scales": lambda x: np.exp(30 * x),
    "infinite": lambda x: x / (x > 0.5),
    "signed zeros": lambda x: np.where(x < 1, -0.0, x),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_the_threshold_of_several_tensors_is_exact_whatever_the_guess(rng, kind):
    scores = [KINDS[kind](np.abs(rng.normal(size=shape))) for shape in SIZES]
    scores = [s.astype("float32") for s in scores]
    in_order = np.sort(np.concatenate([s.ravel() for s in scores]))
    tensors = [ops.convert_to_tensor(s) for s in scores]
    for count in (1, 2, 77, 342, in_order.size):
        expected = in_order[count - 1]
        for guess in (0.01, expected, expected * 1.001, 0.0, 1e38, np.nan, -1.0):
            found = _threshold(tensors, count, np.float32(guess))
            assert ops.convert_to_numpy(found).view("int32") == (expected + 0).view(
                "int32"
            )
    assert _threshold(tensors, 0) == -1.0


def test_a_nan_is_the_highest_score_of_all():
    scores = [ops.convert_to_tensor(np.array([np.nan, 1.0], "float32"))]
    assert _threshold(scores, 1) == 1.0
    assert np.isnan(ops.convert_to_numpy(_threshold(scores, 2)))


def test_random_scores_are_those_of_unsigned_arithmetic():
    for stream in ((0, 0, 0), (3, 1, 2), (2**31, 0, 5)):
        expected = reference.random_scores((50, 100), *stream).astype("float32")
        scores = ops.convert_to_numpy(masks.random_scores((50, 100), *stream))
        np.testing.assert_array_equal(scores, expected)


def test_random_scores_of_other_streams_are_independent():
    def scores(*stream):
        return ops.convert_to_numpy(masks.random_scores((100_000,), *stream))

    first = scores(0, 0, 0)
    for other in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        second = scores(*other)
        # A correlation of 5 standard deviations is a false alarm once in 2 million.
        assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(first.size)
        # Of two draws of multiples of 2**-24, 0.6 % are in common; of a shuffle, all.
        assert np.intersect1d(first, second).size < 0.05 * first.size
