"""Iterative pruning: what is masked, what is set back, and that it can be resumed."""

import shutil

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras
from state_of_sparsity.models.training.loop import training
from state_of_sparsity.models.training.loop.building import build_dense, build_model
from state_of_sparsity.models.training.loop.sparsification import Sparsification
from state_of_sparsity.models.training.loop.training import train
from state_of_sparsity.models.training.rewinding.kept_weights import Start, load_weights
from state_of_sparsity.models.training.rewinding.rounds import (
    Rounds,
    masked_as_in,
    unfinished,
)
from state_of_sparsity.models.training.run_folder import METRICS, RunFolder
from state_of_sparsity.models.training.run_folder.checkpoint import Checkpoint
from tests.models.training.interrupted import (
    Killed,
    interrupted_at,
    kill,
    raise_keyboard_interrupt,
)

STEPS, EVERY = 12, 4
# Of the kernels, as masks are named.
SIZES = {"hidden/kernel": 96, "logits/kernel": 48}


class InRounds:
    """Trains all that is not finished in a folder, as a process would anew."""

    def __init__(self, task, path, rounds, keep_steps=None, **target):
        self.task, self.folder = task, RunFolder(path, {"of": "tests"})
        self.rounds = rounds
        technique = sos.MagnitudePruning(**rounds.technique_defaults())
        self.target = Sparsification(technique, **target)
        self.start = Start(keep_steps=keep_steps)

    def train(self):
        for leg in unfinished(self.rounds, self.target, self.folder, STEPS):
            sparsification, start = leg.sparsification(), leg.start(self.start)
            dense = build_dense(self.task, start)
            leg.check(dense)
            self.model = build_model(self.task, sparsification, dense)
            folder, keep = leg.folder(), start.keep_steps
            train(self.task, sparsification, self.model, folder, dense, keep, leg)
            keras.backend.clear_session()
        return self.folder.read_result()

    @property
    def folders(self):
        """Of the rounds, in order."""
        last = self.rounds.rounds
        return [*map(self.folder.round, range(last)), self.folder]

    def weights(self, folder, step):
        """By name, the weights that were kept of a step."""
        model = self.task.build()
        load_weights(model, folder.path, step)
        return {
            "hidden/kernel": model.get_layer("hidden").kernel.numpy(),
            "logits/kernel": model.get_layer("logits").kernel.numpy(),
            "hidden/bias": model.get_layer("hidden").bias.numpy(),
            "norm/mean": model.get_layer("norm").moving_mean.numpy(),
        }

    def state(self):
        """Everything that training changes."""
        return [v.numpy() for v in self.model.weights + self.model.optimizer.variables]


def export_nothing(model, path, overwrite):
    path.mkdir(exist_ok=True)
    (path / "saved_model.pb").write_text("none")


@pytest.fixture(scope="module")
def make(tiny_task):
    def make(path, keep_steps=None, target=None, **rounds):
        given = {"rounds": 2, "prune_fraction": 0.3} | rounds
        resolved = Rounds(**given).resolved(None, STEPS)
        task = tiny_task()
        # Of what a SavedModel is, others tell.
        task.export = export_nothing
        return InRounds(task, path, resolved, keep_steps, **(target or {}))

    return make


@pytest.fixture
def in_rounds(make, tmp_path):
    return lambda **kwargs: make(tmp_path / "run", **kwargs)


KINDS = {
    "to the beginning": {},
    "to an early step": {"rewind_to_step": 3},
    "the learning rate": {"rewind": "learning_rate"},
    "the learning rate to a step": {"rewind": "learning_rate", "rewind_to_step": 3},
}


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow) for name in KINDS],
)
def kind(request):
    return KINDS[request.param]


def of_kind(*names):
    """For tests of what does not depend on the kind, or on all of it."""
    return pytest.mark.parametrize("kind", names, indirect=True, scope="module")


to_the_beginning = of_kind("to the beginning")
to_an_early_step = of_kind("to an early step")


@pytest.fixture(scope="module")
def done(make, kind, tmp_path_factory):
    """A finished run that was never interrupted, of each kind."""
    path = tmp_path_factory.mktemp("done") / "run"
    run = make(path, keep_steps=(STEPS,), **kind)
    run.train()
    return run


