"""Runs whose masks are made before the first step: SNIP, GraSP, SynFlow, magnitude."""

import json

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.models.runs import train as runs_train
from state_of_sparsity.models.training.loop.building import build_dense
from state_of_sparsity.models.training.loop.initial_masks import initial_masks
from state_of_sparsity.models.training.loop.losses import SmoothedCrossEntropy
from state_of_sparsity.models.training.run_folder import RunFolder
from tests.bin.conftest import run_of
from tests.bin.test_killed import values
from tests.models.training.interrupted import interrupted_at, raise_keyboard_interrupt

pytestmark = pytest.mark.slow

FLAGS = (
    *("--dataset=mnist1d", "--width=0.25", "--batch_size=8"),
    *("--train_steps=8", "--eval_steps=4"),
)
AT_START = ("--begin_step=0", "--end_step=0", "--budget=global")
# Flags of a run, and what one_shot is to do in as many batches.
RUNS = {
    "snip": ((), sos.SNIP(0.9), 1),
    "grasp": (("--distribution=mirrored",), sos.GraSP(0.9), 2),
    "synflow": ((), sos.SynFlow(0.9), 0),
    "magnitude_pruning": (AT_START, sos.MagnitudePruning(0.9, 0, 0, 1), 0),
}


@pytest.fixture(scope="module")
def folders(command, tmp_path_factory):
    """Of a finished run by each."""
    found = {}
    for name, (flags, _, _) in RUNS.items():
        found[name] = tmp_path_factory.mktemp("runs") / name
        given = (*FLAGS, f"--technique={name}", *flags)
        outcome = command("train_resnet50", *given, f"--output_dir={found[name]}")
        assert outcome.code == 0, outcome
    return found


def pruned(run, technique, data, loss, **options):
    """The masks that one_shot makes of the initial weights of a run."""
    dense = build_dense(run.task(None))
    sparse = sos.one_shot(dense, technique, data, loss=loss, **options)
    return sos.weight_masks(sparse)


@pytest.mark.parametrize("name", RUNS)
def test_masks_are_those_of_one_shot_on_the_first_batches(folders, name, load, command):
    _, technique, batches = RUNS[name]
    run = run_of("train_resnet50", *FLAGS)
    data = None
    if batches:
        first = run.task(None).training_data(0).take(batches).as_numpy_iterator()
        data = tuple(map(np.concatenate, zip(*first, strict=True)))
    options = {"budget": sos.Global(), "batch_size": 8}
    expected = pruned(run, technique, data, SmoothedCrossEntropy(), **options)
    folder = folders[name]
    found = sos.load_masks(folder / "masks.npz")
    np.testing.assert_equal(found, expected)
    size = sum(mask.size for mask in found.values())
    assert sum((~mask).sum() for mask in found.values()) == round(0.9 * size)
    result = json.loads((folder / "result.json").read_text())
    assert (result["technique"], result["target_sparsity"]) == (name, 0.9)
    np.testing.assert_equal(sos.weight_masks(load(folder)[1]), expected)
    said = command("evaluate_resnet50", f"--run_dir={folder}").out
    # A budget is said before.
    scores = json.loads(said[said.index("{") :])
    assert scores["quality"] == pytest.approx(result["quality"])


def test_an_interrupted_run_goes_on_with_its_masks(folders, tmp_path, monkeypatch):
    run = run_of("train_resnet50", *FLAGS, "--technique=snip")
    folder, whole = RunFolder(tmp_path / "run"), RunFolder(folders["snip"])
    with interrupted_at(3):
        runs_train.train(run, folder.path)
    # They are in the folder.
    monkeypatch.delattr(runs_train, "initial_masks")
    runs_train.train(run, folder.path)
    assert folder.masks.read_bytes() == whole.masks.read_bytes()
    assert folder.read_flags() == whole.read_flags()
    assert folder.read_flags()["mask_batches"] == "1"
    expected, found = values(whole), values(folder)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, name)


def test_a_residual_branch_that_begins_at_zero_has_scores(tiny):
    run = run_of("train_resnet50", *tiny, "--technique=snip")
    masks = initial_masks(run.task(None), run.sparsification, run.start)
    assert min(mask.mean() for mask in masks.values()) > 0.005


def test_a_translation_masks_by_its_weighted_loss_in_parts(
    command, tiny_transformer, tmp_path, monkeypatch
):
    given = (*tiny_transformer, "--dropout=0", "--packed_length=64")
    folder = tmp_path / "run"
    # Once they are in the folder.
    monkeypatch.setattr(runs_train, "train_model", raise_keyboard_interrupt)
    outcome = command(
        "train_transformer",
        *(*given, "--accumulate_steps=2", "--technique=snip", "--sparsity=0.5"),
        f"--output_dir={folder}",
    )
    assert outcome.code == 130, outcome
    assert outcome.out.count("Learning a vocabulary") == 1
    run = run_of("train_transformer", *given)
    (inputs, labels, weights), *_ = run.task(RunFolder(folder)).training_data(0).take(1)
    cross_entropy = SmoothedCrossEntropy(run.options.label_smoothing)

    def loss(targets, outputs):
        return cross_entropy.call(targets, outputs) * weights

    data = iter([(inputs, labels)])
    expected = pruned(run, sos.SNIP(0.5), data, loss)
    found = sos.load_masks(folder / "masks.npz")
    size = sum(mask.size for mask in found.values())
    assert sum((~mask).sum() for mask in found.values()) == round(0.5 * size)
    # Scores that float32 turns round.
    assert sum((found[n] != mask).sum() for n, mask in expected.items()) <= size / 500
