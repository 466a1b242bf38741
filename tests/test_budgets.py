"""Budgets: the weights that stay, over the layers of a model."""

import dataclasses
import math

import pytest

from state_of_sparsity import budgets
from state_of_sparsity.budgets import Layer

# An LSTM has several weights in a layer, whose zeros are rounded one by one.
NET = [
    Layer("conv", ((3, 3, 3, 16),)),
    Layer("deep", ((3, 3, 16, 33),)),
    Layer("lstm", ((33, 20), (5, 20))),
    Layer("dense", ((5, 7),)),
    Layer("logits", ((7, 3),)),
]
EVERY = [budgets.Uniform(), budgets.FirstDenseLastCapped(), budgets.ERK()]


def zeros(layers, sparsities):
    return sum(layer.zeros(sparsities[layer.path]) for layer in layers)


def resnet50():
    """Its kernels, and at how many positions of a 224x224 image each is used."""
    layers, uses = [Layer("first", ((7, 7, 3, 64),))], [112 * 112]

    def add(path, shape, side):
        layers.append(Layer(path, (shape,)))
        uses.append(side * side)

    channels, side = 64, 56
    for group, (width, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)]):
        for block in range(blocks):
            path, outer = f"{group}/{block}", side * (2 if group and not block else 1)
            if not block:
                add(f"{path}/projection", (1, 1, channels, 4 * width), side)
            # Version 1.5: the 3x3 convolution has the stride.
            add(f"{path}/1", (1, 1, channels, width), outer)
            add(f"{path}/2", (3, 3, width, width), side)
            add(f"{path}/3", (1, 1, width, 4 * width), side)
            channels = 4 * width
        side //= 2
    add("last", (2048, 1000), 1)
    return layers, uses


def share_of_flops(layers, uses, sparsities):
    dense = [n * layer.size for layer, n in zip(layers, uses, strict=True)]
    left = [n * (1 - sparsities[x.path]) for n, x in zip(dense, layers, strict=True)]
    return sum(left) / sum(dense)


@pytest.mark.parametrize("budget", EVERY, ids=lambda b: type(b).__name__)
@pytest.mark.parametrize("target", [0.0, 0.3, 0.5, 0.777, 0.9, 0.95])
def test_the_target_is_met_to_the_weight(budget, target):
    if isinstance(budget, budgets.FirstDenseLastCapped) and target > 0.9:
        target = 0.92
    found = budget.sparsities(NET, target)
    total = sum(layer.size for layer in NET)
    assert zeros(NET, found) == round(target * total)
    for layer in NET:
        assert 0.0 <= found[layer.path] < 1.0
        for shape in layer.shapes:
            count = Layer("", (shape,)).zeros(found[layer.path])
            assert 0 <= count < math.prod(shape)


def test_uniform_is_the_same_everywhere():
    found = budgets.Uniform().sparsities(NET, 0.75)
    for layer in NET:
        assert abs(found[layer.path] - 0.75) * layer.size <= 2


def test_first_dense_last_capped():
    found = budgets.FirstDenseLastCapped(0.8).sparsities(NET, 0.9)
    assert found["conv"] == 0.0
    assert found["logits"] == pytest.approx(0.8, abs=1 / 21)
    assert found["deep"] == pytest.approx(found["lstm"], abs=1e-3)
    assert found["deep"] > 0.9
    # Below the cap, the last layer is one of the others.
    found = budgets.FirstDenseLastCapped(0.8).sparsities(NET, 0.5)
    assert found["logits"] == pytest.approx(found["deep"], abs=1 / 21)


def test_erk_is_proportional_below_1_and_redistributes_the_excess():
    layers, _ = resnet50()
    found = budgets.ERK().sparsities(layers, 0.8)
    largest = max(layers, key=lambda layer: layer.size)
    kept = (1 - found[largest.path]) * largest.size
    factor = kept / sum(largest.shapes[0])
    assert [x for x in layers if found[x.path] == 0.0]
    for layer in layers:
        density = sum(layer.shapes[0]) / layer.size
        expected = min(1.0, factor * density)
        assert 1 - found[layer.path] == pytest.approx(
            expected, rel=1e-5, abs=2 / layer.size
        )


