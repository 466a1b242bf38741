"""Learned techniques with a sparsity, to which the weight of the penalty is steered."""

import importlib

import numpy as np
import pytest

from state_of_sparsity import budgets
from state_of_sparsity.techniques import controller
from tests.flavour import (
    IS_KERAS3,
    ON_PYTORCH,
    compiled,
    fit,
    from_logits,
    keras,
    outputs_of,
    sites,
    sos,
    sparse_layers,
    to_numpy,
)
from tests.shared import zoo

BOTH = [sos.VariationalDropout, sos.L0Regularization]
WEIGHTS = {sos.VariationalDropout: "kl_weight", sos.L0Regularization: "l0_weight"}
pytestmark = pytest.mark.feature("learned techniques: a target sparsity")


# What is given.


@pytest.mark.any_backend
@pytest.mark.parametrize("cls", BOTH)
def test_the_weight_of_the_penalty_may_still_be_given_by_position(cls):
    technique = cls(1e-4)
    assert getattr(technique, WEIGHTS[cls]) == 1e-4
    assert technique.sparsity is None
    assert cls.from_config(technique.get_config()) == technique


@pytest.mark.any_backend
@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize("both", [True, False])
def test_either_the_weight_or_a_sparsity_is_given(cls, both):
    given = {WEIGHTS[cls]: 1e-4, "sparsity": 0.9} if both else {}
    with pytest.raises(TypeError, match=f"either {WEIGHTS[cls]}.* or sparsity"):
        cls(**given)


@pytest.mark.any_backend
@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize("value", [1.0, -0.1, "0.9", True, float("nan")])
def test_a_sparsity_that_is_no_share_is_refused(cls, value):
    with pytest.raises((TypeError, ValueError), match="sparsity must be"):
        cls(sparsity=value)


@pytest.mark.any_backend
@pytest.mark.parametrize("cls", BOTH)
def test_overrides_and_budgets_give_layers_sparsities_of_their_own(cls):
    model = zoo.perceptron()
    sparse = sos.sparsify(model, cls(sparsity=0.9), {"logits": 0.5})
    assert [x.technique.sparsity for x in sparse_layers(sparse)] == [0.9, 0.5]
    sparse = sos.sparsify(model, cls(sparsity=0.5), budget=budgets.ERK())
    found = {x.path: x.layer.technique.sparsity for x in sites(sparse)}
    planned = sos.planned_sparsities(model, cls(sparsity=0.5), budget=budgets.ERK())
    assert found == planned
    assert found["hidden"] > 0.5 > found["logits"]


@pytest.mark.any_backend
@pytest.mark.parametrize("cls", BOTH)
def test_without_a_sparsity_neither_overrides_nor_budgets_give_one(cls):
    with pytest.raises(ValueError, match="has no target sparsity to set to"):
        sos.sparsify(zoo.perceptron(), cls(1e-4), {"logits": 0.5})
    with pytest.raises(ValueError, match="A budget is for techniques with a target"):
        sos.sparsify(zoo.perceptron(), cls(1e-4), budget=budgets.ERK())


@pytest.mark.any_backend
@pytest.mark.parametrize("cls", BOTH)
def test_one_threshold_for_the_model_is_refused(cls):
    with pytest.raises(ValueError, match="decides layer by layer"):
        sos.sparsify(zoo.perceptron(), cls(sparsity=0.5), budget=budgets.Global())


# The controller.


def reference_weight(weight, before, now, left, size):
    """The formula, in float64."""
    wanted = np.clip(now / max(left, 50), -1 / 50, 1 / 50)
    speed = (before - now) / 10
    change = (wanted - speed) / (abs(wanted) + abs(speed) + 0.1 / 50)
    u = np.arcsinh(weight * size / 0.01) + 0.2 * change
    return 0.01 * np.sinh(np.clip(u, -10, 10)) / size


def reference_margin(technique, theta, state):
    """The margin of the last weight to go, in float64."""
    theta = theta.astype("float64")
    if isinstance(technique, sos.VariationalDropout):
        log_alpha = state["log_sigma2"] - np.log(theta**2 + 1e-8)
        margins = 3.0 - log_alpha
    else:
        margins = state["log_alpha"] - np.log(0.1 / 1.1)
    return np.sort(margins, axis=None)[round(technique.sparsity * theta.size) - 1]


