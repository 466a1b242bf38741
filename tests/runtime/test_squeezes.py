"""Axes of one place that TensorFlow gives convolutions of sequences."""

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.runtime import products
from state_of_sparsity.runtime.graph import Graph
from tests.runtime import networks

X = networks.numbers(2, 4, 9, seed=9)
WEIGHTS = {
    **{f"w{i}": networks.numbers(4, 4, 1, 3, seed=i, density=0.4) for i in range(3)},
    "scale": networks.numbers(1, 4, 1, seed=5),
    "shift": networks.numbers(4, 1, seed=6),
    "along": networks.numbers(9, seed=7),
    "axes": np.array([2], np.int64),
    "others": np.array([3], np.int64),
}


def convolution(number, source, target):
    pads = {"pads": [0, 1, 0, 1]}
    return [
        ("Unsqueeze", [source, "axes"], [f"{target}/in"], {}),
        ("Conv", [f"{target}/in", f"w{number}"], [f"{target}/out"], pads),
        ("Squeeze", [f"{target}/out", "axes"], [target], {}),
    ]


def normalized(source, target):
    return [
        ("Mul", ["scale", source], [f"{target}/scaled"], {}),
        ("Add", [f"{target}/scaled", "shift"], [f"{target}/shifted"], {}),
        ("Relu", [f"{target}/shifted"], [target], {}),
    ]


CHAIN = [
    *convolution(0, "x", "a"),
    *normalized("a", "b"),
    *convolution(1, "b", "c"),
    ("Add", ["c", "b"], ["d"], {}),
    ("Relu", ["d"], ["e"], {}),
    *convolution(2, "e", "y"),
]


def network(nodes, outputs):
    shape = [*X.shape]
    return networks.model(nodes, WEIGHTS, {"x": shape}, dict.fromkeys(outputs, shape))


def test_normalization_residuals_and_activations_are_the_convolutions():
    graph = Graph(network(CHAIN, ["y"]))
    assert [node.op_type for node in graph.nodes if "queeze" in node.op_type] == [
        "Unsqueeze",
        "Squeeze",
    ]
    shapes = dict.fromkeys([*graph.producers, "x"], (2, 4, 1, 9))
    found = products.find(graph, shapes)
    assert [product.low for product in found] == [0.0, 0.0, -np.inf]
    assert [bool(product.residual) for product in found] == [False, True, False]


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        (CHAIN, ["y"]),
        (CHAIN, ["a", "b", "d", "y"]),
        ([*convolution(0, "x", "a"), *normalized("a", "y")], ["y"]),
        # What reads it without the axis; other axes; a sum with what has none.
        ([*CHAIN[:6], ("Softmax", ["b"], ["z"], {"axis": 1}), *CHAIN[6:]], ["y", "z"]),
        (
            [
                *convolution(0, "x", "a"),
                ("Unsqueeze", ["a", "others"], ["b"], {}),
                ("Squeeze", ["b", "others"], ["c"], {}),
                ("Add", ["c", "x"], ["d"], {}),
                ("Mul", ["d", "along"], ["y"], {}),
            ],
            ["y"],
        ),
        ([*convolution(0, "x", "a"), ("Mul", ["a", "along"], ["y"], {})], ["y"]),
    ],
)
def test_outputs_are_those_of_the_graph(nodes, outputs):
    model = network(nodes, outputs)
    found = sos.runtime.load(model, threads=1).run({"x": X})
    for name, value in networks.expected(model, {"x": X}).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5)