def masks_of(folder):
    return sos.load_masks(folder.masks)


def test_each_round_masks_the_smallest_of_the_weights_that_are_left(done):
    before = {name: np.ones(size, bool) for name, size in SIZES.items()}
    for number, (trained, folder) in enumerate(
        zip(done.folders, done.folders[1:], strict=False), start=1
    ):
        values = done.weights(trained, STEPS)
        masks = masks_of(folder)
        assert masks.keys() == SIZES.keys()
        for name, size in SIZES.items():
            mask = masks[name].ravel()
            assert (~mask).sum() == round((1 - 0.7**number) * size)
            # Masks are within those of the round before.
            assert not (mask & ~before[name]).any()
            magnitudes = np.abs(values[name].ravel())
            gone = before[name] & ~mask
            assert magnitudes[gone].max() < magnitudes[mask].min()
            before[name] = mask


def test_weights_are_set_back_and_what_is_masked_is_exactly_zero(done, kind):
    run = done
    back = kind.get("rewind_to_step", 0)
    for earlier, folder in zip(run.folders, run.folders[1:], strict=False):
        # What a round begins with, before its masks are applied.
        begun = run.weights(folder, back)
        if "rewind" in kind:
            expected = run.weights(earlier, STEPS)
        else:
            expected = run.weights(run.folders[0], back)
        np.testing.assert_equal(begun, expected)
        ended = run.weights(folder, STEPS)
        for name, mask in masks_of(folder).items():
            assert not ended[name][~mask].any()
            assert (ended[name][mask] != begun[name][mask]).mean() > 0.5


@to_the_beginning
def test_a_round_is_a_run_with_fixed_masks_from_the_same_values(done, tiny_run):
    alone = tiny_run(sos.FixedMask(masks_of(done.folder)), "alone")
    alone.train()
    np.testing.assert_equal(
        sos.strip(done.model).get_weights(), sos.strip(alone.model).get_weights()
    )
    # As it is loaded for evaluation and export.
    restored = build_model(done.task, masked_as_in(done.folder))
    Checkpoint(restored).restore(done.folder.checkpoints)
    np.testing.assert_equal(restored.get_weights(), done.model.get_weights())


@pytest.mark.slow
def test_the_schedule_and_the_data_go_on_from_the_step_that_is_rewound_to(in_rounds):
    seen = []
    run = in_rounds(rewind_to_step=3, rounds=1)
    data = run.task.training_data
    run.task.training_data = lambda start: seen.append(start) or data(start)
    result = run.train()
    # From 3 until the first evaluation, then in whole intervals.
    assert seen == [0, 3, 4]
    assert int(run.model.optimizer.iterations) == STEPS
    assert result["steps"] == STEPS + (STEPS - 3)


def test_metrics_count_the_steps_of_the_whole_run(done, kind):
    rows = done.folder.read_metrics()
    assert tuple(rows[0]) == METRICS
    back = kind.get("rewind_to_step", 0)
    again = [step - back for step in (4, 8, 12)]
    steps = [4, 8, 12, *(12 + n for n in again), *(24 - back + n for n in again)]
    assert [int(row["step"]) for row in rows] == steps
    # Five steps are an epoch.
    assert [float(row["epoch"]) for row in rows] == [step / 5 for step in steps]
    by_round = [0.0] * 3
    for number in (1, 2):
        zeros = sum(round((1 - 0.7**number) * size) for size in SIZES.values())
        by_round += [zeros / 144] * 3
    sparsities = [float(row["sparsity"]) for row in rows]
    assert sparsities == pytest.approx(by_round, abs=1e-6)


