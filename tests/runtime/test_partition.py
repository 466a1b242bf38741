"""Graphs are cut into as few parts as their products allow."""

import pytest

from state_of_sparsity.runtime import partition, products
from state_of_sparsity.runtime.graph import Graph
from tests.runtime import networks

SHAPE = [1, 4, 6, 6]


def network(nodes, convolutions, outputs):
    """A network of 1x1 convolutions "c0", "c1", ... of "x" and what is between."""
    weights = {
        f"w{i}": networks.numbers(4, 4, 1, 1, seed=i, density=0.4)
        for i in range(convolutions)
    }
    return networks.model(nodes, weights, {"x": SHAPE}, dict.fromkeys(outputs, SHAPE))


def convolution(number, source, target):
    return ("Conv", [source, f"w{number}"], [target], {})


def cut(model):
    graph = Graph(model)
    shapes = dict.fromkeys([*graph.producers, "x"], tuple(SHAPE))
    found = products.find(graph, shapes)
    return graph, found, partition.cut(graph, found)


def kinds(steps):
    return ["ours" if isinstance(s, products.Product) else "theirs" for s in steps]


CHAIN = network(
    [
        ("Sigmoid", ["x"], ["a"], {}),
        convolution(0, "a", "b"),
        ("Relu", ["b"], ["c"], {}),
        convolution(1, "c", "d"),
        ("Add", ["d", "a"], ["e"], {}),
        ("Relu", ["e"], ["f"], {}),
        ("Tanh", ["f"], ["y"], {}),
    ],
    2,
    ["y"],
)
BRANCHES = network(
    [
        convolution(0, "x", "a"),
        ("Sigmoid", ["a"], ["b"], {}),
        convolution(1, "x", "c"),
        ("Tanh", ["c"], ["d"], {}),
        convolution(2, "d", "e"),
        ("Mul", ["b", "e"], ["y"], {}),
    ],
    3,
    ["y"],
)
TWO_SUMMANDS = network(
    [
        convolution(0, "x", "a"),
        convolution(1, "x", "b"),
        ("Add", ["a", "b"], ["c"], {}),
        ("Relu", ["c"], ["y"], {}),
    ],
    2,
    ["y"],
)


def test_a_chain_is_one_step_between_two():
    _, found, steps = cut(CHAIN)
    assert kinds(steps) == ["theirs", "ours", "ours", "theirs"]
    assert [product.residual for product in found] == [None, "a"]
    assert [product.low for product in found] == [0.0, 0.0]


def test_branches_are_computed_side_by_side():
    _, _, steps = cut(BRANCHES)
    assert kinds(steps) == ["ours", "ours", "theirs", "ours", "theirs"]
    assert len(steps[2].nodes) == 2


def test_of_two_products_that_are_added_one_adds():
    _, found, steps = cut(TWO_SUMMANDS)
    assert kinds(steps) == ["ours", "ours"]
    assert sorted(product.residual is None for product in found) == [False, True]
    # The one that adds comes last, wherever it stands in the graph.
    assert steps[-1].residual == steps[0].target


@pytest.mark.parametrize("model", [CHAIN, BRANCHES, TWO_SUMMANDS])
def test_each_node_is_computed_once_and_after_what_it_reads(model):
    graph, _, steps = cut(model)
    there, nodes = {"x"}, []
    for step in steps:
        ours = isinstance(step, products.Product)
        read = [step.source, step.residual or "x"] if ours else step.inputs
        assert set(read) <= there
        there.update([step.target] if ours else step.outputs)
        nodes += step.nodes
    assert sorted(nodes) == list(range(len(graph.nodes)))
    assert there >= {info.name for info in graph.outputs}


def test_what_someone_else_reads_is_not_swallowed():
    nodes = [
        convolution(0, "x", "a"),
        ("Relu", ["a"], ["b"], {}),
        ("Neg", ["a"], ["c"], {}),
        ("Add", ["b", "c"], ["y"], {}),
    ]
    _, found, _ = cut(network(nodes, 1, ["y"]))
    assert found[0].target == "a"


def test_an_output_within_a_chain_is_not_swallowed():
    nodes = [convolution(0, "x", "a"), ("Relu", ["a"], ["b"], {})]
    _, found, _ = cut(network(nodes, 1, ["a", "b"]))
    assert found[0].target == "a"
