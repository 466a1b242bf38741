"""Lookups in sparse tables by a kernel of ours are those of ONNX Runtime."""

import os

import numpy as np
import pytest
from onnx import TensorProto

from state_of_sparsity.runtime import graph, load, lookups, tuning
from tests.runtime import networks

ROWS, WIDTH = 37, 21
# By the name of the type, as NumPy's and ONNX's.
KINDS = {"int32": TensorProto.INT32, "int64": TensorProto.INT64}


@pytest.fixture(autouse=True)
def _tables_of_any_size_are_ours(monkeypatch):
    monkeypatch.setattr(tuning, "_LEAST_TABLE", 0)


def table(seed: int = 0, density: float = 0.2) -> np.ndarray:
    """A table with rows that are empty, the first and the last among them."""
    numbers = networks.numbers(ROWS, WIDTH, seed=seed, density=density)
    numbers[[0, 5, 6, ROWS - 1]] = 0
    return numbers


def network(weights, shape, kind="int64", **attributes):
    """An embedding alone."""
    return networks.model(
        [("Gather", ["table", "ids"], ["y"], attributes)],
        {"table": weights},
        {"ids": (KINDS[kind], shape)},
        {"y": [*shape, weights.shape[1]]},
    )


def sparse_lines(session, inputs) -> list:
    lines = session.profile(inputs).lines
    return [line for line in lines if line.kernel.startswith("sparse")]


def check(model, inputs, threads=1, sparse=1):
    """A session has the very numbers of ONNX Runtime, with so many kernels of ours."""
    there = load(model, threads=threads, tune=False)
    for _ in range(2):
        (y,) = there.run(inputs).values()
        expected = networks.expected(model, inputs)["y"]
        np.testing.assert_array_equal(y, expected, strict=True)
    assert len(sparse_lines(there, inputs)) == sparse
    return there


def all_ids(*shape, dtype="int64"):
    """All that there are, from both ends, and some twice."""
    ids = np.random.default_rng(0).permutation(np.arange(-ROWS, ROWS))
    return np.resize(ids, shape).astype(dtype)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((), "int32"), ((100,), "int64"), ((3, 0), "int64"), ((3, 7, 9), "int32")],
)
def test_rows_are_those_of_the_table(shape, dtype):
    ids = all_ids(*shape, dtype=dtype)
    open_shape = [f"size{axis}" for axis in range(ids.ndim)]
    check(network(table(), open_shape, dtype, axis=-2), {"ids": ids})


@pytest.mark.parametrize("width", [1, 16, 21])
def test_a_table_of_any_width_serves_lengths_in_turn_with_all_threads(width):
    weights = networks.numbers(ROWS, width, density=0.15)
    model = network(weights, ["batch", "length"])
    there = load(model, threads=len(os.sched_getaffinity(0)), tune=False)
    for shape in [(1, 7), (40, 50), (0, 4), (2, 33), (2, 0), (1, 7)]:
        ids = all_ids(*shape)
        (y,) = there.run(ids).values()
        expected = networks.expected(model, {"ids": ids})["y"]
        np.testing.assert_array_equal(y, expected, strict=True)