@pytest.mark.parametrize(
    ("cls", "ramp", "slope"),
    [
        (sos.VariationalDropout, "cubic", 3),
        pytest.param(sos.L0Regularization, "linear", 1, marks=ON_PYTORCH),
    ],
)
def test_renewals_follow_the_formula(cls, ramp, slope, rng):
    technique = cls(sparsity=0.75, ramp=ramp, ramp_begin=2, ramp_length=25)
    sparse = compiled(sos.sparsify(zoo.perceptron(), technique))
    layer, _ = sparse_layers(sparse)
    inputs, targets = zoo.data(rng)
    step, before, weight = 0, 0.0, 0.0
    # Every 10 steps in the ramp, at its end, and then every 10 again.
    for due, left in ((2, 25), (12, 15), (22, 5), (27, 0), (37, 0)):
        fit(sparse, inputs, targets, batch_size=zoo.EXAMPLES, epochs=due - 1 - step)
        # Nothing is renewed in between.
        np.testing.assert_allclose(to_numpy(layer.multiplier), weight, rtol=1e-4)
        state = {
            name: to_numpy(getattr(layer, name)).astype("float64")
            for name in ("log_sigma2", "log_alpha")
            if hasattr(layer, name)
        }
        now = reference_margin(technique, to_numpy(layer.kernel), state)
        weight = reference_weight(weight, before, now, left / slope, 48)
        fit(sparse, inputs, targets, batch_size=zoo.EXAMPLES)
        step, before = due, now
        np.testing.assert_allclose(to_numpy(layer.margin), now, rtol=1e-5)
        np.testing.assert_allclose(to_numpy(layer.multiplier), weight, rtol=1e-4)
    assert weight > 0.0


@pytest.mark.any_backend
@pytest.mark.skipif(not IS_KERAS3, reason="of functions that both Kerases share")
def test_the_margin_is_that_of_the_last_weight_to_go(rng):
    margins = rng.normal(0, 9, (30, 20)).astype("float32")
    for share in (0.0, 0.5, 0.9, 0.999):
        found = controller.margin_at(
            keras.ops.convert_to_tensor(margins),
            share,
            keras.ops.convert_to_tensor(0.0),
        )
        place = min(max(round(share * 600), 1), 599)
        expected = np.sort(margins, axis=None)[place - 1]
        np.testing.assert_allclose(to_numpy(found), expected, rtol=1e-5, atol=1e-5)


# What comes of it.


def adam(size):
    """Adam's update of a vector by its gradient, in NumPy."""
    first, second, count = np.zeros(size), np.zeros(size), 0

    def update(gradient, rate):
        nonlocal first, second, count
        first, second = (
            0.9 * first + 0.1 * gradient,
            (0.999 * second + 0.001 * gradient**2),
        )
        count += 1
        scale = np.sqrt(second / (1 - 0.999**count)) + 1e-7
        return -rate * first / (1 - 0.9**count) / scale

    return update


def plain_descent(size):
    del size
    return lambda gradient, rate: -rate * gradient


@pytest.mark.any_backend
@pytest.mark.skipif(not IS_KERAS3, reason="of functions that both Kerases share")
@pytest.mark.parametrize("sparsity", [0.3, 0.98])
@pytest.mark.parametrize("start", [2.197, -6.0], ids=["open", "closed"])
@pytest.mark.parametrize(
    ("optimizer", "rate"),
    [
        (adam, 3e-2),
        pytest.param(adam, 3e-3, marks=pytest.mark.slow),
        pytest.param(plain_descent, 100.0, marks=pytest.mark.slow),
        pytest.param(plain_descent, 1000.0, marks=pytest.mark.slow),
    ],
)
def test_gates_with_uses_of_their_own_are_steered_to_the_target(
    optimizer, rate, start, sparsity, rng
):
    """A gate of use `b` has the gradient `-b sigmoid'(log alpha)`, and noise."""
    # Adam moves them by its rate at most: a low one takes more steps.
    size, steps, ramp = 1000, *((6000, 3000) if rate == 3e-3 else (4000, 2500))
    technique = sos.L0Regularization(sparsity=sparsity, ramp_length=ramp)
    schedule, use = technique.schedule(), rng.exponential(1e-3, size)
    log_alpha, update = np.full(size, start), optimizer(size)
    state = {"multiplier": np.float32(0.0), "margin": np.float32(0.0)}
    theta = keras.ops.zeros(size)
    for step in range(1, steps + 1):
        if schedule.is_due(step):
            _, index = schedule.find(step)
            state["log_alpha"] = log_alpha.astype("float32")
            given = {k: keras.ops.convert_to_tensor(v) for k, v in state.items()}
            (new,) = technique.renewed([(theta, given, (0, 0))], index)
            state |= {name: to_numpy(value) for name, value in new.items()}
        open_ = 1 / (1 + np.exp(-log_alpha))
        slope = open_ * (1 - open_)
        gradient = (state["multiplier"] - use) * slope + rng.normal(0, 1e-4, size)
        log_alpha += update(gradient, rate * (1 - step / steps))
    zeros = log_alpha <= np.log(0.1 / 1.1)
    assert abs(zeros.mean() - sparsity) < 0.01


MAP = np.random.default_rng(1).normal(size=(16, 8))


