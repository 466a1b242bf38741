"""Budgets in models; by themselves in tests/test_budgets.py."""

import pytest

from tests.flavour import compiled, fit, sos
from tests.shared import zoo

NOW = sos.MagnitudePruning(0.7, begin_step=1, end_step=1, frequency=1)
pytestmark = [
    pytest.mark.feature("budgets: uniform, first dense and last capped, ERK"),
    pytest.mark.any_backend,
]


@pytest.mark.parametrize(
    ("kind", "budget"),
    [
        ("functional", sos.ERK()),
        ("subclassed", sos.FirstDenseLastCapped()),
        # What the weights of the beginning say is what is done with them.
        ("subclassed", sos.Global()),
    ],
)
def test_a_model_meets_its_sparsity_to_the_weight(kind, budget, rng):
    overrides = {"head": 0.25, "block/second": None}
    model, technique = zoo.ALL[kind](), NOW.with_sparsity(0.5)
    planned = sos.planned_sparsities(model, technique, overrides, budget)
    sparse = sos.sparsify(model, technique, overrides, budget)
    # A single step, before which all weights are as they were.
    fit(compiled(sparse), *zoo.data(rng), batch_size=zoo.EXAMPLES)
    report = sos.sparsity_report(sparse)
    size = sum(layer.size for layer in report.layers)
    assert sum(layer.zeros for layer in report.layers) == round(0.5 * size)
    assert planned["block/second"] == 0.0
    assert planned["head"] == 0.25
    for layer in report.layers:
        path = layer.name.rpartition("/")[0]
        assert layer.zeros == round(planned[path] * layer.size), layer.name
        assert layer.zeros < layer.size


def test_without_a_budget_each_layer_gets_the_sparsity():
    planned = sos.planned_sparsities(zoo.perceptron(), NOW, {"logits": None})
    assert planned == {"hidden": 0.7, "logits": 0.0}


def test_the_table_of_another_model_is_a_budget(rng, tmp_path):
    learned = sos.sparsify(zoo.perceptron(), NOW, {"logits": 0.25})
    fit(compiled(learned), *zoo.data(rng))
    expected = sos.sparsity_report(learned)
    expected.to_csv(tmp_path / "layers.csv")
    budget = sos.Table.from_csv(tmp_path / "layers.csv")
    random = sos.RandomPruning(0.5, 1, 1, 1)
    sparse = compiled(sos.sparsify(zoo.perceptron(), random, budget=budget))
    fit(sparse, *zoo.data(rng))
    assert sos.sparsity_report(sparse) == expected


@pytest.mark.parametrize(
    ("technique", "budget", "message"),
    [
        (NOW, 0.9, r"budget must be one of .*Received: 0\.9"),
        (NOW, sos.ERK, r"budget must be one of .*ERK"),
        (sos.L0Regularization(1e-3), sos.ERK(), r"target sparsity.*l0_regularization"),
        (sos.MagnitudePruning(0.99, 1, 1, 1), sos.ERK(), r"ERK cannot make 99\.00%"),
    ],
)
def test_what_is_no_budget_is_refused(technique, budget, message):
    with pytest.raises((TypeError, ValueError), match=message):
        sos.sparsify(zoo.perceptron(), technique, {"logits": None}, budget)