@pytest.mark.slow
@to_an_early_step
def test_the_result_is_that_of_the_last_round_and_lists_all(done):
    run, result = done, done.folder.read_result()
    earlier = [folder.read_result() for folder in run.folders[:-1]]
    assert [r["technique"] for r in [*earlier, result]] == [
        "dense",
        "magnitude_pruning",
        "magnitude_pruning",
    ]
    assert result["target_sparsity"] == 0.51
    assert earlier[1]["target_sparsity"] == 0.3
    assert [r["steps"] for r in result["rounds"]] == [12, 21, 30]
    for r, listed in zip([*earlier, result], result["rounds"], strict=True):
        assert listed == {n: r[n] for n in ("steps", "quality", "sparsity")}
    assert earlier[1]["rounds"] == result["rounds"][:2]
    # Three times the operations of inference, of what each round keeps, on 8 examples.
    kept = [144 - round((1 - 0.7**n) * 96) - round((1 - 0.7**n) * 48) for n in range(3)]
    operations = 12 * kept[0] + 9 * kept[1] + 9 * kept[2]
    assert result["training_flops"] == 8 * 3 * 2 * operations
    assert result["dense_training_flops"] == 8 * 3 * 2 * 30 * 144
    assert result["sparse_flops"] == 2 * kept[2]
    run.task.compile(deployed := sos.strip(run.model))
    assert result["quality"] == run.task.evaluate(deployed, "test")


def check_same(run, other):
    for a, b in zip(run.state(), other.state(), strict=True):
        np.testing.assert_array_equal(a, b)
    for mine, theirs in zip(run.folders, other.folders, strict=True):
        np.testing.assert_equal(masks_of(mine), masks_of(theirs))
        results = [folder.read_result() for folder in (mine, theirs)]
        for result in results:
            del result["seconds_per_step"]
        assert results[0] == results[1]
    cut = ("loss", "seconds_per_step")
    rows = [
        [{k: v for k, v in row.items() if k not in cut} for row in r.read_metrics()]
        for r in (run.folder, other.folder)
    ]
    assert rows[0] == rows[1]