OTHERS = {
    "columns": (table(), {"axis": 1}),
    "three axes": (networks.numbers(8, 4, 3, density=0.1), {}),
    "one axis": (networks.numbers(8, density=0.1), {}),
    "float64": (table().astype(np.float64), {}),
    "dense": (networks.numbers(ROWS, WIDTH), {}),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_tables_are_left_to_onnx_runtime(case):
    weights, attributes = OTHERS[case]
    model = networks.model(
        [
            ("Gather", ["table", "ids"], ["a"], attributes),
            ("Cast", ["a"], ["y"], {"to": TensorProto.FLOAT}),
        ],
        {"table": weights},
        {"ids": (TensorProto.INT64, ["n"])},
        {"y": None},
    )
    check(model, {"ids": np.array([3, 0, 7, -1])}, sparse=0)


def test_small_tables_are_left_to_onnx_runtime(monkeypatch):
    monkeypatch.setattr(tuning, "_LEAST_TABLE", table().nbytes + 1)
    check(network(table(), ["n"]), {"ids": all_ids(40)}, sparse=0)


@pytest.mark.parametrize(
    ("wrong", "dtype"), [(ROWS, "int64"), (-ROWS - 1, "int32"), (2**31 - 1, "int32")]
)
def test_an_id_of_no_row_is_named(wrong, dtype):
    there = load(network(table(), ["n"], dtype), threads=1, tune=False)
    ids = all_ids(70, dtype=dtype)
    right = there.run(ids)["y"]
    broken = ids.copy()
    broken[40] = wrong
    match = rf"'ids' have to be from -{ROWS} to {ROWS - 1}.*Received: {wrong}$"
    with pytest.raises(ValueError, match=match):
        there.run(broken)
    # Which is not held against those that come later.
    np.testing.assert_array_equal(there.run(ids)["y"], right)
    with pytest.raises(ValueError, match=rf"idx={wrong} must be within"):
        there.profile(broken)
    np.testing.assert_array_equal(there.run(ids)["y"], right)


def encoder(weights, kind="int64", tied=False):
    """A layer of a text model: scaled embeddings, positions, a product.

    With a tied table, its transpose makes logits.
    """
    shape = ["batch", "length"]
    nodes = [
        ("Gather", ["table", "ids"], ["a"], {}),
        ("Mul", ["a", "scale"], ["b"], {}),
        ("Add", ["b", "positions"], ["c"], {}),
        ("MatMul", ["c", "w"], ["d"], {}),
        ("Relu", ["d"], ["e"], {}),
        ("Transpose", ["table"], ["t"], {"perm": [1, 0]}),
        ("MatMul", ["e", "t"], ["y"], {}),
    ]
    given = {
        "table": weights,
        "scale": np.array(4.5, np.float32),
        "positions": networks.numbers(1, WIDTH, seed=3),
        "w": networks.numbers(WIDTH, WIDTH, seed=4, density=0.2),
    }
    last = ROWS
    if not tied:
        nodes, last = [*nodes[:4], ("Relu", ["d"], ["y"], {})], WIDTH
    ids = {"ids": (KINDS[kind], shape)}
    return networks.model(nodes, given, ids, {"y": [*shape, last]})


@pytest.mark.parametrize("tune", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_what_follows_a_lookup_reads_it(tied, tune):
    model = encoder(table(), tied=tied)
    there = load(model, threads=1, tune=tune)
    for shape in [(2, 9), (1, 30)]:
        ids = all_ids(*shape)
        expected = networks.expected(model, {"ids": ids})["y"]
        np.testing.assert_allclose(there.run(ids)["y"], expected, rtol=1e-4, atol=1e-5)
    if not tune:
        lines = sparse_lines(there, ids)
        assert [line.name for line in lines] == ["a", "d", "y"][: 2 + tied]


def test_a_profile_says_what_a_lookup_moves():
    weights, ids = table(), all_ids(2, 9)
    there = load(network(weights, ["batch", "length"]), threads=1, tune=False)
    profile = there.profile(ids)
    (line,) = profile.lines
    count = np.count_nonzero(weights)
    assert line.name == "y"
    assert line.name in str(profile)
    assert line.kernel == f"sparse, 18 rows of {count / ROWS:.0f} non-zeros"
    assert line.density == count / weights.size
    size = 18 * (8 * count / ROWS + 8 + 4 * WIDTH)
    assert line.megabytes == pytest.approx(size / 1e6)
    assert line.multiply_adds == 0
    assert line.milliseconds > 0


@pytest.mark.parametrize("shared", [False, True])
def test_a_table_that_others_read_too_stays_dense(shared):
    nodes = [
        ("Gather", ["table", "ids"], ["a"], {}),
        ("Gather", ["table", "others"], ["b"], {}),
        ("Gemm", ["a", "table"], ["c"], {"transB": 1}),
        ("MatMul", ["b", "w"], ["d"], {}),
    ]
    given = {"table": table(), "w": networks.numbers(WIDTH, ROWS)}
    ids = (TensorProto.INT64, ["n"])
    outputs = {"c": ["n", ROWS], "d": ["n", ROWS]}
    if not shared:
        nodes[2] = ("MatMul", ["a", "w"], ["c"], {})
    model = networks.model(nodes, given, {"ids": ids, "others": ids}, outputs)
    cut = graph.Graph(model)
    found = lookups.find(cut, lambda matrix: True)
    lookups.pack(cut, found)
    assert {lookup.name for lookup in found} == {"a", "b"}
    assert found[0].table is found[1].table
    assert cut.weights.is_packed("table") != shared
    inputs = {"ids": all_ids(9), "others": all_ids(9)[::-1].copy()}
    there = load(model, threads=1, tune=False).run(inputs)["c"]
    expected = networks.expected(model, inputs)["c"]
    np.testing.assert_allclose(there, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("slower", [0.9, 1.02, 1.2])
def test_a_lookup_of_equal_speed_is_ours(slower, monkeypatch):
    def seconds(jobs, limit=None):
        for job in jobs:
            job()
        ours = [slower] * (len(jobs) - 1)
        # Of lookups, the dense one comes first, of plans last.
        return [1.0, *ours] if limit is None else [*ours, 1.0]

    monkeypatch.setattr(tuning, "seconds", seconds)
    ids = all_ids(4, 5)
    there = load(network(table(), ["batch", "length"]), threads=1)
    np.testing.assert_array_equal(there.run(ids)["y"], table()[ids])
    assert len(sparse_lines(there, ids)) == (slower < 1.1)
