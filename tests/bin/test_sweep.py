"""Sweeps: which runs there are, and training them in processes of their own."""

import csv
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from state_of_sparsity.bin.sweep import check, command
from state_of_sparsity.models.sweeps import sweep
from state_of_sparsity.models.sweeps.configurations import Configuration, of_grid
from state_of_sparsity.models.sweeps.processes import (
    LocalProcesses,
    RayProcesses,
    log_of,
)
from state_of_sparsity.models.training.run_folder import RunFolder
from state_of_sparsity.models.usage import UsageError

TINY = {
    "dataset": "mnist1d",
    "width": "0.1",
    "train_steps": "6",
    "eval_steps": "6",
    "decay_epochs": "0.05",
}
FIXED = [f"{name}={value}" for name, value in TINY.items()]
BINARY = "train_resnet50"


def grid(*axes, seeds=("0",), **others):
    return of_grid(BINARY, axes, seeds, **others)


def test_a_grid_has_all_combinations_with_each_seed():
    runs = grid("technique=magnitude_pruning,dense", "width=1,2", seeds="12")
    expected = [
        {"technique": technique, "width": width, "seed": seed}
        for technique in ("magnitude_pruning", "dense")
        for width in "12"
        for seed in "12"
    ]
    assert [run.settings for run in runs] == expected
    assert len({run.name for run in runs}) == 8


def test_a_name_is_of_what_the_run_is_and_not_of_where_or_in_which_order():
    one = Configuration(BINARY, {"width": "1", "seed": "0"})
    assert one.name == Configuration(BINARY, {"seed": "0", "width": "1"}).name
    assert one.name == Configuration(BINARY, {**one.settings, "output_dir": "x"}).name
    others = [
        Configuration("train_transformer", one.settings),
        Configuration(BINARY, {"width": "1", "seed": "1"}),
        Configuration(BINARY, {"width": "1"}),
    ]
    assert len({one.name, *(other.name for other in others)}) == 4
    # So that a sweep of today finds the folders of one of last year.
    assert one.name == "a4bd04037d65"


def test_values_that_are_the_same_for_all_may_have_commas():
    (run,) = grid(fixed=["decay_epochs=1,2,3"])
    assert "--decay_epochs=1,2,3" in run.arguments
    assert run.title == "seed=0"


def test_a_grid_can_be_over_flagfiles(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(
            f"# A comment.\n--override={name}=dense\n--override=c=0.5\n--width=2\n"
        )
    runs = grid(seeds="01", flagfiles=[tmp_path / "a", tmp_path / "b"])
    assert [run.title for run in runs] == [
        f"flagfile={name} seed={seed}" for name in "ab" for seed in "01"
    ]
    overrides = ["--override=b=dense", "--override=c=0.5"]
    assert runs[2].arguments == [*overrides, "--width=2", "--seed=0"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"axes": ["width="]}, "grid is empty: it has no value for --width"),
        ({"axes": [], "seeds": []}, "grid is empty: it has no value for --seed"),
        ({"axes": ["width"]}, "--grid must be FLAG=VALUE. Received: 'width'"),
        ({"axes": [], "fixed": ["=3"]}, "--fixed must be FLAG=VALUE. Received: '=3'"),
        ({"axes": ["seed=1,2"]}, "--seed is in the grid and set elsewhere"),
        ({"axes": ["width=1"], "fixed": ["width=2"]}, "--width is in the grid and set"),
        ({"axes": [], "flagfiles": ["no/such"]}, "--flagfiles=no/such: "),
    ],
)
def test_a_grid_that_will_not_do_is_an_error_which_names_the_flag(arguments, message):
    axes = arguments.pop("axes")
    with pytest.raises(ValueError, match=message):
        grid(*axes, **arguments)


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ("widht=1", "widht=1 seed=0: Unknown command line flag 'widht'"),
        ("sparsity=2", r"sparsity=2 seed=0: .*sparsity must be .*Received: 2"),
        ("technique=pruning", "technique=pruning seed=0: .*should be one of"),
    ],
)
def test_a_flag_that_the_binary_would_refuse_is_said_before_anything_starts(
    refused, tmp_path, axis, message
):
    said = refused("sweep", f"--output_dir={tmp_path / 'sweep'}", f"--grid={axis}")
    assert not (tmp_path / "sweep").exists()
    with pytest.raises(UsageError, match=message):
        check(*grid(axis))
    assert axis in said


def test_a_folder_that_cannot_be_written_is_one_message(refused, tmp_path):
    (tmp_path / "file").touch()
    said = refused("sweep", f"--output_dir={tmp_path / 'file'}", "--seeds=0")
    assert "cannot be written (" in said


# Stands in for a training binary: it takes no seconds to start.
STAND_IN = """
import json, pathlib, sys, time
flags = dict(text[2:].split("=", 1) for text in sys.argv[1:])
folder = pathlib.Path(flags["output_dir"])
folder.mkdir(exist_ok=True)
(folder / "flags.txt").touch()
print(flags, flush=True)
time.sleep(float(flags.get("seconds", 0)))
if flags["seed"] == "2":
    sys.exit("there is no such seed")
result = {"quality_metric": "top1", "quality": 0.5, "sparsity": 0.25, "steps": 6}
(folder / "result.json").write_text(json.dumps({**result, "seconds_per_step": 1.0}))
"""


