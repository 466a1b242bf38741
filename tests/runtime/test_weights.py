"""Weights that are kept without their zeros are those that they were."""

import gc

import numpy as np
import pytest
from onnx import TensorProto

from state_of_sparsity.runtime.graph import Graph
from state_of_sparsity.runtime.weights import Table, Weights
from tests.runtime import networks


@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (300, 7)])
def test_a_table_is_its_matrix(shape, density):
    matrix = networks.numbers(*shape, density=density)
    matrix[shape[0] // 2] = 0
    table = Table.of(matrix)
    np.testing.assert_array_equal(table.dense(), matrix, strict=True)
    assert table.density == np.count_nonzero(matrix) / matrix.size


def test_zeros_lose_their_signs():
    table = Table.of(np.array([[-0.0, -1.0]], np.float32))
    assert len(table.values) == 1
    assert not np.signbit(table.dense()[0, 0])


def test_packed_weights_are_those_that_they_were():
    matrix, vector = networks.numbers(9, 5, density=0.2), networks.numbers(5)
    weights = Weights({"matrix": matrix, "vector": vector})
    weights.pack("matrix", Table.of(matrix))
    assert list(weights) == ["matrix", "vector"]
    assert len(weights) == 2
    assert "matrix" in weights
    assert weights.get("other") is None
    assert weights["vector"] is vector
    np.testing.assert_array_equal(weights["matrix"], matrix, strict=True)


@pytest.mark.parametrize("rows", [5, 500])
def test_sessions_of_a_packed_graph_compute_the_same(rows):
    matrix = networks.numbers(rows, 9, density=0.2)
    model = networks.model(
        [("Gather", ["w", "ids"], ["a"], {}), ("Neg", ["a"], ["y"], {})],
        {"w": matrix},
        {"ids": (TensorProto.INT64, ["n"])},
        {"y": ["n", 9]},
    )
    graph = Graph(model)
    graph.pack("w", Table.of(matrix))
    sessions = [graph.start_whole(), graph.start_part([0], ["ids"], ["a"])]
    # What nobody held would be written over.
    gc.collect()
    others = [np.full_like(matrix, np.nan) for _ in range(9)]
    ids = np.arange(rows)
    for session, expected in zip(sessions, [-matrix, matrix], strict=True):
        (y,) = session.run(None, {"ids": ids})
        np.testing.assert_array_equal(y, expected)
    assert graph.weights.is_packed("w")
    assert all(np.isnan(other).all() for other in others)
