"""Products by kernels of ours are those of float64 NumPy."""

import numpy as np
import pytest

from state_of_sparsity.runtime import layouts, load, tuning, vectors
from tests.runtime import networks


@pytest.fixture(autouse=True)
def _all_products_are_ours(monkeypatch):
    monkeypatch.setattr(tuning, "MOST_DENSE", 1.0)
    ours(monkeypatch, 4)


def ours(monkeypatch, width: int, blocks: int = 1) -> None:
    """All products are computed by tiles of at most so many vectors."""

    def tilings(found, shapes):
        return {product.name: layouts.Tiling(width, blocks) for product in found}

    monkeypatch.setattr(tuning, "by_rule", tilings)


def check(model, inputs, expected, sparse: int = 1, threads: int = 1) -> None:
    """A session computes what is expected, with so many products of ours."""
    session = load(model, threads=threads, tune=False)
    for _ in range(2):
        (y,) = session.run(inputs).values()
        assert y.shape == expected.shape
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    lines = session.profile(inputs).lines
    assert sum("sparse" in line.kernel for line in lines) == sparse


# Sizes, channels, rows, kernel, strides, dilations, zeros before and after, groups.
CONVOLUTIONS = {
    "pointwise": ((9, 7), 5, 6, (1, 1), (1, 1), (1, 1), (0, 0), (0, 0), 1),
    "packed as it is": ((8, 8), 3, 4, (1, 1), (1, 1), (1, 1), (0, 0), (0, 0), 1),
    "strided pointwise": ((9, 7), 4, 4, (1, 1), (2, 3), (1, 1), (0, 0), (0, 0), 1),
    "padded": ((9, 7), 3, 4, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1), 1),
    "unevenly padded": ((6, 7), 3, 4, (3, 2), (1, 1), (1, 1), (2, 0), (0, 1), 1),
    "inside": ((9, 8), 3, 4, (3, 3), (1, 1), (1, 1), (0, 0), (0, 0), 1),
    "padded more than it reaches": (
        ((5, 4), 2, 3, (1, 1), (1, 1), (1, 1), (2, 1), (3, 1), 1)
    ),
    "strided": ((10, 9), 3, 4, (3, 3), (2, 2), (1, 1), (1, 1), (1, 1), 1),
    "strides above the kernel": (
        ((11, 9), 3, 2, (2, 1), (3, 2), (1, 1), (1, 0), (0, 1), 1)
    ),
    "dilated": ((12, 9), 2, 3, (3, 3), (1, 1), (2, 3), (2, 3), (2, 3), 1),
    "dilated and strided": ((12, 9), 2, 3, (3, 3), (2, 2), (3, 2), (3, 2), (2, 1), 1),
    "of groups": ((6, 5), 6, 4, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1), 2),
    "depthwise": ((6, 5), 4, 4, (3, 3), (2, 2), (1, 1), (0, 0), (1, 1), 4),
    "large": ((40, 37), 3, 3, (5, 5), (1, 1), (1, 1), (2, 2), (2, 2), 1),
    "of one axis": ((23,), 3, 5, (4,), (2,), (1,), (1,), (2,), 1),
    "of three axes": (
        ((5, 4, 6), 2, 3, (3, 2, 3), (1, 2, 1), (1, 1, 2), (1, 0, 2), (1, 1, 2), 1)
    ),
}


