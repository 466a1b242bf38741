"""Every technique, from the command line to the files of a finished run."""

import json

import pytest

import state_of_sparsity as sos

RAMP = ("--begin_step=2", "--end_step=6", "--frequency=2")
REGROWTH = ("--end_step=6", "--frequency=2")
THRESHOLD = ("--begin_step=1", "--end_step=6")
# Eight steps are too few for the schedules of the papers.
SCHEDULES = {
    **dict.fromkeys(("set", "rigl", "granet"), REGROWTH),
    **dict.fromkeys(("feather", "st3"), THRESHOLD),
    "acdc": ("--dense_steps=2", "--phases=4,6"),
    "spartan": ("--end_step=3", "--fixed_step=6"),
    "fisher_pruning": (*RAMP, "--block_size=5"),
    "group_lasso": ("--lasso_weight=1e-2", "--structure=channels"),
    # No layer of the LeNet has groups of four channels.
    "srste": ("--dataset=mnist1d", "--network=cnn1d", "--width=0.25"),
    **dict.fromkeys(("str", "variational_dropout", "l0_regularization"), ()),
}
# With which a few stand for all.
POWER = "--powerpropagation_alpha=2"


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [
        *(*sos.TECHNIQUES, "group_lasso"),
        *(f"{name} {POWER}" for name in ("magnitude_pruning", "feather", "srste")),
    ],
)
def test_a_technique_is_trained_scored_and_exported(command, lenet, tmp_path, given):
    technique, *power = given.split()
    outcome = command(
        "train_resnet50",
        *lenet,
        f"--technique={technique}",
        *SCHEDULES.get(technique, RAMP),
        *power,
        f"--output_dir={tmp_path / 'run'}",
    )
    assert outcome.code == 0, outcome
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["technique"] == technique
    target = result["target_sparsity"]
    if target is not None:
        # A layer of one input channel has no groups of four; weights go on moving
        # after the last threshold; what has just grown is zero.
        assert result["sparsity"] == pytest.approx(target, abs=0.03)
    assert (tmp_path / "run" / "export" / "saved_model.pb").is_file()
