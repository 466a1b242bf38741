"""All that users do with a compiled model works with a sparse one."""

import dataclasses

import numpy as np
import pytest

from tests.flavour import (
    BACKEND,
    IS_KERAS3,
    begin_training,
    compiled,
    fit,
    from_logits,
    keras,
    outputs_of,
    plain_part,
    sgd,
    sos,
    sparse_layers,
    steps_of,
    to_numpy,
)
from tests.shared import zoo

MAGNITUDE = sos.MagnitudePruning(0.6, begin_step=1, end_step=3, frequency=1)
VARIATIONAL = sos.VariationalDropout(1e-3)
L0 = sos.L0Regularization(1e-3)
TECHNIQUES = pytest.mark.parametrize(
    "technique", [MAGNITUDE, VARIATIONAL, L0], ids=["magnitude", "variational", "l0"]
)
KEYWORDS = {"batch_size": 4, "shuffle": False, "verbose": 0}


@pytest.fixture
def data():
    return zoo.data(np.random.default_rng(1))


def sparse_model(technique, **arguments):
    """Always from the same weights, with the same seed of the noise; in a graph."""
    keras.utils.set_random_seed(4)
    arguments.setdefault("run_eagerly", False)
    return compiled(sos.sparsify(zoo.perceptron(), technique), **arguments)


def zeros(model):
    return [layer.zeros for layer in sos.sparsity_report(model).layers]


@pytest.mark.feature("fit, evaluate, predict")
@TECHNIQUES
def test_a_model_trains_is_evaluated_and_predicts(technique, data):
    sparse = sparse_model(technique)
    losses = fit(sparse, *data, epochs=8)
    assert losses[-1] < losses[0]
    stripped = compiled(sos.strip(sparse))
    # The penalty is part of what is evaluated.
    data_loss = stripped.evaluate(*data, batch_size=4, verbose=0)
    penalty = sum(float(to_numpy(loss)) for loss in sparse.losses)
    assert sparse.evaluate(*data, batch_size=4, verbose=0) == pytest.approx(
        data_loss + penalty, rel=1e-5
    )
    np.testing.assert_allclose(
        sparse.predict(data[0], verbose=0), outputs_of(stripped, data[0]), atol=1e-5
    )
    # Neither counts as training.
    assert steps_of(sparse) == {16}


@pytest.mark.feature("train_on_batch, test_on_batch, predict_on_batch")
def test_batch_by_batch_is_as_fit_does_it(data):
    inputs, targets = data
    by_fit = sparse_model(MAGNITUDE)
    fit(by_fit, inputs, targets, epochs=2)
    by_batch = sparse_model(MAGNITUDE)
    begin_training(by_batch)
    for start in (0, 4, 0, 4):
        batch = slice(start, start + 4)
        by_batch.train_on_batch(inputs[batch], targets[batch])
    np.testing.assert_allclose(
        outputs_of(by_batch, inputs), outputs_of(by_fit, inputs), atol=1e-5
    )
    assert zeros(by_batch) == zeros(by_fit) == [round(0.6 * 48), round(0.6 * 24)]
    np.testing.assert_allclose(
        by_batch.predict_on_batch(inputs), outputs_of(by_batch, inputs), atol=1e-5
    )
    expected = np.mean((outputs_of(by_batch, inputs) - targets) ** 2)
    by_batch.reset_metrics()
    assert by_batch.test_on_batch(inputs, targets) == pytest.approx(expected, rel=1e-4)


@pytest.mark.feature("training without callbacks")
def test_callbacks_may_be_left_out(data):
    sparse = sparse_model(MAGNITUDE)
    if IS_KERAS3:
        sparse.fit(*data, **KEYWORDS)
        assert steps_of(sparse) == {2}
        return
    with pytest.raises(Exception, match=r"callbacks=sos\.callbacks\(model\)"):
        sparse.fit(*data, **KEYWORDS)
    pytest.skip("tf_keras: TF-MOT counts steps in a callback; without it, an error")


def how_it_is_run():
    """Arguments of `compile` that change how a step is run and not what it does."""
    xla, eager = "jit_compile=True", "run_eagerly=True"
    ways = {
        xla: {"jit_compile": True},
        "jit_compile=False": {"jit_compile": False},
        'jit_compile="auto"': {"jit_compile": "auto"},
        eager: {"run_eagerly": True, "jit_compile": False},
        "steps_per_execution": {"steps_per_execution": 2},
    }
    # Under XLA the noise; tests/shared/test_global_budget.py has the masks.
    techniques = [VARIATIONAL, MAGNITUDE, L0]
    for name, technique in zip(ways, techniques * 2, strict=False):
        marks = [pytest.mark.feature(name)]
        if (name == xla) == (BACKEND == "torch") and BACKEND in ("torch", "jax"):
            # torch.compile takes most of a minute, of a dense model too; JAX compiles
            # each operation by itself if it is not to compile a step.
            marks.append(pytest.mark.slow)
        yield pytest.param(name, ways[name], technique, marks=marks)