def trained(technique, rng, steps, rate=0.05):
    """A linear map of sixteen numbers to eight, with some noise to learn."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(8, name="map")])
    sparse = sos.sparsify(model, technique)
    decay = keras.optimizers.schedules.CosineDecay(rate, steps)
    compiled(sparse, keras.optimizers.Adam(decay), run_eagerly=False)
    inputs = rng.normal(size=(64, 16)).astype("float32")
    targets = inputs @ MAP + 0.1 * rng.normal(size=(64, 8))
    data = np.tile(inputs, (steps, 1)), np.tile(targets, (steps, 1))
    fit(sparse, *data, batch_size=64)
    return sparse


@pytest.mark.slow
@pytest.mark.any_backend
@pytest.mark.parametrize("cls", BOTH)
def test_a_map_ends_at_the_target_with_its_largest_weights(cls, rng):
    sparse = trained(cls(sparsity=0.75, ramp_length=800), rng, 2000)
    (layer,) = sos.sparsity_report(sparse).layers
    # Of 128 weights, one is a point.
    assert abs(layer.zeros - 96) <= 1
    (mask,) = sos.weight_masks(sparse).values()
    assert np.abs(MAP)[mask].mean() > 2 * np.abs(MAP)[~mask].mean()


@pytest.mark.any_backend
def test_a_target_that_is_missed_is_told(rng):
    technique = sos.L0Regularization(sparsity=0.75, ramp_length=10)
    sparse = trained(technique, rng, 12, rate=1e-3)
    with pytest.warns(UserWarning, match="map/kernel' has 0.00% of 75.00%"):
        sos.strip(sparse)


@pytest.mark.any_backend
def test_logs_have_the_weight_that_is_steered(rng):
    technique = sos.VariationalDropout(sparsity=0.75)
    sparse = compiled(sos.sparsify(zoo.perceptron(), technique))
    inputs, targets = zoo.data(rng)
    history = sparse.fit(
        inputs, targets, epochs=2, verbose=0, callbacks=sos.callbacks(sparse)
    ).history
    weights = [float(to_numpy(x.multiplier)) for x in sparse_layers(sparse)]
    assert history["penalty_weight"][-1] == max(weights) > 0.0


@pytest.mark.slow
@pytest.mark.parametrize("cls", BOTH)
def test_training_goes_on_from_a_file_as_if_nothing_had_been(cls, rng, tmp_path):
    technique = cls(sparsity=0.75, ramp_length=40)
    inputs, targets = zoo.data(rng)
    model = compiled(sos.sparsify(zoo.perceptron(), technique))
    fit(model, inputs, targets, epochs=7)
    model.save(tmp_path / "model.keras")
    fit(model, inputs, targets, epochs=7)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert {x.technique for x in sparse_layers(loaded)} == {technique}
    fit(loaded, inputs, targets, epochs=7)
    for one, other in zip(model.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(to_numpy(one), to_numpy(other), one.name)


@pytest.mark.any_backend
def test_a_file_of_a_given_weight_does_not_load_into_a_steered_model(tmp_path):
    path = tmp_path / "model.weights.h5"
    sos.sparsify(zoo.perceptron(), sos.L0Regularization(1e-3)).save_weights(path)
    steered = sos.sparsify(zoo.perceptron(), sos.L0Regularization(sparsity=0.5))
    with pytest.raises(ValueError, match=r"l0_regularization|log_alpha"):
        steered.load_weights(path)


@pytest.mark.any_backend
def test_layers_that_are_made_by_hand_are_steered(rng):
    name = "state_of_sparsity.layers" + ("" if IS_KERAS3 else ".tf_keras")
    layers = importlib.import_module(name)
    model = keras.Sequential(
        [keras.Input((zoo.FEATURES,)), layers.VariationalDense(3, sparsity=0.5)]
    )
    (layer,) = sparse_layers(model)
    inputs, targets = zoo.data(rng)
    fit(compiled(model), inputs, targets)
    assert float(to_numpy(layer.multiplier)) > 0.0
    assert type(layer).from_config(layer.get_config()).technique == layer.technique


@pytest.mark.any_backend
def test_embeddings_are_steered_and_draw_noise_for_each_row(rng):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((50,), dtype="int32"), keras.layers.Embedding(5, 4)]
    )
    sparse = sos.sparsify(model, sos.VariationalDropout(sparsity=0.5))
    rows = outputs_of(sparse, np.full((1, 50), 3), training=True)[0]
    # Normal numbers of one row, none of them drawn twice.
    assert len(np.unique(rows[:, 0])) == 50
    (layer,) = sparse_layers(sparse)
    assert float(to_numpy(layer.multiplier)) > 0.0


# Real problems.


@pytest.mark.slow
@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("cls", "rate", "sparsity"),
    [
        (sos.VariationalDropout, 1e-2, 0.95),
        # At 3e-3, gates need more steps.
        (sos.L0Regularization, 1e-2, 0.9),
    ],
)
def test_digits_end_within_a_point_of_the_target(cls, rate, sparsity):
    images, labels = importlib.import_module("sklearn.datasets").load_digits(
        return_X_y=True
    )
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(100, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    epochs = 60
    steps = epochs * 28
    technique = cls(sparsity=sparsity, ramp_length=steps * 5 // 8)
    sparse = sos.sparsify(model, technique)
    decay = keras.optimizers.schedules.CosineDecay(rate, steps)
    compiled(sparse, keras.optimizers.Adam(decay), from_logits(), run_eagerly=False)
    fit(sparse, images / 16, labels, batch_size=64, epochs=epochs, shuffle=True)
    for layer in sos.sparsity_report(sparse).layers:
        assert abs(layer.sparsity - sparsity) < 0.01
