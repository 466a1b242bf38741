"""SNIP, GraSP and SynFlow beside the same in NumPy, with derivatives by hand."""

import numpy as np
import pytest

from tests.flavour import ON_PYTORCH, keras, outputs_of, sos, to_numpy

pytestmark = [*ON_PYTORCH, pytest.mark.feature("pruning in one shot")]
SPARSITY = 0.6
# Of 100 weights, two pairs whose scores are so close that float32 turns them round; of
# random masks, 48 would differ.
_TIES = 4


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.layers.Input((6,)),
            keras.layers.Dense(10, activation="relu", use_bias=False, name="first"),
            keras.layers.BatchNormalization(name="norm", trainable=False),
            keras.layers.Dense(4, use_bias=False, name="second"),
        ]
    )


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return tuple(rng.normal(size=(32, n)).astype("float32") for n in (6, 4))


def slopes(weights, inputs, targets):
    """Of the mean squared error, or of the sum of the outputs if there is no target."""
    first, second = weights
    scale = 1 / np.sqrt(1 + 1e-3)
    before = inputs @ first
    hidden = np.maximum(before, 0) * scale
    outputs = hidden @ second
    above = np.ones_like(outputs)
    if targets is not None:
        above = 2 * (outputs - targets) / outputs.size
    return [
        inputs.T @ ((above @ second.T) * scale * (before > 0)),
        hidden.T @ above,
    ]


def snip(weights, inputs, targets):
    pairs = zip(weights, slopes(weights, inputs, targets), strict=True)
    return [np.abs(w * g) for w, g in pairs]


def grasp(weights, inputs, targets, step=1e-6):
    before = slopes(weights, inputs, targets)
    moved = [w + step * g for w, g in zip(weights, before, strict=True)]
    after = slopes(moved, inputs, targets)
    changes = [(a - b) / step for a, b in zip(after, before, strict=True)]
    return [w * c for w, c in zip(weights, changes, strict=True)]


def kept(scores, zeros):
    """Without the lowest scores of all tensors."""
    threshold = np.sort(np.concatenate([s.ravel() for s in scores]))[zeros - 1]
    return [score > threshold for score in scores]


def masks_of(sparse):
    masks = sos.weight_masks(sparse)
    return [masks[f"{name}/kernel"] for name in ("first", "second")]


def differing(found, expected):
    return sum((one != other).sum() for one, other in zip(found, expected, strict=True))


def dense_weights(model):
    layers = (model.get_layer("first"), model.get_layer("second"))
    return [to_numpy(layer.kernel).astype("float64") for layer in layers]


@pytest.mark.parametrize(
    ("technique", "scores"), [(sos.SNIP(SPARSITY), snip), (sos.GraSP(SPARSITY), grasp)]
)
def test_masks_are_those_of_derivatives_by_hand(model, data, technique, scores):
    sparse = sos.one_shot(model, technique, data, loss="mse", batch_size=16)
    weights, (inputs, targets) = dense_weights(model), data
    expected = kept(scores(weights, inputs, targets), round(SPARSITY * 100))
    assert differing(masks_of(sparse), expected) <= _TIES


def test_synflow_takes_a_hundred_rounds(model):
    sparse = sos.one_shot(model, sos.SynFlow(SPARSITY))
    weights = [np.abs(w) for w in dense_weights(model)]
    masks = [np.ones(w.shape, bool) for w in weights]
    # Examples of ones, of which the number does not count.
    ones = np.ones((2, 6))
    for number in range(1, 101):
        values = [w * m for w, m in zip(weights, masks, strict=True)]
        pairs = zip(values, slopes(values, ones, None), masks, strict=True)
        scores = [np.where(m, w * g, -1.0) for w, g, m in pairs]
        masks = kept(scores, round((1 - (1 - SPARSITY) ** (number / 100)) * 100))
    assert differing(masks_of(sparse), masks) <= _TIES


def test_nothing_but_masks_changes(model, data):
    before = [to_numpy(v) for v in model.weights]
    sparse = sos.one_shot(model, sos.SNIP(SPARSITY), data, loss="mse")
    for variable, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(to_numpy(variable), value)
    plain = sos.strip(sparse)
    for name in ("first", "second"):
        dense, mask = to_numpy(model.get_layer(name).kernel), sos.weight_masks(sparse)
        found = to_numpy(plain.get_layer(name).kernel)
        np.testing.assert_array_equal(found, dense * mask[f"{name}/kernel"])
    np.testing.assert_allclose(outputs_of(plain, data[0]), outputs_of(sparse, data[0]))


def test_a_budget_and_overrides_are_met(model, data):
    options = {"data": data, "loss": "mse"}
    report = sos.sparsity_report(
        sos.one_shot(model, sos.SNIP(0.5), budget=sos.Uniform(), **options)
    )
    assert [layer.sparsity for layer in report.layers] == [0.5, 0.5]
    report = sos.sparsity_report(
        sos.one_shot(model, sos.SNIP(0.3), overrides={"second": 0.0}, **options)
    )
    assert [layer.zeros for layer in report.layers] == [30, 0]


def test_bad_input_is_named(model, data):
    with pytest.raises(ValueError, match="SNIP needs a loss, and examples of inputs"):
        sos.one_shot(model, sos.SNIP(0.5), data)
    with pytest.raises(ValueError, match=r"GraSP needs a loss.*data=None"):
        sos.one_shot(model, sos.GraSP(0.5), loss="mse")
    with pytest.raises(TypeError, match=r"SynFlow prunes once, before training"):
        sos.sparsify(model, sos.SynFlow(0.5))
    overrides, pair = {"first": sos.Wanda(0.5)}, (data[0], data[1][:31])
    with pytest.raises(ValueError, match=r"SNIP compares all .* no other technique"):
        sos.one_shot(model, sos.SNIP(0.5), data, overrides=overrides, loss="mse")
    with pytest.raises(ValueError, match="as many examples each"):
        sos.one_shot(model, sos.SNIP(0.5), pair, loss="mse")