# Losses by technique, of a step that is run in the usual way.
_usual = {}


@pytest.mark.parametrize(("way", "arguments", "technique"), how_it_is_run())
def test_a_step_does_the_same_however_it_is_run(way, arguments, technique, data):
    if way == 'jit_compile="auto"' and not IS_KERAS3:
        pytest.skip("tf_keras has no such value")
    if way == "steps_per_execution" and BACKEND == "torch":
        pytest.skip("Keras has it not on PyTorch")
    if technique not in _usual:
        usual = sparse_model(technique)
        _usual[technique] = fit(usual, *data, epochs=3), zeros(usual)
    sparse = sparse_model(technique, **arguments)
    losses = fit(sparse, *data, epochs=3)
    expected_losses, expected_zeros = _usual[technique]
    assert steps_of(sparse) == {6}
    if way == "jit_compile=True" and technique is not MAGNITUDE and not IS_KERAS3:
        # XLA has a generator of its own, with other noise.
        np.testing.assert_allclose(losses, expected_losses, rtol=0.5)
    else:
        np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
        assert zeros(sparse) == expected_zeros


@pytest.mark.feature("gradient accumulation")
def test_two_accumulated_half_batches_are_as_a_whole_one(data):
    if not IS_KERAS3:
        pytest.skip("tf_keras has no gradient accumulation")
    now = sos.MagnitudePruning(0.6, begin_step=1, end_step=1, frequency=1)
    halves = sparse_model(now, optimizer=sgd(gradient_accumulation_steps=2))
    fit(halves, *data, epochs=3)
    whole = sparse_model(now)
    fit(whole, *data, epochs=3, batch_size=8)
    np.testing.assert_allclose(
        outputs_of(halves, data[0]), outputs_of(whole, data[0]), atol=1e-5
    )
    # Steps of training are batches.
    assert (steps_of(halves), steps_of(whole)) == ({6}, {3})


@pytest.mark.feature("exponential moving average of the weights (use_ema)")
@pytest.mark.any_backend
def test_averaged_weights_are_masked_as_any(data):
    optimizer = sgd(use_ema=True, ema_momentum=0.5)
    averaged = sparse_model(MAGNITUDE, optimizer=optimizer)
    fit(averaged, *data, epochs=3)
    plain = sparse_model(MAGNITUDE)
    fit(plain, *data, epochs=3)
    # At the end of `fit`, the weights become their averages.
    theta, last = (
        to_numpy(plain_part(sparse_layers(m)[0]).bias) for m in (averaged, plain)
    )
    assert np.abs(theta - last).max() > 1e-4
    assert zeros(averaged) == [round(0.6 * 48), round(0.6 * 24)]
    np.testing.assert_allclose(
        outputs_of(sos.strip(averaged), data[0]),
        outputs_of(averaged, data[0]),
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("policy", "technique"),
    [
        pytest.param(policy, technique, marks=pytest.mark.feature(policy))
        for policy, technique in (
            ("mixed_bfloat16", MAGNITUDE),
            ("mixed_bfloat16", L0),
            ("mixed_float16", VARIATIONAL),
        )
    ],
)
def test_half_precision_computes_and_the_rest_stays_float32(policy, technique, data):
    if IS_KERAS3:
        keras.config.set_dtype_policy(policy)
    else:
        keras.mixed_precision.set_global_policy(policy)
    sparse = sparse_model(technique)
    losses = fit(sparse, *data, epochs=3)
    assert np.all(np.isfinite(losses))
    assert sparse.compute_dtype == policy.removeprefix("mixed_")
    for layer in sparse_layers(sparse):
        dtypes = {str(to_numpy(v).dtype) for v in layer.trainable_variables}
        assert dtypes == {"float32"}
    if technique is MAGNITUDE:
        assert zeros(sparse) == [round(0.6 * 48), round(0.6 * 24)]
    expected = outputs_of(sparse, data[0])
    np.testing.assert_allclose(
        outputs_of(sos.strip(sparse), data[0]),
        expected,
        rtol=0,
        atol=1e-5 * np.abs(expected).max(),
    )


@pytest.mark.feature("custom train_step")
@pytest.mark.any_backend
def test_a_custom_train_step_is_kept_and_called(data):
    calls = []

    class Own(keras.Model):
        def train_step(self, *arguments):
            calls.append(len(arguments))
            return super().train_step(*arguments)

    x = keras.Input((zoo.FEATURES,))
    model = Own(x, keras.layers.Dense(3, name="d")(x))
    sparse = compiled(sos.sparsify(model, MAGNITUDE))
    losses = fit(sparse, *data, epochs=4)
    assert calls
    assert losses[-1] < losses[0]
    assert isinstance(sparse, Own)
    assert steps_of(sparse) == {8}
    assert type(sos.strip(sparse)) is Own