@pytest.mark.slow
@of_kind("to an early step", "the learning rate")
def test_rounds_interrupted_within_and_between_end_as_if_they_had_not_been(
    in_rounds, done, kind, monkeypatch
):
    back = kind.get("rewind_to_step", 0)
    second = 2 * STEPS - back
    # In the dense round, and in the next one before and after its first evaluation.
    for step in (6, STEPS + 3 - back // 2, STEPS + 9 - back):
        with interrupted_at(step, match=f"saved at step {step}:"):
            in_rounds(keep_steps=(STEPS,), **kind).train()
    # Killed, with nothing written of the last round.
    with interrupted_at(second + 1, kill, Killed):
        in_rounds(keep_steps=(STEPS,), **kind).train()
    # Interrupted before its first step.
    with monkeypatch.context() as patch:
        patch.setattr(training, "_fit", raise_keyboard_interrupt)
        with pytest.raises(KeyboardInterrupt, match=f"saved at step {second}:"):
            in_rounds(keep_steps=(STEPS,), **kind).train()
    resumed = in_rounds(keep_steps=(STEPS,), **kind)
    resumed.train()
    check_same(done, resumed)


@to_the_beginning
def test_rounds_that_are_finished_are_not_trained_again(done):
    assert not list(unfinished(done.rounds, done.target, done.folder, STEPS))


@pytest.mark.slow
@to_the_beginning
def test_the_result_that_an_early_round_lacks_is_made_again_and_nothing_else(
    in_rounds, done, monkeypatch, tmp_path
):
    shutil.copytree(done.folder.path, tmp_path / "run")
    run = in_rounds()
    run.folders[0].result.write_text("{")
    monkeypatch.setattr("tf_keras.Model.fit", kill)
    rows = run.folder.read_metrics()
    before = run.folder.result.read_text()
    run.train()
    # A median over all steps until then.
    timing = {"seconds_per_step": None}
    expected = done.folders[0].read_result() | timing
    assert run.folders[0].read_result() | timing == expected
    assert run.folder.read_metrics() == rows
    assert run.folder.result.read_text() == before
    assert not list(unfinished(run.rounds, run.target, run.folder, STEPS))


@pytest.mark.slow
def test_layers_keep_their_overrides_and_budgets(in_rounds):
    target = {"overrides": {"logits": None}, "budget": "uniform"}
    run = in_rounds(prune_fraction=0.25, target=target)
    result = run.train()
    # 63 of 144, all of them among the 96 of the other layer.
    zeros = round((1 - 0.75**2) * 144)
    masks = masks_of(run.folder)
    assert (~masks["hidden/kernel"]).sum() == zeros
    assert masks["logits/kernel"].all()
    assert result["sparsity"] == zeros / 144
    left = (1 - zeros / 96) ** 0.5
    first = masks_of(run.folders[1])["hidden/kernel"]
    assert (~first).sum() == round((1 - left) * 96)


@pytest.mark.slow
def test_what_is_masked_goes_before_weights_that_are_zero_by_chance(in_rounds):
    run = in_rounds(prune_fraction=0.5)
    run.folder.start()
    first, second, _ = unfinished(run.rounds, run.target, run.folder, STEPS)
    dense = build_dense(run.task)
    first.conclude(build_model(run.task, Sparsification(), dense), _no_result())
    run.folders[0].start()
    run.folders[0].write_result(_no_result())
    mask = masks_of(run.folders[1])["hidden/kernel"]
    model = build_model(run.task, second.sparsification(), dense)
    # All that are left, and some that lie before those that are masked.
    kernel = model.layers[0].layer.kernel
    kernel.assign(np.zeros(kernel.shape))
    second.conclude(model, _no_result())
    later = masks_of(run.folder)["hidden/kernel"]
    assert (~mask).sum() == 48
    assert (~later).sum() == 72
    assert not (later & ~mask).any()


def _no_result():
    names = ("steps", "training_flops", "dense_training_flops", "quality", "sparsity")
    return dict.fromkeys(names, 0)


def test_rounds_that_would_mask_nothing_are_refused_before_training(in_rounds):
    run = in_rounds(prune_fraction=0.003)
    with pytest.raises(ValueError, match=r"mask none of the weights.*rounds=2"):
        run.train()
    assert not run.folder.path.exists()


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.3, 0.5, 0.75])
def test_sparsities_of_rounds_are_those_on_paper(fraction):
    rounds = Rounds(5, fraction).resolved(None, STEPS)
    final = rounds.technique_defaults()["sparsity"]
    for number in range(6):
        expected = 1 - (1 - fraction) ** number
        assert rounds.sparsity_after(number, final) == pytest.approx(
            expected, abs=1e-12
        )
    assert rounds.sparsity_after(1, final) == fraction
    given = Rounds(5).resolved(0.9, STEPS)
    assert "sparsity" not in given.technique_defaults()
    assert given.sparsity_after(5, 0.9) == 0.9
    left = [1 - given.sparsity_after(number, 0.9) for number in range(6)]
    # The same share of what is left, in each round.
    np.testing.assert_allclose(np.divide(left[1:], left[:-1]), 0.1**0.2, rtol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rounds": 0}, "rounds must be at least 1. Received: 0"),
        ({"prune_fraction": 0.2}, "prune_fraction needs rounds. Received: 0.2"),
        ({"rewind": "weights"}, "rewind needs rounds"),
        ({"rewind_to_step": 0}, "rewind_to_step needs rounds. Received: 0"),
        ({"rounds": 2, "prune_fraction": 0.0}, "above 0 and below 1. Received: 0.0"),
        ({"rounds": 2, "prune_fraction": 1.0}, "above 0 and below 1. Received: 1.0"),
        ({"rounds": 2, "rewind": "mask"}, "rewind must be one of weights, learning_ra"),
        ({"rounds": 2, "rewind_to_step": -1}, "at least 0. Received: -1"),
    ],
)
def test_bad_rounds_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Rounds(**arguments)


@pytest.mark.parametrize(
    ("rounds", "sparsity", "message"),
    [
        (Rounds(2, 0.2), 0.9, "exclude each other.*=0.2, sparsity=0.9"),
        (Rounds(2), 0.0, "sparsity must be above 0 with rounds. Received: 0.0"),
        (Rounds(2, rewind_to_step=12), None, "before the last of train_steps=12"),
    ],
)
def test_rounds_that_do_not_go_with_the_run_are_refused(rounds, sparsity, message):
    with pytest.raises(ValueError, match=message):
        rounds.resolved(sparsity, STEPS)
