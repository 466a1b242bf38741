"""Several workers in processes of their own: trained, lost, gone on with."""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import psutil
import pytest

from state_of_sparsity.bin.app import WORKER_MISSING
from tests.bin.test_processes import SCRIPTS, start

ROOT = pathlib.Path(__file__).parents[2]


def free_addresses(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    return addresses


def start_worker(flags, addresses, index):
    task = {"type": "worker", "index": index}
    config = json.dumps({"cluster": {"worker": addresses}, "task": task})
    flags = (*flags, "--distribution=multi_worker")
    return start("train_resnet50", *flags, TF_CONFIG=config)


def read_until(process, text):
    seen = ""
    while text not in seen:
        character = process.stdout.read(1)
        assert character, process.communicate()
        seen += character
    return seen


def together(command, environment):
    """What workers that one command starts end with, and print.

    Once more if they never meet: a port may have been taken since it was found free.
    """
    for is_last in (False, True):
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        try:
            out, _ = process.communicate(timeout=240)
            return process.returncode, out
        except subprocess.TimeoutExpired:
            for worker in psutil.Process(process.pid).children(recursive=True):
                worker.kill()
            out, _ = process.communicate()
            assert not is_last, out


@pytest.mark.slow
def test_a_lost_worker_ends_the_others_and_all_together_go_on(tmp_path, lenet):
    """Two workers of one command: on devices of their own, and the chief writes."""
    folder, scratch = tmp_path / "run", tmp_path / "scratch"
    scratch.mkdir()
    flags = [*lenet, "--train_steps=80", "--eval_steps=10", f"--output_dir={folder}"]
    addresses = free_addresses(2)
    workers = [start_worker(flags, addresses, index) for index in range(2)]
    read_until(workers[0], "step 30 of 80")
    # The chief.
    workers[0].kill()
    _, err = workers[1].communicate(timeout=120)
    assert workers[1].returncode == WORKER_MISSING, err
    message = err.strip()
    assert message.startswith("train_resnet50: another worker is missing, or has ended")
    assert message.count("\n") == 1
    workers[0].communicate()

    def train():
        script = ROOT / "examples" / "two_workers.py"
        command = [sys.executable, script, SCRIPTS / "train_resnet50", *flags]
        code, out = together(command, os.environ | {"TMPDIR": str(scratch)})
        assert code == 0, out
        return out, json.loads((folder / "result.json").read_text())

    # The same command goes on with what was saved.
    out, result = train()
    assert re.search(r"^worker 0: Going on from step [2-6]0 of 80\.", out, re.M), out
    for index in range(2):
        said = rf"^worker {index}: steps +80, each of 8 images on 2 devices"
        assert re.search(said, out, re.M), out
    assert "worker 0: non-zero parameters" in out
    assert "worker 1: non-zero parameters" not in out
    assert result["steps"] == 80
    assert result["sparsity"] == pytest.approx(0.9, abs=0.005)
    rows = (folder / "metrics.csv").read_text().splitlines()[1:]
    assert [row.partition(",")[0] for row in rows] == [
        str(step) for step in range(10, 81, 10)
    ]
    # One event file of either chief, and nothing of the other worker left behind.
    assert len(list((folder / "tensorboard" / "sparsity").glob("*.v2"))) == 2
    assert not list(scratch.glob("worker-*"))
    # Killed before its last files, the run is finished by the same command.
    (folder / "result.json").unlink()
    assert train()[1] == result
