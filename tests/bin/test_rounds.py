"""Tiny runs in rounds from end to end: interrupted, finished, and what is in them."""

import dataclasses
import json

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import tf
from state_of_sparsity.models.runs import train as runs_train
from state_of_sparsity.models.runs.folders import read_run
from state_of_sparsity.models.training.run_folder import METRICS
from tests.models.training.interrupted import raise_keyboard_interrupt

pytestmark = pytest.mark.slow

ROUNDS = ("--rounds=2", "--prune_fraction=0.5", "--override=conv1=dense")


@pytest.fixture(scope="module")
def run(command, lenet, tmp_path_factory):
    """The folder of a run that was interrupted at the start of its last round."""
    folder = tmp_path_factory.mktemp("runs") / "rounds"
    flags = (*lenet, *ROUNDS, f"--output_dir={folder}")
    train = runs_train.train_model

    def interrupted(*arguments, **options):
        leg = arguments[-2]
        if leg.number == 2:
            raise_keyboard_interrupt()
        return train(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs_train, "train_model", interrupted)
        assert command("train_resnet50", *flags).code == 130
    assert not (folder / "result.json").exists()
    message = command("evaluate_resnet50", f"--run_dir={folder}").err
    assert "has no checkpoint yet: train it first" in message
    outcome = command("train_resnet50", *flags)
    assert outcome.code == 0, outcome
    return folder, flags, outcome


@pytest.fixture(scope="module")
def folder(run):
    return run[0]


@pytest.fixture(scope="module")
def result(folder):
    return json.loads((folder / "result.json").read_text())


def test_it_goes_on_with_the_round_that_was_interrupted(run, result):
    folder, _, outcome = run
    assert "Round 2 of 2." in outcome.out
    assert "Round 1" not in outcome.out
    assert [r["steps"] for r in result["rounds"]] == [8, 16, 24]
    lines = (folder / "metrics.csv").read_text().splitlines()
    assert lines[0] == ",".join(METRICS)
    assert [line.partition(",")[0] for line in lines[1:]] == [
        str(step) for step in range(4, 25, 4)
    ]


def test_the_folder_of_a_round_is_that_of_a_run_of_fewer_rounds(folder):
    whole, folders = read_run(folder)[0], folder / "rounds"
    first, _ = read_run(folders / "1")
    assert first.rounds == dataclasses.replace(whole.rounds, rounds=1)
    assert first.sparsification.target_sparsity == 0.5
    assert first.sparsification.overrides == {"conv1": None}
    assert (first.options, first.start) == (whole.options, whole.start)
    dense, _ = read_run(folders / "0")
    assert dense.rounds is dense.sparsification.technique is None


def test_conv1_stays_dense_and_all_else_is_halved_twice(folder):
    for name, mask in sos.load_masks(folder / "masks.npz").items():
        zeros = 0 if name == "conv1/kernel" else round(0.75 * mask.size)
        assert (~mask).sum() == zeros, name


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_folder_of_each_round_is_evaluated_exported_and_reported(
    folder, result, command, number, images, tmp_path
):
    path = folder if number == 2 else folder / "rounds" / str(number)
    scores = json.loads(command("evaluate_resnet50", f"--run_dir={path}").out)
    assert scores["quality"] == pytest.approx(result["rounds"][number]["quality"])
    assert scores["sparsity"] == result["rounds"][number]["sparsity"]
    csv = tmp_path / "layers.csv"
    command("report_sparsity", f"--model={path}", f"--csv={csv}")
    assert csv.read_text() == (path / "layers.csv").read_text()
    export = tmp_path / "export"
    outcome = command("export_model", f"--model={path}", f"--export_dir={export}")
    assert outcome.code == 0, outcome
    served = [tf.saved_model.load(str(p)) for p in (path / "export", export)]
    np.testing.assert_array_equal(*(model.serve(images) for model in served))


def test_a_run_in_its_first_rounds_cannot_be_evaluated(folder, refused, tmp_path):
    (tmp_path / "flags.txt").write_text((folder / "flags.txt").read_text())
    message = refused("evaluate_resnet50", f"--run_dir={tmp_path}")
    assert f"{tmp_path} has not come to its last round yet" in message
    assert str(tmp_path / "rounds") in message


def test_all_rounds_of_a_translation_have_one_vocabulary(
    command, tiny_transformer, tmp_path
):
    folder = tmp_path / "run"
    outcome = command(
        "train_transformer",
        *tiny_transformer,
        "--rounds=1",
        "--rewind_to_step=1",
        f"--output_dir={folder}",
    )
    assert outcome.code == 0, outcome
    assert outcome.out.count("Learning a vocabulary") == 1
    vocabularies = [
        (path / "vocabulary.model").read_bytes()
        for path in (folder, folder / "rounds" / "0")
    ]
    assert vocabularies[0] == vocabularies[1]
    result = json.loads((folder / "result.json").read_text())
    assert result["sparsity"] == pytest.approx(0.2, abs=1e-3)
    assert [r["steps"] for r in result["rounds"]] == [4, 7]
    scores = json.loads(command("evaluate_transformer", f"--run_dir={folder}").out)
    assert scores["quality"] == pytest.approx(result["quality"])
