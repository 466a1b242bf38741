"""Runs of learned techniques: defaults on digits, and thresholds chosen afterwards."""

import csv
import json

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import tf


@pytest.fixture(scope="module")
def variational(command, lenet, tmp_path_factory):
    """The folder of a tiny run of variational dropout, with scattered log alphas."""
    folder = tmp_path_factory.mktemp("runs") / "variational"
    technique = ("--technique=variational_dropout", "--initial_log_sigma2=-4")
    outcome = command("train_resnet50", *lenet, *technique, f"--output_dir={folder}")
    assert outcome.code == 0, outcome
    return folder


def scores(command, folder, *flags):
    """What the sweep of thresholds prints, and the rows that it writes."""
    outcome = command("evaluate_resnet50", f"--run_dir={folder}", *flags)
    assert outcome.code == 0, outcome
    with (folder / "thresholds.csv").open(newline="") as file:
        return outcome.out, list(csv.DictReader(file))


def test_sparsity_falls_as_the_threshold_grows(variational, command, load):
    thresholds = "--log_alpha_thresholds=-1,0.5,3"
    printed, rows = scores(command, variational, thresholds, "--split=validation")
    model = load(variational)[1]
    assert [float(row["log_alpha_threshold"]) for row in rows] == [-1, 0.5, 3]
    for row in rows:
        report = sos.sparsity_report(model, float(row["log_alpha_threshold"]))
        assert float(row["sparsity"]) == pytest.approx(report.sparsity, rel=1e-5)
        assert 0 <= float(row["quality"]) <= 1
        assert row["split"] == "validation"
        assert f"{report.sparsity:.2%}" in printed
    sparsities = [float(row["sparsity"]) for row in rows]
    assert sparsities == sorted(sparsities, reverse=True)
    assert sparsities[0] > sparsities[-1]


def test_the_score_at_the_threshold_of_the_run_is_that_of_its_result(
    variational, command
):
    result = json.loads((variational / "result.json").read_text())
    _, (row,) = scores(command, variational, "--log_alpha_thresholds=3")
    assert float(row["quality"]) == pytest.approx(result["quality"], rel=1e-5)
    assert float(row["sparsity"]) == pytest.approx(result["sparsity"], rel=1e-5)


def test_a_model_is_reported_and_exported_at_another_threshold(
    variational, command, load, images, tmp_path
):
    given = (f"--model={variational}", "--log_alpha_threshold=-1")
    model = load(variational)[1]
    reported = command("report_sparsity", *given).out
    assert reported.strip() == str(sos.sparsity_report(model, -1.0))
    outcome = command("export_model", *given, f"--export_dir={tmp_path / 'export'}")
    assert outcome.code == 0, outcome
    exported = tf.saved_model.load(str(tmp_path / "export"))
    np.testing.assert_allclose(
        exported.serve(images), sos.strip(model, -1.0)(images), atol=1e-5
    )


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ("0,low", "--log_alpha_thresholds must be numbers with commas between them"),
        ("0,nan", "must be finite numbers, at least one. Received: 0,nan"),
        ("", "must be finite numbers, at least one"),
    ],
)
def test_bad_thresholds_are_refused(variational, refused, thresholds, message):
    flags = (f"--run_dir={variational}", f"--log_alpha_thresholds={thresholds}")
    assert message in refused("evaluate_resnet50", *flags)


@pytest.mark.slow
def test_thresholds_of_a_run_without_log_alphas_are_refused(finished, refused):
    expected = "log_alpha_threshold is for variational dropout"
    flags = (f"--run_dir={finished}", "--log_alpha_thresholds=1")
    assert expected in refused("evaluate_resnet50", *flags)
    flags = (f"--model={finished}", "--log_alpha_threshold=1")
    assert expected in refused("report_sparsity", *flags)
    flags += (f"--export_dir={finished.parent / 'other'}",)
    assert expected in refused("export_model", *flags)


@pytest.mark.slow
def test_learned_techniques_need_no_flags_on_digits(command, lenet, tmp_path):
    technique = "--technique=l0_regularization"
    run = f"--output_dir={tmp_path / 'run'}"
    outcome = command("train_resnet50", *lenet, technique, run)
    assert outcome.code == 0, outcome
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["technique"] == "l0_regularization"
    assert result["target_sparsity"] is None
    assert "penalty " in outcome.out


def test_a_ramp_that_never_ends_is_refused(refused, lenet, tmp_path):
    technique = ("--technique=variational_dropout", "--ramp_begin=8")
    run = f"--output_dir={tmp_path / 'run'}"
    message = refused("train_resnet50", *lenet, *technique, run)
    assert "end after the last of --train_steps=8" in message
