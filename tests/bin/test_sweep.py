"""Sweeps: which runs there are, and training them in processes of their own."""

import csv
import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from state_of_sparsity.bin import sweep
from state_of_sparsity.bin.configurations import Configuration, of_grid
from state_of_sparsity.bin.flags import UsageError
from state_of_sparsity.bin.pool import LocalPool, log_of
from state_of_sparsity.models.training.run_folder import RunFolder

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
    with pytest.raises(UsageError, match=message):
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
        grid(axis)[0].check()
    assert axis in said


def test_a_folder_that_cannot_be_written_is_one_message(refused, tmp_path):
    (tmp_path / "file").touch()
    said = refused("sweep", f"--output_dir={tmp_path / 'file'}", "--seeds=0")
    assert "cannot be written (" in said


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep that was run: two that succeed, in one process, and one that cannot."""
    folder = tmp_path_factory.mktemp("sweep")
    wanted = grid("technique=dense", seeds=("0", "1"), fixed=FIXED)
    lost = Configuration(
        BINARY,
        {**TINY, "technique": "fixed_mask", "load_masks_from": "nowhere"},
        {"technique": "fixed_mask"},
    )
    wanted.append(lost)
    failed = sweep.train(wanted, folder, jobs=1, runs_per_process=3)
    return folder, wanted, failed


def table(folder):
    with (folder / "runs.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def kernels(folder, name):
    with np.load(RunFolder(folder / name).path / "weights" / "step_0.npz") as arrays:
        return {key: arrays[key] for key in arrays}


@pytest.mark.slow
def test_each_run_has_a_folder_and_a_row(swept):
    folder, wanted, _ = swept
    rows = table(folder)
    assert [row["folder"] for row in rows] == [run.name for run in wanted]
    assert [row["status"] for row in rows] == ["finished", "finished", "missing"]
    assert [row["seed"] for row in rows] == ["0", "1", ""]
    for row in rows[:2]:
        result = RunFolder(folder / row["folder"]).read_result()
        assert float(row["quality"]) == result["quality"]
        assert str(result["seed"]) == row["seed"]


@pytest.mark.slow
def test_one_that_fails_is_listed_with_the_last_line_of_its_log(swept):
    folder, wanted, failed = swept
    assert list(failed) == wanted[2:]
    (said,) = failed.values()
    # As the binary says it, without a traceback.
    assert said.startswith("--load_masks_from must be the folder of a finished run")
    assert said == log_of(folder, wanted[2]).read_text().strip().splitlines()[-1]
    lines = list(sweep.said(failed))
    assert lines[0] == "1 failed:"
    assert wanted[2].name in lines[1]


@pytest.mark.slow
def test_a_run_does_not_depend_on_those_before_it_in_its_process(swept, tmp_path):
    folder, wanted, _ = swept
    sweep.train(wanted[1:2], tmp_path, jobs=1)
    name = wanted[1].name
    together = RunFolder(folder / name).read_result()
    alone = RunFolder(tmp_path / name).read_result()
    del together["seconds_per_step"], alone["seconds_per_step"]
    assert together == alone
    for key, value in kernels(folder, name).items():
        np.testing.assert_array_equal(value, kernels(tmp_path, name)[key])


@pytest.mark.slow
def test_finished_runs_are_not_trained_again(swept):
    folder, wanted, _ = swept
    before = RunFolder(folder / wanted[0].name).result.stat().st_mtime_ns
    assert not sweep.train(wanted[:2], folder, jobs=2)
    assert RunFolder(folder / wanted[0].name).result.stat().st_mtime_ns == before


@pytest.mark.slow
def test_tensorboard_shows_what_varies_and_what_came_out(swept):
    folder, wanted, _ = swept
    top = EventAccumulator(str(folder)).Reload().PluginTagToContent("hparams")
    assert b"technique" in top["_hparams_/experiment"]
    run = EventAccumulator(str(folder / wanted[0].name / "tensorboard/result")).Reload()
    tags = run.PluginTagToContent("hparams")
    assert "_hparams_/session_start_info" in tags
    assert b"technique" in tags["_hparams_/session_start_info"]
    assert {"quality", "sparsity"} <= set(run.Tags()["tensors"])


@pytest.mark.slow
def test_a_process_that_is_killed_is_a_run_that_failed(tmp_path, monkeypatch):
    program = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    monkeypatch.setattr(
        "state_of_sparsity.bin.pool._WORKER", [sys.executable, "-c", program]
    )
    runs = grid("width=0.1", seeds="01", fixed=FIXED[:1])
    (tmp_path / "logs").mkdir()
    ended = dict(LocalPool(tmp_path, jobs=2, runs_per_process=2).train(runs))
    assert ended == dict.fromkeys(runs, "its process ended with signal SIGKILL")


@pytest.mark.slow
def test_an_interrupted_sweep_saves_its_runs_and_goes_on(tmp_path):
    long = {**TINY, "train_steps": "1000000", "eval_steps": "20"}
    fixed = [f"--fixed={name}={value}" for name, value in long.items()]
    command = [
        *(sys.executable, "-m", "state_of_sparsity.bin.sweep"),
        *("--grid=technique=dense", "--jobs=1", f"--output_dir={tmp_path}", *fixed),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    (run,) = grid(
        "technique=dense", fixed=[text.removeprefix("--fixed=") for text in fixed]
    )
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
    failed = sweep.train([runs[0], broken], tmp_path, jobs=2, ray_address="local")
    assert RunFolder(tmp_path / runs[0].name).is_finished
    assert list(failed) == [broken]
    assert "seed must be at least 0" in failed[broken]


def test_a_cluster_that_is_not_there_is_one_message(tmp_path):
    runs = grid("technique=dense", fixed=FIXED)
    with pytest.raises(UsageError, match="--ray_address=auto: "):
        sweep.train(runs, tmp_path, jobs=1, ray_address="auto")


@pytest.mark.slow
def test_a_result_that_is_damaged_is_made_again_and_shown_once(swept, tmp_path):
    folder, wanted, _ = swept
    again = shutil.copytree(folder, tmp_path / "again")
    run = RunFolder(again / wanted[0].name)
    expected = run.read_result()
    run.result.write_text('{"quality": ')
    assert not sweep.train(wanted[:2], again, jobs=1)
    assert run.read_result() == expected
    assert [row["status"] for row in table(again)] == ["finished", "finished"]
    shown = EventAccumulator(str(run.tensorboard / "result")).Reload()
    assert [event.step for event in shown.Tensors("quality")] == [6]