@pytest.mark.parametrize(("sparsity", "published"), [(0.8, 0.42), (0.9, 0.24)])
def test_erk_on_resnet50_leaves_the_published_share_of_operations(sparsity, published):
    layers, uses = resnet50()
    found = budgets.ERK().sparsities(layers, sparsity)
    assert share_of_flops(layers, uses, found) == pytest.approx(published, abs=0.01)


def test_uniform_with_a_dense_first_layer_leaves_the_published_share():
    layers, uses = resnet50()
    layers[0] = Layer(layers[0].path, layers[0].shapes, 0.0)
    found = budgets.Uniform().sparsities(layers, 0.8)
    assert share_of_flops(layers, uses, found) == pytest.approx(0.23, abs=0.01)


@pytest.mark.parametrize("kind", [budgets.Uniform, budgets.ERK, budgets.Global])
def test_of_flops_the_target_is_the_share_of_the_operations(kind):
    layers, uses = resnet50()
    counted = [
        dataclasses.replace(layer, uses=(n,))
        for layer, n in zip(layers, uses, strict=True)
    ]
    # One layer is dense, and costs more than its share of the weights.
    counted[0] = dataclasses.replace(counted[0], sparsity=0.0)
    found = kind(of="flops").sparsities(counted, 0.8)
    assert found["first"] == 0.0
    assert share_of_flops(layers, uses, found) == pytest.approx(0.2, abs=1e-6)
    free = {x.path: x for x in layers[1:]}
    if kind is budgets.ERK:
        factors = {
            path: (1 - found[path]) * x.size / sum(x.shapes[0])
            for path, x in free.items()
            if found[path] > 0
        }
        assert max(factors.values()) == pytest.approx(min(factors.values()), rel=1e-4)
    else:
        assert max(found[p] for p in free) == pytest.approx(
            min(found[p] for p in free), abs=1e-4
        )
    assert kind().sparsities(layers, 0.8) == kind().sparsities(
        [dataclasses.replace(x, uses=(1,)) for x in layers], 0.8
    )


def test_what_something_else_has_said_is_kept_and_made_up_for():
    layers = [Layer("a", ((10, 10),), 0.0), Layer("b", ((10, 30),), 0.5), *NET]
    found = budgets.ERK().sparsities(layers, 0.8)
    assert (found["a"], found["b"]) == (0.0, 0.5)
    assert zeros(layers, found) == round(0.8 * sum(x.size for x in layers))


def test_what_cannot_be_met_is_said_with_the_most_that_can():
    layers = [Layer("a", ((10, 10),), 0.0), Layer("b", ((10, 10),))]
    with pytest.raises(ValueError, match=r"cannot make 80.00% .*and 49.50% at most"):
        budgets.Uniform().sparsities(layers, 0.8)
    with pytest.raises(ValueError, match=r"but 25.00% at least"):
        budgets.Uniform().sparsities(
            [Layer("a", ((10, 10),), 0.5), Layer("b", ((10, 10),))], 0.1
        )


def test_tables(tmp_path):
    table = budgets.Table({layer.path: 0.25 for layer in NET})
    assert table.sparsities(NET) == {layer.path: 0.25 for layer in NET}
    path = tmp_path / "layers.csv"
    path.write_text(
        "name,shape,size,zeros,sparsity,technique\n"
        "lstm/kernel,33x20,660,600,0.9,l0\nlstm/recurrent_kernel,5x20,100,8,0.08,l0\n"
    )
    lstm = [NET[2]]
    assert budgets.Table.from_csv(path).sparsities(lstm) == {"lstm": 608 / 760}
    with pytest.raises(ValueError, match=r"no sparsity for \['conv', 'deep'"):
        budgets.Table.from_csv(path).sparsities(NET)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="is no report of sparsity"):
        budgets.Table.from_csv(path)
    with pytest.raises(ValueError, match=r"sparsities\['a'\]"):
        budgets.Table({"a": 1.0})


@pytest.mark.parametrize("cap", [1.0, -0.1, "0.8"])
def test_bad_caps_are_refused(cap):
    with pytest.raises((TypeError, ValueError), match="cap"):
        budgets.FirstDenseLastCapped(cap)