@pytest.mark.feature("frozen layers")
@pytest.mark.parametrize("technique", [MAGNITUDE, L0], ids=["magnitude", "l0"])
def test_frozen_layers_do_not_change(technique, data):
    model = zoo.perceptron()
    model.get_layer("hidden").trainable = False
    sparse = compiled(sos.sparsify(model, technique))
    frozen, trained = map(plain_part, sparse_layers(sparse))
    assert not frozen.trainable_variables
    before = [to_numpy(v).copy() for v in (frozen.kernel, frozen.bias, trained.kernel)]
    fit(sparse, *data, epochs=2)
    after = [to_numpy(v) for v in (frozen.kernel, frozen.bias, trained.kernel)]
    mask = np.ones_like(before[0])
    if technique is MAGNITUDE:
        # It is masked all the same, and what is left of it stays.
        mask = sos.weight_masks(sparse)["hidden/kernel"]
        assert (~mask).sum() == round(0.6 * mask.size)
    np.testing.assert_array_equal(after[0] * mask, before[0] * mask)
    np.testing.assert_array_equal(after[1], before[1])
    assert np.any(after[2] != before[2])


@pytest.mark.feature("frozen layers")
@pytest.mark.any_backend
def test_a_sparse_layer_can_be_frozen_later(data):
    sparse = sparse_model(VARIATIONAL)
    first, second = sparse_layers(sparse)
    first.trainable = False
    compiled(sparse)
    before = to_numpy(first.log_sigma2).copy(), to_numpy(second.log_sigma2).copy()
    fit(sparse, *data, epochs=2)
    np.testing.assert_array_equal(to_numpy(first.log_sigma2), before[0])
    assert np.any(to_numpy(second.log_sigma2) != before[1])


@pytest.mark.feature("class weights, sample weights, validation, metrics")
@pytest.mark.any_backend
def test_weights_validation_and_metrics_work_as_ever(data):
    inputs, _ = data
    labels = np.arange(zoo.EXAMPLES) % 3
    sparse = compiled(
        sos.sparsify(zoo.perceptron(), MAGNITUDE),
        loss=from_logits(),
        metrics=["accuracy"],
    )
    history = sparse.fit(
        inputs,
        labels,
        batch_size=4,
        epochs=2,
        verbose=0,
        class_weight={0: 1.0, 1: 2.0, 2: 0.5},
        validation_data=(inputs, labels),
        callbacks=sos.callbacks(sparse),
    ).history
    logits = outputs_of(sparse, inputs)
    accuracy = np.mean(logits.argmax(axis=1) == labels)
    assert history["val_accuracy"][-1] == pytest.approx(accuracy)
    assert steps_of(sparse) == {4}


@pytest.mark.feature("summary, count_params")
@pytest.mark.any_backend
def test_a_summary_names_every_layer():
    sparse = sparse_model(VARIATIONAL)
    lines = []
    sparse.summary(print_fn=lambda line, *args, **kwargs: lines.append(line))
    text = "\n".join(lines)
    assert "hidden" in text
    assert "logits" in text
    # Each kernel has a log sigma2 beside it.
    expected = 2 * (48 + 24) + 8 + 3
    assert sum(np.prod(v.shape) for v in sparse.trainable_variables) == expected


@pytest.mark.skipif(BACKEND == "torch", reason="it would wait for the device")
@pytest.mark.parametrize("technique", [VARIATIONAL, L0], ids=["variational", "l0"])
def test_no_penalty_is_computed_where_its_weight_is_0(technique, data, monkeypatch):
    """What is not a number stays so, whatever it is multiplied with."""

    def penalty(self, theta, state):
        (extra,) = state.values()
        return np.nan * (theta[0, 0] + extra[0, 0])

    monkeypatch.setattr(type(technique), "penalty", penalty)
    ramped = dataclasses.replace(technique, ramp_begin=1)
    sparse = sparse_model(ramped)
    assert np.isfinite(fit(sparse, *data, epochs=1, steps_per_epoch=1)).all()
    assert np.isfinite(sparse.get_weights()[0]).all()


@pytest.mark.any_backend
@pytest.mark.parametrize("technique", [MAGNITUDE, L0], ids=["magnitude", "l0"])
def test_zeros_of_a_stripped_model_have_no_sign(technique, data):
    sparse = compiled(sos.sparsify(zoo.perceptron(), technique))
    fit(sparse, *data, epochs=4)
    for weight in sos.strip(sparse).get_weights():
        assert not np.signbit(weight[weight == 0]).any()