def stand_in(folder, run):
    """Runs take no time, but for their flag --seconds; the one of seed 2 fails."""
    place = f"--output_dir={folder / run.name}"
    return [sys.executable, "-c", STAND_IN, *run.arguments, place]


def train(wanted, folder, jobs=1):
    return sweep.train(wanted, folder, LocalProcesses(folder, jobs, stand_in))


def table(folder):
    with (folder / "runs.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_run_has_a_folder_and_a_row_and_what_fails_is_listed(tmp_path):
    wanted = grid("technique=dense", seeds="012")
    failed = train(wanted, tmp_path, jobs=2)
    rows = table(tmp_path)
    assert [row["folder"] for row in rows] == [run.name for run in wanted]
    assert [row["status"] for row in rows] == ["finished", "finished", "started"]
    assert [row["seed"] for row in rows] == ["0", "1", "2"]
    assert [row["quality"] for row in rows] == ["0.5", "0.5", ""]
    # With the last line of its log.
    assert failed == {wanted[2]: "there is no such seed"}
    heading, line = sweep.said(failed)
    assert heading == "1 failed:"
    assert line == f"  {wanted[2].name}  {wanted[2].title}: there is no such seed"


def test_only_what_is_not_finished_is_trained_and_shown_once(tmp_path):
    wanted = grid("technique=dense", seeds="01")
    train(wanted, tmp_path)
    runs = [RunFolder(tmp_path / run.name) for run in wanted]
    before = runs[0].result.stat().st_mtime_ns
    runs[1].result.write_text('{"quality": ')
    assert not train(wanted, tmp_path)
    assert runs[0].result.stat().st_mtime_ns == before
    assert [row["status"] for row in table(tmp_path)] == ["finished"] * 2
    shown = EventAccumulator(str(runs[1].tensorboard / "result")).Reload()
    assert [event.step for event in shown.Tensors("quality")] == [6]
    # TensorBoard knows of the run what varies, and of the sweep as well.
    for events, name in (
        (shown, "session_start_info"),
        (EventAccumulator(str(tmp_path)).Reload(), "experiment"),
    ):
        content = events.PluginTagToContent("hparams")[f"_hparams_/{name}"]
        assert b"technique" in content


@pytest.mark.slow
def test_so_many_runs_as_jobs_are_trained_at_a_time(tmp_path):
    wanted = grid("technique=dense", seeds="013", fixed=["seconds=1"])
    begun = {}
    for jobs in (1, 3):
        folder = tmp_path / str(jobs)
        train(wanted, folder, jobs)
        starts = [(folder / run.name / "flags.txt").stat().st_mtime for run in wanted]
        begun[jobs] = max(starts) - min(starts)
    assert begun[1] > 2
    assert begun[3] < 2


@pytest.mark.parametrize(
    ("program", "said", "errors"),
    [
        ("import os; print(os.environ['OMP_NUM_THREADS'])", "4", [None, None]),
        (
            "import os; os.kill(os.getpid(), 9)",
            "",
            ["its process ended with signal SIGKILL"] * 2,
        ),
    ],
    ids=["share the cores", "are killed"],
)
def test_runs_at_the_same_time(tmp_path, monkeypatch, program, said, errors):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (tmp_path / "logs").mkdir()
    runs = grid("width=1", seeds="01")
    processes = LocalProcesses(tmp_path, 2, lambda *_: [sys.executable, "-c", program])
    found = dict(processes.train(runs))
    assert [found[run] for run in runs] == errors
    for run in runs:
        assert log_of(tmp_path, run).read_text().strip() == said


@pytest.mark.slow
def test_an_interrupted_sweep_saves_its_runs_and_goes_on(tmp_path):
    long = {**TINY, "train_steps": "1000000", "eval_steps": "20"}
    fixed = [f"{name}={value}" for name, value in long.items()]
    arguments = [
        *(sys.executable, "-m", "state_of_sparsity.bin.sweep"),
        *("--grid=technique=dense", "--jobs=1", f"--output_dir={tmp_path}"),
        *(f"--fixed={text}" for text in fixed),
    ]
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    (run,) = grid("technique=dense", fixed=fixed)
    metrics = tmp_path / run.name / "metrics.csv"
    deadline = time.monotonic() + 240
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert list((tmp_path / run.name / "checkpoints").glob("*.index"))
    assert table(tmp_path)[0]["status"] == "started"


@pytest.mark.slow
def test_runs_can_be_those_of_a_ray_cluster(tmp_path, monkeypatch):
    # Ray's processes import what this one does.
    root = str(pathlib.Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, *sys.path]))
    runs = grid("technique=dense", seeds="01", fixed=FIXED)
    broken = dataclasses.replace(runs[1], settings={**runs[1].settings, "seed": "-1"})
    cluster = RayProcesses(tmp_path, 2, command, "local")
    failed = sweep.train([runs[0], broken], tmp_path, cluster)
    assert RunFolder(tmp_path / runs[0].name).is_finished
    assert list(failed) == [broken]
    assert "seed must be at least 0" in failed[broken]


def test_a_cluster_that_is_not_there_is_one_message(refused, tmp_path):
    said = refused("sweep", "--ray_address=auto", f"--output_dir={tmp_path}")
    assert "--ray_address=auto: " in said
