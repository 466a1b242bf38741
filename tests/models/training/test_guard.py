"""Runs whose loss or weights become NaN: they end, and what was saved is kept."""

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras, tf
from state_of_sparsity.models.training.loop.guard import (
    Guard,
    NotFiniteError,
    check_finite,
)
from state_of_sparsity.models.training.run_folder.checkpoint import Checkpoint
from tests.models.training.interrupted import interrupted_at


def poisoned(run, step, value=np.nan):
    """The run, with an example at a step whose features are no numbers."""
    batches = run.task.training_data

    def training_data(start_step):
        def poison(position, batch):
            points, labels = batch
            return tf.where(position == step - 1, value, points), labels

        return batches(start_step).enumerate(start_step).map(poison)

    run.task.training_data = training_data
    return run


def checkpointed_step(run, tiny_run):
    other = tiny_run(run.sparsification.technique, "other")
    step = Checkpoint(other.model).restore(run.folder.checkpoints)
    for weight in other.model.weights:
        assert np.all(np.isfinite(weight.numpy()))
    return step


@pytest.mark.parametrize("step", [5, 8])
def test_a_loss_that_is_nan_ends_the_run_and_keeps_what_there_was(tiny_run, step):
    run = poisoned(tiny_run(), step)
    message = (
        rf"at step {step}, the loss is nan, and hidden/kernel:0 has a value of nan"
    )
    with pytest.raises(NotFiniteError, match=message) as error:
        run.train()
    assert run.folder.failure.read_text() == f"{error.value}\n"
    assert not run.folder.is_finished
    assert [row["step"] for row in run.folder.read_metrics()] == ["4"]
    assert checkpointed_step(run, tiny_run) == 4


@pytest.mark.slow
def test_the_same_command_goes_on_from_before_it_failed(tiny_run):
    with pytest.raises(NotFiniteError):
        poisoned(tiny_run(), 6).train()
    again, whole = tiny_run(), tiny_run(folder="whole")
    result, expected = again.train(), whole.train()
    assert not again.folder.failure.exists()
    assert result["quality"] == expected["quality"]


def test_a_weight_that_is_infinite_ends_the_run(tiny_run):
    run = tiny_run()
    run.model.get_layer("norm").moving_mean.assign(np.full(16, np.inf))
    with pytest.raises(
        NotFiniteError, match=r"at step 4, norm/moving_mean:0 is (nan|inf)"
    ):
        run.train()


def test_what_is_nan_is_not_saved_by_an_interruption(tiny_run):
    run = poisoned(tiny_run(), 6)
    with interrupted_at(7, error=NotFiniteError, match="at step 7, hidden/kernel:0"):
        run.train()
    assert checkpointed_step(run, tiny_run) == 4


def test_long_intervals_are_checked_on_the_way(tiny_run, monkeypatch):
    monkeypatch.setattr("state_of_sparsity.models.training.loop.guard.CHECKED_EVERY", 3)
    run = poisoned(tiny_run(eval_steps=12), 4)
    with pytest.raises(NotFiniteError, match="at step 4, the loss"):
        run.train()
    assert int(run.model.optimizer.iterations.numpy()) == 6


def test_a_step_that_loss_scaling_leaves_out_is_no_failure(tiny_run):
    run = poisoned(tiny_run(precision="mixed_float16"), 6, np.float32(np.inf))
    # Batch normalization would keep what it has seen.
    run.model.get_layer("norm").trainable = False
    run.task.compile(run.model)
    assert isinstance(run.model.optimizer, keras.mixed_precision.LossScaleOptimizer)
    run.model.fit(
        run.task.training_data(0), steps_per_epoch=8, callbacks=[Guard(int)], verbose=0
    )
    assert float(run.model.optimizer.loss_scale) == 2.0**14


def test_weights_that_are_no_floating_point_numbers_are_passed_by(tiny_run):
    model = tiny_run(sos.MagnitudePruning(0.5, 0, 4, 2)).model
    check_finite(model, 1)


@pytest.mark.parametrize(
    "technique",
    [sos.VariationalDropout(1e-4), sos.L0Regularization(1e-4)],
    ids=lambda technique: technique.technique_name(),
)
def test_nan_is_counted_as_no_zero(tiny_run, technique):
    model = tiny_run(technique).model
    for weight in model.get_layer("hidden").weights:
        weight.assign(np.full(weight.shape, np.nan))
    assert sos.sparsity_report(model).sparsity == 0.0
    assert all(mask.all() for mask in sos.weight_masks(model).values())
    assert sos.sparsity_report(sos.strip(model)).sparsity == 0.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("empty", "said"),
    [
        (["hidden"], "hidden/kernel has no weight left."),
        (["hidden", "logits"], "the model has no weight left"),
    ],
)
def test_layers_that_have_no_weight_left_are_named_once(tiny_run, capsys, empty, said):
    run = tiny_run(sos.L0Regularization(1e-4))
    for name in empty:
        gates = run.model.get_layer(name).log_alpha
        gates.assign(np.full(gates.shape, -20.0))
    run.train()
    out = capsys.readouterr().out
    assert out.count(f"warning: {said}") == 1
    assert ("the model has no weight left" in out) == (len(empty) == 2)
