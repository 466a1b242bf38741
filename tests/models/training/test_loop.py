"""Training that can be interrupted at any step, and what it leaves in its folder."""

import contextlib
import csv
import json
import os
import signal

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import tf
from state_of_sparsity.models.training.loop.progress import Progress
from state_of_sparsity.models.training.loop.sparsification import Sparsification
from state_of_sparsity.models.training.loop.training import (
    TrainingInterrupted,
    _segments,
)
from state_of_sparsity.models.training.run_folder import METRICS
from tests.models.training.interrupted import (
    Killed,
    interrupted_at,
    kill,
    raise_keyboard_interrupt,
)
from tests.shared.reference import cubic_sparsity


def steps_of(segments):
    """The steps of each interval, as `fit` goes through them."""
    return [
        (segment.epoch + k, segment.start + k * segment.steps, segment.steps)
        for segment in segments
        for k in range(segment.count)
    ]


@pytest.mark.parametrize(("total", "every"), [(12, 4), (10, 4), (3, 5), (7, 1), (1, 1)])
def test_intervals_end_at_multiples_of_the_interval_and_at_the_end(total, every):
    for start in range(total + 1):
        intervals = steps_of(_segments(start, total, every))
        ends = [first + steps for _, first, steps in intervals]
        later = [e for e in range(every, total, every) if e > start]
        assert ends == ([*later, total] if start < total else [])
        # Each begins where the one before ended, and counts as the same interval as in
        # a run without interruption.
        assert [first for _, first, _ in intervals] == [start, *ends][: len(ends)]
        assert all(epoch == first // every for epoch, first, _ in intervals)


def test_a_run_without_interruption_is_one_call_of_fit():
    (segment,) = _segments(0, 600, 100)
    assert (segment.start, segment.steps, segment.count) == (0, 100, 6)


def state(run):
    """Everything that training changes."""
    return [v.numpy() for v in run.model.weights + run.model.optimizer.variables]


def rows(run, without=("seconds_per_step",)):
    return [
        {k: v for k, v in row.items() if k not in without}
        for row in run.folder.read_metrics()
    ]


def without_loss_of(step, table):
    """The mean over an interval that was cut is that of its last steps."""
    return [row | {"loss": ""} if row["step"] == str(step) else row for row in table]


def check_same(run, other):
    for a, b in zip(state(run), state(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "signum", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_run_interrupted_within_an_interval_ends_as_if_it_had_not_been(
    tiny_run, pruning, finished, signum
):
    message = "saved at step 6: run the same"
    with interrupted_at(6, lambda: os.kill(os.getpid(), signum), match=message):
        tiny_run(pruning).train()
    resumed = tiny_run(pruning)
    result = resumed.train()
    check_same(finished, resumed)
    assert without_loss_of(8, rows(finished)) == without_loss_of(8, rows(resumed))
    assert [row["step"] for row in rows(resumed)] == ["4", "8", "12"]
    timing = {"seconds_per_step": result["seconds_per_step"]}
    assert result == finished.result | timing


@pytest.mark.slow
@pytest.mark.parametrize(
    ("often", "step"),
    [
        pytest.param({}, 4, marks=pytest.mark.slow),
        ({"checkpoint_every_steps": 3}, 6),
    ],
    ids=["evaluation", "checkpoint between evaluations"],
)
def test_a_run_that_is_killed_goes_on_from_its_last(
    tiny_run, pruning, finished, capsys, often, step
):
    with interrupted_at(7, kill, Killed):
        tiny_run(pruning, **often).train()
    assert "Going on" not in capsys.readouterr().out
    resumed = tiny_run(pruning, **often)
    resumed.train()
    assert f"Going on from step {step} of 12." in capsys.readouterr().out
    check_same(finished, resumed)
    expected, found = rows(finished), rows(resumed)
    if step == 4:
        # All of them, the loss too.
        assert found == expected
    assert without_loss_of(8, found) == without_loss_of(8, expected)


@pytest.mark.slow
def test_a_run_whose_scoring_fails_keeps_what_was_trained(tiny_run, pruning, finished):
    run = tiny_run(pruning)

    def fail(model, logs):
        raise RuntimeError("no BLEU today")

    run.task.quality_in_training = fail
    with pytest.raises(RuntimeError, match="no BLEU today"):
        run.train()
    resumed = tiny_run(pruning)
    resumed.train()
    check_same(finished, resumed)
    # It is scored then.
    assert rows(resumed) == without_loss_of(4, rows(finished))


@pytest.mark.slow
def test_an_interruption_between_a_row_and_its_checkpoint_adds_no_other(
    tiny_run, pruning, finished, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "say", raise_keyboard_interrupt)
        with pytest.raises(TrainingInterrupted, match="step 4:"):
            tiny_run(pruning).train()
    resumed = tiny_run(pruning)
    resumed.train()
    assert rows(finished) == rows(resumed)
    check_same(finished, resumed)


NOISY = {
    "variational_dropout": sos.VariationalDropout(1e-3, ramp_length=4),
    "l0_regularization": sos.L0Regularization(1e-3),
    "random_pruning": sos.RandomPruning(0.75, begin_step=2, end_step=9, frequency=2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NOISY)
def test_what_is_drawn_after_a_resume_is_what_would_have_been(tiny_run, name):
    """A step within an interval, and one whose checkpoint comes after the row."""
    options = {"dropout": 0.3, "checkpoint_every_steps": 1}
    uninterrupted = tiny_run(NOISY[name], "uninterrupted", **options)
    uninterrupted.train()
    for step in (5, 8):
        with interrupted_at(step, kill, Killed):
            tiny_run(NOISY[name], **options).train()
    resumed = tiny_run(NOISY[name], **options)
    resumed.train()
    check_same(uninterrupted, resumed)
    expected, found = rows(uninterrupted), rows(resumed)
    assert without_loss_of(8, found) == without_loss_of(8, expected)
    assert len({row["loss"] for row in found}) == 3


def test_a_run_interrupted_before_its_first_step_saves_nothing(tiny_run, monkeypatch):
    run = tiny_run()
    monkeypatch.setattr(run.model, "fit", raise_keyboard_interrupt)
    with pytest.raises(TrainingInterrupted, match="before there was anything to save"):
        run.train()
    assert not run.folder.checkpoints.exists()
    assert tiny_run().train()["steps"] == 12


def test_sigterm_does_again_what_it_did_before_training(tiny_run):
    before = signal.getsignal(signal.SIGTERM)
    tiny_run(train_steps=1).train()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_a_run_killed_while_it_writes_its_results_finishes_them(
    tiny_run, pruning, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(sos, "export", lambda *a, **k: kill(), raising=False)
        with pytest.raises(Killed):
            tiny_run(pruning).train()
    again = tiny_run(pruning)
    assert not again.folder.is_finished
    fitted = []
    monkeypatch.setattr(again.model, "fit", lambda *a, **k: fitted.append(a))
    result = again.train()
    assert not fitted
    assert again.folder.is_finished
    assert result["steps"] == 12
    assert tf.saved_model.contains_saved_model(again.folder.export)


def training_flops():
    """Of 12 steps on 8 examples: each weight is used once forward, twice backward."""
    kept = 0
    for step in range(1, 13):
        # Masks are renewed at steps 2, 4, 6, 8 and 9 of a ramp from 2 to 9.
        renewed = min(step - step % 2, 8) if step < 9 else 9
        sparsity = cubic_sparsity(renewed, 0.75, 2, 9) if step > 1 else 0
        kept += 144 - round(sparsity * 96) - round(sparsity * 48)
    return 8 * 3 * 2 * kept


def test_the_result_says_what_came_out(finished):
    result = json.loads(finished.folder.result.read_text())
    assert result == finished.result
    quality, seconds = result.pop("quality"), result.pop("seconds_per_step")
    # 6x16 and 16x3 kernels; beside them biases, gamma and beta.
    zeros = round(0.75 * 96) + round(0.75 * 48)
    assert result == {
        "technique": "magnitude_pruning",
        "model": "tiny",
        "dataset": "tiny",
        "steps": 12,
        "exported_step": 12,
        "seed": 0,
        "quality_metric": "accuracy",
        "sparsity": zeros / 144,
        "target_sparsity": 0.75,
        "parameters": 144 + 16 + 3 + 32,
        "nonzero_parameters": 144 + 16 + 3 + 32 - zeros,
        "flops": 2 * 144,
        "sparse_flops": 2 * (144 - zeros),
        "training_flops": training_flops(),
        "dense_training_flops": 12 * 8 * 3 * 2 * 144,
    }
    assert 0 < seconds < 60
    # Computed anew from the export.
    exported = tf.saved_model.load(str(finished.folder.export))
    right = [
        np.argmax(exported.serve(points), axis=1) == labels
        for points, labels in finished.task.evaluation_data("test")
    ]
    assert quality == pytest.approx(np.mean(np.concatenate(right)), rel=1e-6)


def test_metrics_have_a_row_for_each_evaluation(finished):
    with finished.folder.metrics.open(newline="") as file:
        table = list(csv.DictReader(file))
    assert tuple(table[0]) == METRICS
    assert [row["step"] for row in table] == ["4", "8", "12"]
    # 40 examples are five batches of eight.
    assert [float(row["epoch"]) for row in table] == [0.8, 1.6, 2.4]
    # Masks are renewed at steps 2, 4, 6, 8 and 9 of a ramp from 2 to 9.
    ramp = [0.75 * (1 - (1 - (step - 2) / 7) ** 3) for step in (4, 8, 9)]
    zeros = [round(sparsity * 96) + round(sparsity * 48) for sparsity in ramp]
    assert [float(row["sparsity"]) for row in table] == pytest.approx(
        [count / 144 for count in zeros], rel=1e-5
    )
    for row in table:
        assert 0 <= float(row["quality"]) <= 1
        assert float(row["loss"]) > 0
        assert float(row["seconds_per_step"]) > 0


def scalars(folder):
    """The values of each scalar by step, from the event files in a folder."""
    values = {}
    for file in sorted(folder.glob("events.*")):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                by_step = values.setdefault(value.tag, {})
                by_step[event.step] = float(tf.make_ndarray(value.tensor))
    return values


def test_tensorboard_shows_the_sparsity_overall_and_by_layer(finished):
    written = scalars(finished.folder.tensorboard / "sparsity")
    assert set(written) == {
        "sparsity",
        "sparsity/hidden/kernel",
        "sparsity/logits/kernel",
    }
    for by_step in written.values():
        assert list(by_step) == [4, 8, 12]
        assert by_step[12] == 0.75
    recorded = {int(row["step"]): float(row["sparsity"]) for row in rows(finished)}
    assert written["sparsity"] == pytest.approx(recorded, abs=1e-6)


def test_tensorboard_shows_losses_and_quality(finished):
    table = rows(finished)

    def check(part, name, column):
        shown = scalars(finished.folder.tensorboard / part)[name]
        recorded = {int(row["step"]): float(row[column]) for row in table}
        assert shown == pytest.approx(recorded, rel=1e-5)

    check("train", "loss", "loss")
    check("train", "learning_rate", "learning_rate")
    check("validation", "loss", "validation_loss")
    check("validation", "accuracy", "quality")


def test_tensorboards_hparams_tab_knows_the_run(finished):
    place = finished.folder.tensorboard / "result"
    shown = EventAccumulator(str(place)).Reload()
    start = shown.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    assert b"magnitude_pruning" in start
    assert {"quality", "sparsity"} <= set(shown.Tags()["tensors"])


@pytest.mark.slow
def test_metrics_have_the_learning_rate_and_what_a_technique_penalizes(
    tiny_run, finished
):
    assert {row["learning_rate"] for row in rows(finished)} == {"0.1"}
    assert {row["penalty"] for row in rows(finished)} == {""}
    run = tiny_run(sos.L0Regularization(1e-3, ramp_length=10))
    run.train()
    weights = [float(row["penalty_weight"]) for row in rows(run)]
    # The step that was the last is counted from zero.
    assert weights == pytest.approx([0.3e-3, 0.7e-3, 1e-3])
    assert all(0 < float(row["penalty"]) <= 144 for row in rows(run))


def scored(run, qualities):
    """Has a run find these qualities in validation, one after the other."""
    left = iter(qualities)
    run.task.quality_in_training = lambda model, logs: next(left)


@pytest.mark.slow
def test_the_best_state_is_kept_and_exported_if_asked_for(tiny_run, pruning):
    # The schedule of pruning is over at step 9, and the evaluation at 4 is too early.
    options = {"train_steps": 20, "export": "best"}
    run = tiny_run(pruning, **options)
    scored(run, [0.9, 0.8, 0.5, 0.7, 0.6])
    result = run.train()
    assert result["exported_step"] == 16
    assert (result["steps"], result["sparsity"]) == (20, 0.75)
    assert tf.train.latest_checkpoint(run.folder.best).endswith("ckpt-16")
    assert tf.train.latest_checkpoint(run.folder.checkpoints).endswith("ckpt-20")
    # Training in another folder stops at that step with the same weights.
    shorter = tiny_run(pruning, "shorter", train_steps=16)
    shorter.train()
    exported = [tf.saved_model.load(str(r.folder.export)) for r in (run, shorter)]
    outputs = [model.serve(np.ones((1, 6), "float32")) for model in exported]
    np.testing.assert_array_equal(*outputs)


@pytest.mark.slow
def test_the_best_is_known_after_a_resume(tiny_run, pruning):
    options = {"train_steps": 20, "export": "best"}
    with interrupted_at(14):
        run = tiny_run(pruning, **options)
        scored(run, [0.9, 0.8, 0.5])
        run.train()
    resumed = tiny_run(pruning, **options)
    scored(resumed, [0.4, 0.3])
    assert resumed.train()["exported_step"] == 12


@pytest.mark.slow
def test_without_an_evaluation_after_the_schedule_the_last_state_is_exported(
    tiny_run, capsys
):
    late = sos.MagnitudePruning(0.75, begin_step=2, end_step=30, frequency=2)
    result = tiny_run(late, export="best").train()
    assert result["exported_step"] == 12
    assert "over (step 30), so that none counts as the best" in capsys.readouterr().out


def test_a_run_says_what_it_is(tiny_run, pruning, capsys):
    run = tiny_run(pruning)
    run.train()
    out = capsys.readouterr().out
    for line in (
        "model      tiny, 195 parameters",
        "technique  magnitude_pruning sparsity=0.75 begin_step=2 end_step=9 "
        "frequency=2",
        "dataset    tiny",
        "devices    1 device (CPU)",
        "steps      12, each of a batch; an evaluation every 4",
        f"folder     {run.folder.path}",
    ):
        assert line in out.splitlines()
    shown = [line for line in out.splitlines() if line.startswith("step ")]
    assert [line.partition(":")[0] for line in shown] == [
        "step 4 of 12",
        "step 8 of 12",
        "step 12 of 12",
    ]
    # Of a file, nothing moves.
    assert "\r" not in out
    assert "\b" not in out


@pytest.mark.slow
def test_on_a_terminal_there_is_one_bar_for_the_whole_run(
    tiny_run, pruning, capsys, monkeypatch
):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with interrupted_at(6):
        tiny_run(pruning).train()
    capsys.readouterr()
    tiny_run(pruning).train()
    out = capsys.readouterr().out
    assert "6/12" in out
    assert "12/12" in out
    assert "evaluating" in out
    assert "loss " in out


@pytest.mark.slow
def test_a_run_whose_metrics_were_lost_is_finished_without_its_speed(tiny_run):
    run = tiny_run(train_steps=4)
    run.train()
    run.folder.metrics.unlink()
    run.folder.result.unlink()
    assert tiny_run(train_steps=4).train()["seconds_per_step"] is None


@pytest.mark.slow
@pytest.mark.parametrize("how", ["mirrored", "mixed_float16", "mixed_bfloat16"])
def test_a_run_on_two_devices_or_in_mixed_precision_is_resumed(
    tiny_run, pruning, mirrored, how
):
    on_two = how == "mirrored"

    def begun(folder):
        with mirrored.scope() if on_two else contextlib.nullcontext():
            return tiny_run(pruning, folder, precision="float32" if on_two else how)

    whole = begun("whole")
    whole.train()
    with interrupted_at(6):
        begun("run").train()
    resumed = begun("run")
    assert resumed.train()["sparsity"] == 0.75
    # Replicas add up their gradients in no fixed order.
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if on_two else {"rtol": 0}
    for a, b in zip(state(whole), state(resumed), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


@pytest.mark.slow
def test_a_run_says_what_its_budget_has_chosen(tiny_run, capsys, pruning):
    task = tiny_run().task
    capsys.readouterr()
    Sparsification(pruning, {}, "erk").apply(task.build())
    (line,) = capsys.readouterr().out.splitlines()
    planned = sos.planned_sparsities(task.build(), pruning, {}, sos.ERK())
    assert line.startswith(f"budget erk: from {min(planned.values()):.2%} (")
    assert f"to {max(planned.values()):.2%} (" in line
    assert len(set(planned.values())) > 1


@pytest.mark.slow
def test_a_run_with_one_threshold_meets_its_sparsity(tiny_run, capsys, pruning):
    run = tiny_run(pruning, budget="global")
    assert ", if the scores stayed as they are now" in capsys.readouterr().out
    result = run.train()
    assert result["nonzero_parameters"] < result["parameters"]
    masks = sos.load_masks(run.folder.masks)
    size = sum(mask.size for mask in masks.values())
    kept = sum(int(mask.sum()) for mask in masks.values())
    assert size - kept == round(pruning.sparsity * size)
    assert len({round(mask.mean(), 3) for mask in masks.values()}) == 2
    assert 0 < result["training_flops"] < result["dense_training_flops"]
