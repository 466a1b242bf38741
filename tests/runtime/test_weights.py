"""Weights are kept once, and those of lookups without their zeros."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

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


KINDS = ("FLOAT", "FLOAT16", "BFLOAT16", "INT64", "INT8", "BOOL")


def bits(tensor: onnx.TensorProto) -> bytes:
    return numpy_helper.to_array(tensor).tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_keeps_its_weights_once_and_gives_them_back(kind):
    kind = TensorProto.DataType.Value(kind)
    numbers = np.random.default_rng(0).integers(0, 2, (64, 80))
    weight = helper.make_tensor("w", kind, numbers.shape, numbers.reshape(-1))
    model = networks.model(
        [
            ("Gather", ["w", "ids"], ["a"], {}),
            ("Cast", ["a"], ["y"], {"to": TensorProto.DOUBLE}),
        ],
        {},
        {"ids": (TensorProto.INT64, ["n"])},
        {"y": (TensorProto.DOUBLE, ["n", 80])},
    )
    model.graph.initializer.append(weight)
    graph = Graph(model)
    assert graph._model.ByteSize() < 1000
    for given in (graph.whole(), graph.part([0, 1], ["ids"], ["y"])):
        (found,) = given.graph.initializer
        assert found.data_type == kind
        assert list(found.dims) == [64, 80]
        assert bits(found) == bits(weight)
