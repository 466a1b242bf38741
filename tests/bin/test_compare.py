"""The binary `compare`, and what it says about bad input."""

import re

import pytest

from tests.models.analysis.conftest import write_run, write_study

FILES = {
    f"{name}.{ending}"
    for name in ("quality_over_sparsity", "quality_over_flops")
    for ending in ("png", "svg")
} | {"comparison.csv", "comparison.md"}
LAYERS = {"sparsity_by_layer.png", "sparsity_by_layer.svg"}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = write_study(tmp_path_factory.mktemp("compare") / "study")
    running = write_run(folder / "running", 0.9, 0.9)
    (running / "result.json").unlink()
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "deep" / "out"


def rows(text):
    """A table without what pads its columns."""
    return re.sub(" +", " ", text)


def files(folder):
    return {path.name for path in folder.iterdir()}


def test_runs_become_pictures_and_tables_and_unfinished_ones_are_listed(
    command, study, out
):
    outcome = command("compare", study, f"--output_dir={out}")
    assert outcome.code == 0, outcome
    assert files(out) == FILES
    assert "| magnitude pruning | 90.00 % | 3 |" in rows(outcome.out)
    assert (out / "comparison.md").read_text() in outcome.out
    assert f"skipped:\n  {study / 'running'}: not finished" in outcome.err
    for name in FILES:
        assert str(out / name) in outcome.out


def test_layers_and_a_page_come_when_they_are_asked_for(command, study, out):
    outcome = command(
        "compare",
        study,
        "--html",
        "--layers_of=magnitude_pruning_0.9_0,variational_dropout_0.8_2",
        "--title=Mine",
        "--label=dropout=learned",
        f"--output_dir={out}",
    )
    assert outcome.code == 0, outcome
    assert files(out) == FILES | LAYERS | {"comparison.html"}
    assert "| learned | 81.00 % |" in rows(outcome.out)
    assert "<h1>Mine</h1>" in (out / "comparison.html").read_text(encoding="utf-8")
    assert "learned, 82.0%, seed 2" in (out / "sparsity_by_layer.svg").read_text()


@pytest.mark.slow
def test_a_trained_run_is_compared(command, finished, out):
    outcome = command("compare", finished, "--layers_of=tiny", f"--output_dir={out}")
    assert outcome.code == 0, outcome
    assert files(out) == FILES | LAYERS
    assert "| magnitude pruning, conv1=dense, logits=0.5 | 85.31 % |" in rows(
        outcome.out
    )


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--dataset=mnist"], "There is no finished run of --dataset=mnist"),
        (["--layers_of=running"], "--layers_of: 'running' is the name of no run"),
        (["--label=erk"], "--label must be REGEX=NAME. Received: 'erk'"),
        (["--label=(=erk"], "must be a regular expression. Received: '('"),
        (["--label=erk=global"], "'erk' is found in the path of none"),
    ],
)
def test_bad_flags_leave_no_folder(refused, study, out, flags, expected):
    message = refused("compare", study, *flags, f"--output_dir={out}")
    assert expected in message
    assert not out.exists()


def test_a_place_that_cannot_be_written_is_named(refused, study, tmp_path):
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "out"
    message = refused("compare", study, f"--output_dir={place}")
    assert f"--output_dir={place}: " in message
