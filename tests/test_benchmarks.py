"""Benchmarks run, and write their figures."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"


def run(script, *flags):
    """What a benchmark prints."""
    pytest.importorskip("tensorflow")
    environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    done = subprocess.run(
        [sys.executable, BENCHMARKS / script, *flags],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_all_benchmarks_write_one_table_and_compare_it_with_the_last(tmp_path):
    tiny = ("--rounds=2", "--length=3", "--width=8", "--layers=1", "--batch_size=2")
    flags = [f"--output={tmp_path}", "--only=^greedy"]
    flags += [f"--flag={flag}" for flag in tiny]
    first = run("run_all.py", *flags)
    path = next(tmp_path.glob("*.json"))
    written = json.loads(path.read_text("utf-8"))
    values = {(f["case"], f["quantity"]): f["value"] for f in written["figures"]}
    assert values.keys() == {
        ("cached", "ms"),
        ("recomputed", "ms"),
        ("recomputed", "over cached"),
    }
    assert min(values.values()) > 0
    assert {"processor", "cores", "memory", "tensorflow"} <= written["machine"].keys()
    assert "| greedy decoding | recomputed | over cached |" in first

    for figure in written["figures"]:
        figure["value"] = 2 * figure["value"]
    earlier = tmp_path / "earlier"
    earlier.write_text(json.dumps(written), "utf-8")
    second = run("run_all.py", *flags, f"--earlier={earlier}")
    (row,) = [line for line in second.splitlines() if "recomputed | ms" in line]
    *_, value, before, over, _ = row.split("|")
    assert float(over) == pytest.approx(float(value) / float(before), abs=0.01)
    assert float(before) == pytest.approx(2 * values["recomputed", "ms"], abs=0.01)


@pytest.mark.slow
def test_step_times_stand_beside_the_peak_of_memory(tmp_path):
    path = tmp_path / "figures.json"
    tiny = ("--model=cnn", "--rounds=1", "--steps=1", "--batch_size=4")
    run("step_time.py", *tiny, "--techniques=l0_regularization", f"--json={path}")
    found = json.loads(path.read_text("utf-8"))
    values = {(figure["case"], figure["quantity"]): figure["value"] for figure in found}
    peak = values["l0_regularization", "MiB at most"]
    ratio = values["l0_regularization", "memory over dense"]
    assert ratio == pytest.approx(peak / values["dense", "MiB at most"])
    assert values["l0_regularization", "over dense"] > 0


@pytest.mark.slow
def test_all_benchmarks_refuse_what_they_do_not_know():
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "run_all.py", "--only=nothing-like-it"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "--only must be part of a name" in done.stdout + done.stderr
