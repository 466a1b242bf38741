"""`overrides`: for some layers another technique, another sparsity, or none."""

import pytest

from tests.flavour import compiled, fit, keras, sites, sos
from tests.shared import zoo

NOW = sos.MagnitudePruning(0.6, begin_step=1, end_step=1, frequency=1)
pytestmark = [
    pytest.mark.feature("overrides by layer"),
    pytest.mark.any_backend,
]


def techniques(model):
    return {site.path: site.technique for site in sites(model)}


def test_none_leaves_a_layer_dense():
    sparse = sos.sparsify(zoo.perceptron(), NOW, {"logits": None})
    assert techniques(sparse) == {"hidden": "magnitude_pruning", "logits": "dense"}
    assert [x.name for x in sos.sparsity_report(sparse).sparsified] == ["hidden/kernel"]


def test_a_number_is_another_sparsity(rng):
    sparse = compiled(sos.sparsify(zoo.perceptron(), NOW, {"logits": 0.25}))
    fit(sparse, *zoo.data(rng))
    report = sos.sparsity_report(sparse)
    assert [x.zeros for x in report.layers] == [round(0.6 * 48), round(0.25 * 24)]


def test_a_technique_is_another_technique(rng):
    overrides = {"logits": sos.L0Regularization(1e-3)}
    sparse = compiled(sos.sparsify(zoo.perceptron(), NOW, overrides))
    assert techniques(sparse) == {
        "hidden": "magnitude_pruning",
        "logits": "l0_regularization",
    }
    fit(sparse, *zoo.data(rng))
    stripped = techniques(sos.strip(sparse))
    assert stripped == {"hidden": "dense", "logits": "dense"}


def test_expressions_match_whole_names_and_whole_paths():
    sparse = sos.sparsify(
        zoo.functional(),
        NOW,
        {"block/attention/(query|key)": None, "third": None, "hea.": None},
    )
    dense = {path for path, name in techniques(sparse).items() if name == "dense"}
    assert dense == {
        "block/attention/query",
        "block/attention/key",
        "block/third",
        "head",
    }


def test_the_first_expression_that_matches_counts(rng):
    overrides = {"block/first": 0.25, "block/.*": None}
    sparse = compiled(sos.sparsify(zoo.functional(), NOW, overrides))
    fit(sparse, *zoo.data(rng))
    zeros = {x.name: x.zeros for x in sos.sparsity_report(sparse).sparsified}
    assert zeros == {
        "block/first/kernel": 6,
        "shared/kernel": 10,
        "inner/dense/kernel": 10,
        "head/kernel": 7,
    }


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["logits"], TypeError, r"overrides must be a dictionary.*\['logits'\]"),
        ({"(": None}, ValueError, r"not a regular expression.*Received: '\('"),
        ({3: None}, ValueError, "not a regular expression.*Received: 3"),
        ({"logits": "dense"}, TypeError, "a technique, a sparsity, or None.*'dense'"),
        ({"logits": True}, TypeError, "a technique, a sparsity, or None.*True"),
        ({"logits": 1.5}, ValueError, "override 'logits': sparsity must be.*1.5"),
        ({".*": None}, ValueError, "Nothing to sparsify in model 'perceptron'"),
        ({"logit": None}, ValueError, r"matches no layer.*'logit'.*Near.*'logits'"),
        # No part of a name matches.
        ({"hidd": None}, ValueError, "matches no layer"),
    ],
)
def test_a_bad_override_is_an_error_that_says_so(overrides, error, message):
    with pytest.raises(error, match=message):
        sos.sparsify(zoo.perceptron(), NOW, overrides)


def test_a_sparsity_is_no_override_for_a_technique_that_has_none():
    with pytest.raises(ValueError, match="VariationalDropout has no target sparsity"):
        sos.sparsify(zoo.perceptron(), sos.VariationalDropout(1.0), {"logits": 0.5})


def test_pruning_leaves_depthwise_kernels_dense_unless_they_are_named():
    model = keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            keras.layers.DepthwiseConv2D(2, name="depthwise"),
            keras.layers.Conv2D(2, 2, name="pointwise"),
        ]
    )
    assert techniques(sos.sparsify(model, NOW))["depthwise"] == "dense"
    named = sos.sparsify(model, NOW, {"depthwise": 0.5})
    assert techniques(named)["depthwise"] == "magnitude_pruning"
    learned = sos.sparsify(model, sos.L0Regularization(1e-3))
    assert techniques(learned)["depthwise"] == "l0_regularization"
