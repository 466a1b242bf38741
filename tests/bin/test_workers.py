"""Several workers in processes of their own: what is missing, lost, and goes on."""

import json
import os
import pathlib
import re
import subprocess
import sys
import time

import pytest

from state_of_sparsity.bin.app import WORKER_MISSING
from tests.bin.test_processes import free_ports

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = pathlib.Path(sys.executable).parent


def start(flags, addresses, index):
    task = {"type": "worker", "index": index}
    config = {"cluster": {"worker": addresses}, "task": task}
    return subprocess.Popen(
        [SCRIPTS / "train_resnet50", *flags, "--distribution=multi_worker"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # As from a shell: the binaries themselves keep TensorFlow quiet.
        env={k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
        | {"TF_CONFIG": json.dumps(config)},
    )


def read_until(process, text):
    seen = ""
    while text not in seen:
        character = process.stdout.read(1)
        assert character, process.communicate()
        seen += character
    return seen


def test_a_wrong_tf_config_is_one_message(refused, tmp_path, tiny, monkeypatch):
    flags = [*tiny, "--distribution=multi_worker", f"--output_dir={tmp_path / 'run'}"]
    address = f"127.0.0.1:{free_ports(1)[0]}"
    for config, part in (
        ("worker:1", "TF_CONFIG is no JSON"),
        ({"cluster": {"worker": [address]}, "task": {}}, "task.type"),
        (
            {"cluster": {"worker": [address]}, "task": {"type": "worker", "index": 1}},
            "task.index must be a number from 0 to 0",
        ),
        (
            {
                "cluster": {"worker": [address, "nowhere.invalid:1"]},
                "task": {"type": "worker", "index": 0},
            },
            "cluster.worker[1] is on a host that cannot be found",
        ),
    ):
        text = config if isinstance(config, str) else json.dumps(config)
        monkeypatch.setenv("TF_CONFIG", text)
        message = refused("train_resnet50", *flags)
        assert part in message
        assert message.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_lost_worker_ends_the_others_and_all_together_go_on(tmp_path, tiny, victim):
    folder = tmp_path / "run"
    flags = [*tiny, "--train_steps=400", "--eval_steps=10", f"--output_dir={folder}"]
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    workers = [start(flags, addresses, index) for index in range(2)]
    read_until(workers[0], "step 30 of 400")
    workers[victim].kill()
    survivor = workers[1 - victim]
    _, err = survivor.communicate(timeout=120)
    assert survivor.returncode == WORKER_MISSING, err
    message = err.strip()
    assert message.startswith("train_resnet50: another worker is missing, or has ended")
    assert message.count("\n") == 1
    workers[victim].communicate()
    time.sleep(1)
    # The same command goes on with what was saved.
    workers = [start(flags, addresses, index) for index in range(2)]
    seen = read_until(workers[0], " of 400.")
    for worker in workers:
        worker.kill()
        worker.communicate()
    assert re.search(r"Going on from step [23]0 of 400\.", seen), seen
    steps = (folder / "metrics.csv").read_text().splitlines()[1:]
    assert [line.partition(",")[0] for line in steps][:2] == ["10", "20"]


@pytest.mark.slow
def test_the_example_trains_with_two_workers(tmp_path, tiny):
    command = [
        sys.executable,
        ROOT / "examples" / "two_workers.py",
        SCRIPTS / "train_resnet50",
        *tiny,
        f"--output_dir={tmp_path / 'run'}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    for index in range(2):
        said = rf"^worker {index}: steps +8, each of 8 images on 2 devices"
        assert re.search(said, done.stdout, re.M), done.stdout
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 8