@pytest.mark.parametrize(
    ("case", "batch"), [*((case, 3) for case in CONVOLUTIONS), ("padded", 1)]
)
def test_a_convolution_is_that_of_float64(case, batch):
    sizes, channels, rows, kernel, strides, dilations, before, after, groups = (
        CONVOLUTIONS[case]
    )
    weights = networks.numbers(rows, channels // groups, *kernel, density=0.5)
    bias = networks.numbers(rows, seed=1)
    x = networks.numbers(batch, channels, *sizes, seed=2)
    expected = networks.convolution(
        x, weights, bias, strides, dilations, before, after, groups
    )
    attributes = {
        "kernel_shape": kernel,
        "strides": strides,
        "dilations": dilations,
        "pads": before + after,
        "group": groups,
    }
    model = networks.model(
        [("Conv", ["x", "w", "b"], ["y"], attributes)],
        {"w": weights, "b": bias},
        {"x": ["batch", channels, *sizes]},
        {"y": ["batch", rows, *expected.shape[2:]]},
    )
    check(model, {"x": x}, expected)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_automatic_zeros_are_those_of_onnx(auto_pad):
    total = 0 if auto_pad == "VALID" else 1
    before, after = (0, total) if auto_pad == "SAME_UPPER" else (total, 0)
    x, weights = networks.numbers(2, 3, 8, 8), networks.numbers(4, 3, 3, 3, seed=1)
    pads = ((before,) * 2, (after,) * 2)
    expected = networks.convolution(
        x, weights, np.zeros(4), (2, 2), (1, 1), *pads, groups=1
    )
    attributes = {"strides": (2, 2), "auto_pad": auto_pad}
    model = networks.model(
        [("Conv", ["x", "w"], ["y"], attributes)],
        {"w": weights},
        {"x": ["batch", 3, 8, 8]},
        {"y": ["batch", *expected.shape[1:]]},
    )
    check(model, {"x": x}, expected)


@pytest.mark.parametrize(
    ("density", "positions"), [(0.0, 15), (0.02, 300), (0.5, 16), (0.5, 1), (1.0, 17)]
)
def test_a_product_is_right_for_any_density_and_number_of_positions(density, positions):
    weights = networks.numbers(7, 9, 1, density=density)
    x = networks.numbers(1, 9, positions, seed=1)
    model = networks.model(
        [("Conv", ["x", "w"], ["y"], {})],
        {"w": weights},
        {"x": [1, 9, positions]},
        {"y": [1, 7, positions]},
    )
    expected = weights[:, :, 0].astype(np.float64) @ x.astype(np.float64)
    check(model, {"x": x}, expected)


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("width", vectors.WIDTHS)
def test_every_tiling_gives_the_same(width, blocks, monkeypatch):
    ours(monkeypatch, width, blocks)
    x, weights = (
        networks.numbers(2, 5, 31, 9),
        networks.numbers(3, 5, 3, 3, density=0.3),
    )
    residual = networks.numbers(2, 3, 31, 9, seed=1)
    expected = networks.convolution(
        x, weights, np.zeros(3), (1, 1), (1, 1), (1, 1), (1, 1), 1
    )
    nodes = [
        ("Conv", ["x", "w"], ["c"], {"pads": [1, 1, 1, 1]}),
        ("Add", ["r", "c"], ["y"], {}),
    ]
    shape = ["batch", 3, 31, 9]
    model = networks.model(
        nodes, {"w": weights}, {"x": ["batch", 5, 31, 9], "r": shape}, {"y": shape}
    )
    check(model, {"x": x, "r": residual}, expected + residual)


def matrices(node, weights, x_shape, x, expected, **inputs):
    shape = ["a", *x_shape[1:]]
    model = networks.model(node, weights, {"x": shape}, {"y": None})
    check(model, {"x": x}, expected, **inputs)


def test_blocks_of_channels_add_up(monkeypatch):
    ours(monkeypatch, 4, blocks=4)
    test_a_convolution_is_that_of_float64("of groups", 3)
    test_a_convolution_is_that_of_float64("pointwise", 1)
    test_sums_and_limits_are_part_of_the_product()


def test_a_matrix_product_from_the_right_is_that_of_float64():
    x, weights = networks.numbers(2, 3, 35), networks.numbers(35, 20, density=0.2)
    bias = networks.numbers(20, seed=1)
    nodes = [("MatMul", ["x", "w"], ["p"], {}), ("Add", ["p", "b"], ["y"], {})]
    expected = x.astype(np.float64) @ weights.astype(np.float64) + bias
    matrices(nodes, {"w": weights, "b": bias}, ["a", 3, 35], x, expected)


def test_a_matrix_product_from_the_left_is_that_of_float64():
    x, weights = networks.numbers(2, 5, 19), networks.numbers(7, 5, density=0.4)
    expected = weights.astype(np.float64) @ x.astype(np.float64)
    nodes = [("MatMul", ["w", "x"], ["y"], {})]
    matrices(nodes, {"w": weights}, ["a", 5, 19], x, expected)


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_general_matrix_product_takes_its_factors(transposed):
    x, weights = networks.numbers(3, 8), networks.numbers(8, 6, density=0.4)
    bias = networks.numbers(1, 6, seed=1)
    attributes = {"alpha": 0.5, "beta": 2.0, "transB": transposed}
    given = np.ascontiguousarray(weights.T) if transposed else weights
    expected = 0.5 * x.astype(np.float64) @ weights.astype(np.float64) + 2.0 * bias
    nodes = [("Gemm", ["x", "w", "b"], ["y"], attributes)]
    matrices(nodes, {"w": given, "b": bias}, ["a", 8], x, expected)


def test_sums_and_limits_are_part_of_the_product():
    x, weights = networks.numbers(2, 4, 5, 5), networks.numbers(4, 4, 3, 3, density=0.5)
    constant = networks.numbers(4, 1, 1, seed=1)
    nodes = [
        ("Conv", ["x", "w"], ["c"], {"pads": [1, 1, 1, 1]}),
        ("Add", ["c", "k"], ["d"], {}),
        ("Add", ["x", "d"], ["e"], {}),
        ("Clip", ["e", "low", "high"], ["y"], {}),
    ]
    limits = {"low": np.float32(-0.5), "high": np.float32(1.5)}
    weights_of = {"w": weights, "k": constant}
    weights_of |= {name: np.array(value) for name, value in limits.items()}
    shape = ["batch", 4, 5, 5]
    model = networks.model(nodes, weights_of, {"x": shape}, {"y": shape})
    expected = networks.convolution(
        x, weights, constant.reshape(-1), (1, 1), (1, 1), (1, 1), (1, 1), 1
    )
    check(model, {"x": x}, np.clip(expected + x, -0.5, 1.5))
    session = load(model, threads=1, tune=False)
    session.run(x)
    assert not [line for line in session.profile(x).lines if "ONNX" in line.kernel]


@pytest.mark.parametrize("groups", [1, 2])
def test_normalization_after_a_convolution_is_part_of_the_product(groups):
    x = networks.numbers(2, 4, 6, 5)
    weights = networks.numbers(6, 4 // groups, 3, 3, density=0.5)
    mean, scale, shift = (networks.numbers(1, 6, 1, 1, seed=i) for i in (1, 2, 3))
    nodes = [
        ("Conv", ["x", "w"], ["a"], {"pads": [1, 1, 1, 1], "group": groups}),
        ("Sub", ["a", "m"], ["b"], {}),
        ("Mul", ["b", "s"], ["c"], {}),
        ("Add", ["c", "h"], ["d"], {}),
        ("Relu", ["d"], ["y"], {}),
    ]
    given = {"w": weights, "m": mean, "s": scale, "h": shift}
    model = networks.model(nodes, given, {"x": ["n", 4, 6, 5]}, {"y": ["n", 6, 6, 5]})
    y = networks.convolution(x, weights, np.zeros(6), *[(1, 1)] * 4, groups)
    check(model, {"x": x}, np.maximum((y - mean) * scale + shift, 0.0))


EINSUMS = {
    "heads": ("abc,cde->abde", (3, 7, 8), (8, 2, 5)),
    "joined heads": ("abcd,cde->abe", (3, 7, 2, 5), (2, 5, 8)),
    "one of each": ("ij,jk->ik", (3, 8), (8, 5)),
}


@pytest.mark.parametrize("case", EINSUMS)
def test_sums_over_axes_are_those_of_float64(case):
    equation, shape, weight_shape = EINSUMS[case]
    x, weights = networks.numbers(*shape), networks.numbers(*weight_shape, density=0.4)
    expected = np.einsum(equation, x.astype(np.float64), weights.astype(np.float64))
    axes = weights.ndim - (weights.ndim + x.ndim - expected.ndim) // 2
    bias = networks.numbers(*weight_shape[-axes:], seed=1)
    nodes = [
        ("Einsum", ["x", "w"], ["a"], {"equation": equation}),
        ("Add", ["a", "b"], ["y"], {}),
    ]
    matrices(nodes, {"w": weights, "b": bias}, ["a", *shape[1:]], x, expected + bias)


@pytest.mark.parametrize("equation", ["abc,dc->abd", "abc,cd->adb", "abc,bc->ab"])
def test_other_sums_are_left_to_onnx_runtime(equation):
    x = networks.numbers(2, 4, 4)
    weights = networks.numbers(4, 4, density=0.4)
    nodes = [("Einsum", ["x", "w"], ["y"], {"equation": equation})]
    model = networks.model(nodes, {"w": weights}, {"x": [2, 4, 4]}, {"y": None})
    check(model, {"x": x}, np.einsum(equation, x, weights), sparse=0)


def test_nan_and_infinity_go_through_where_weights_are_not_zero():
    weights = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32)[:, :, None]
    x = np.array([[[np.nan, 1.0], [3.0, np.inf]]], np.float32)
    nodes = [("Conv", ["x", "w"], ["c"], {}), ("Relu", ["c"], ["y"], {})]
    model = networks.model(nodes, {"w": weights}, {"x": [1, 2, 2]}, {"y": [1, 2, 2]})
    (y,) = load(model, threads=1, tune=False).run(x).values()
    np.testing.assert_array_equal(y, [[[np.nan, 1.0], [6.0, np.inf]]])


def test_an_empty_batch_gives_empty_outputs():
    weights = networks.numbers(4, 3, 1)
    model = networks.model(
        [("Conv", ["x", "w"], ["y"], {})],
        {"w": weights},
        {"x": ["batch", 3, 5]},
        {"y": ["batch", 4, 5]},
    )
    session = load(model, threads=1, tune=False)
    (y,) = session.run(np.zeros((0, 3, 5), np.float32)).values()
    assert y.shape == (0, 4, 5)


@pytest.mark.parametrize("positions", [1, 16, 33, 49, 196, 12544])
def test_tiles_cover_all_vectors_once(positions):
    for width in vectors.WIDTHS:
        tiles = layouts.tiles_of(positions, width)
        covered = [first + i for first, size in tiles for i in range(size)]
        assert covered == list(range(-(-positions // vectors.LANES)))
        assert max(tiles[:, 1]) <= width
        assert set(tiles[:, 1]) <= set(vectors.WIDTHS)
