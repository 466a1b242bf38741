"""Weights that graphs compute from whole numbers and scales."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from state_of_sparsity import runtime
from state_of_sparsity.runtime.graph import Graph
from state_of_sparsity.runtime.scaled_weights import ScaledWeight, put_in
from tests.runtime import networks

ROWS, COLUMNS, GROUPS = 192, 40, 6


@pytest.mark.parametrize("most", [7, 200])
def test_weights_are_found_and_computed_to_the_bit(tmp_path, rng, most):
    steps = rng.integers(-most, most + 1, (ROWS, COLUMNS))
    steps *= rng.random(steps.shape) < 0.5
    weight = ScaledWeight(
        steps,
        rng.random((GROUPS, COLUMNS), "float32") + 0.5,
        rng.permutation(np.arange(ROWS) % GROUPS).astype("int32"),
        rng.random((ROWS, 1), "float32") + 0.5,
    )
    value = weight.value()
    expected = steps * weight.scales[weight.groups].astype("float64") / weight.divisors
    np.testing.assert_allclose(value, expected, rtol=3e-7)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("MatMul", ["h", "other"], ["y"]),
    ]
    # The same numbers in another order are another weight.
    weights = {"w": value, "other": value.T.copy()}
    model = networks.model(nodes, weights, {"x": [None, ROWS]}, {"y": [None, ROWS]})
    computed = onnx.ModelProto()
    computed.CopyFrom(model)
    put_in(computed, [weight])
    onnx.checker.check_model(computed, full_check=True)
    held = {t.name: numpy_helper.to_array(t) for t in computed.graph.initializer}
    assert weights.keys() & held.keys() == {"other"}
    np.testing.assert_array_equal(held["w/steps"], steps)
    assert held["w/steps"].dtype == ("int8" if most < 128 else "int16")
    path, floats = tmp_path / "model.sparse", tmp_path / "floats.sparse"
    runtime.write(computed, path)
    runtime.write(model, floats)
    assert path.stat().st_size < 0.8 * floats.stat().st_size
    # The engine finds its zeros, once they are floats.
    loaded = Graph(runtime.read(path)).weights
    for array in weights.values():
        assert any(np.array_equal(found, array) for found in loaded.values())
    x = {"x": rng.normal(size=(3, ROWS)).astype("float32")}
    both = (networks.expected(m, x)["y"] for m in (model, computed))
    np.testing.assert_array_equal(*both)
