"""Binaries in processes of their own: their help, signals, several devices."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from state_of_sparsity.models.images.options import ImageOptions

SCRIPTS = pathlib.Path(sys.executable).parent


def start(name, *arguments, **environment):
    return subprocess.Popen(
        [SCRIPTS / name, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
        | environment,
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.mark.slow
def test_help_shows_all_flags():
    module = "state_of_sparsity.bin.train_resnet50"
    command = [sys.executable, "-m", module, "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    help_ = shown.stdout
    assert "Trains a ResNet on images" in help_
    assert "90 % sparse by magnitude" in help_
    names = {"output_dir", "technique", "override", "sparsity", "block_size"}
    names |= {field.name for field in dataclasses.fields(ImageOptions)}
    for name in names:
        assert f"  --{name}: " in help_, name


@pytest.mark.slow
def test_a_pipe_that_is_closed_is_no_traceback():
    program = """
import sys
from state_of_sparsity.bin import app
sys.argv = ["translate"]
app.run(lambda: print("x" * 2**20, flush=True), "Writes a line.")
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.read(1)
    process.stdout.close()
    err = process.stderr.read().decode()
    assert process.wait(timeout=300) == 1
    assert "BrokenPipeError" not in err


@pytest.mark.slow
def test_a_console_script_says_what_it_does():
    _, help_, err = finish(start("report_sparsity", "--help"))
    assert "report_sparsity --" in help_
    assert "  --" in help_
    assert err == ""


@pytest.mark.slow
def test_a_signal_saves_the_run_and_the_same_command_finishes_it(tmp_path, tiny):
    folder = tmp_path / "run"
    flags = [*tiny, "--train_steps=120", "--eval_steps=40", f"--output_dir={folder}"]
    process = start("train_resnet50", *flags)
    seen = ""
    while "step 40 of 120" not in seen:
        character = process.stdout.read(1)
        assert character, process.communicate()
        seen += character
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert code == 130
    message = err.strip().rpartition("\n")[2]
    assert message.startswith("train_resnet50: interrupted, and saved at step ")
    assert message.endswith("run the same command again to go on.")
    step = int(message.partition("at step ")[2].partition(":")[0])
    assert 40 <= step < 120
    assert not (folder / "result.json").exists()
    code, _, err = finish(start("train_resnet50", *flags))
    assert (code, err) == (0, "")
    assert json.loads((folder / "result.json").read_text())["steps"] == 120
    rows = (folder / "metrics.csv").read_text().splitlines()[1:]
    assert [row.partition(",")[0] for row in rows] == ["40", "80", "120"]


@pytest.mark.slow
def test_two_devices_train_a_run(command, tiny, tmp_path):
    # The test process has two logical CPU devices.
    outcome = command(
        "train_resnet50",
        *tiny,
        "--technique=random_pruning",
        "--distribution=mirrored",
        f"--output_dir={tmp_path / 'run'}",
    )
    assert outcome.code == 0, outcome
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["steps"] == 8
    assert result["sparsity"] == pytest.approx(0.9, abs=0.002)
    evaluated = command("evaluate_resnet50", f"--run_dir={tmp_path / 'run'}")
    assert json.loads(evaluated.out)["quality"] == pytest.approx(result["quality"])
