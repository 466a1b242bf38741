"""Binaries in processes of their own: signals, several devices, several workers."""

import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from state_of_sparsity.models.images.options import ImageOptions

SCRIPTS = pathlib.Path(sys.executable).parent
BINARIES = ("train_resnet50", "evaluate_resnet50", "export_model", "report_sparsity")


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
@pytest.mark.parametrize("as_module", [False, True])
def test_help_shows_all_flags(as_module):
    if as_module:
        module = "state_of_sparsity.bin.train_resnet50"
        command = [sys.executable, "-m", module, "--help"]
        shown = subprocess.run(command, capture_output=True, text=True, check=False)
        help_ = shown.stdout
    else:
        _, help_, _ = finish(start("train_resnet50", "--help"))
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
@pytest.mark.parametrize("name", BINARIES[1:])
def test_each_console_script_says_what_it_does(name):
    _, help_, err = finish(start(name, "--help"))
    assert f"{name} --" in help_
    assert "  --" in help_
    assert err == ""


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_run_and_the_same_command_finishes_it(
    tmp_path, tiny, signum
):
    folder = tmp_path / "run"
    flags = [*tiny, "--train_steps=120", "--eval_steps=40", f"--output_dir={folder}"]
    process = start("train_resnet50", *flags)
    seen = ""
    while "step 40 of 120" not in seen:
        character = process.stdout.read(1)
        assert character, process.communicate()
        seen += character
    process.send_signal(signum)
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


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.mark.slow
def test_two_workers_train_a_run_and_only_the_chief_writes(tmp_path, tiny):
    folder = tmp_path / "run"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    flags = [*tiny, "--distribution=multi_worker", f"--output_dir={folder}"]

    def train():
        processes = [
            start(
                "train_resnet50",
                *flags,
                TF_CONFIG=json.dumps(
                    {
                        "cluster": {"worker": workers},
                        "task": {"type": "worker", "index": index},
                    }
                ),
                TMPDIR=str(scratch),
            )
            for index in range(2)
        ]
        return [finish(process) for process in processes]

    (code, chief, err), (other_code, other, other_err) = train()
    assert (code, other_code) == (0, 0), (err, other_err)
    assert "non-zero parameters" in chief
    assert "non-zero parameters" not in other
    result = json.loads((folder / "result.json").read_text())
    assert result["steps"] == 8
    assert result["sparsity"] == pytest.approx(0.9, abs=0.002)
    assert (folder / "metrics.csv").read_text().count("\n") == 3
    # One event file each, and nothing of the other worker left behind.
    assert len(list((folder / "tensorboard" / "sparsity").iterdir())) == 1
    assert not list(scratch.glob("worker-*"))
    # Killed before its last files, the run is finished by the same command.
    (folder / "result.json").unlink()
    (code, _, err), (other_code, _, other_err) = train()
    assert (code, other_code) == (0, 0), (err, other_err)
    again = json.loads((folder / "result.json").read_text())
    assert again == result
