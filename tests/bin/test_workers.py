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
from state_of_sparsity.engines.tf_keras.backend import tf
from tests.models.training.test_cluster import free_addresses

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
    address = free_addresses(1)[0]
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


def test_a_worker_that_does_not_come_ends_a_run_with_its_own_status(
    command, tmp_path, tiny, monkeypatch
):
    first, second = free_addresses(2)
    task = {"type": "worker", "index": 0}
    config = {"cluster": {"worker": [first, second]}, "task": task}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    outcome = command(
        "train_resnet50",
        *tiny,
        "--distribution=multi_worker",
        "--worker_timeout=3",
        f"--output_dir={tmp_path / 'run'}",
    )
    assert outcome.code == WORKER_MISSING == 75
    waiting = f"Waiting for worker 1 ({second}), for at most 3 seconds.\n"
    assert waiting in outcome.out
    message = f"train_resnet50: worker 1 ({second}) did not come within 3 seconds."
    assert outcome.err.strip().startswith(message)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--cpu_devices=2"], "cpu_devices is for distribution=mirrored"),
        (["--cpu_devices=0", "--distribution=mirrored"], "cpu_devices must be at leas"),
        (["--cpu_devices=3", "--distribution=mirrored"], "cannot be divided once Tens"),
        (["--worker_timeout=0"], "worker_timeout must be positive"),
    ],
)
def test_how_a_run_is_carried_out_is_checked(refused, tmp_path, tiny, flags, message):
    # The test process has two devices, and TensorFlow has started.
    assert len(tf.config.list_logical_devices("CPU")) == 2
    run = f"--output_dir={tmp_path / 'run'}"
    assert message in refused("train_resnet50", *tiny, *flags, run)


@pytest.mark.slow
def test_cpu_devices_are_replicas_and_no_part_of_the_run(tmp_path, tiny):
    run = f"--output_dir={tmp_path / 'run'}"
    flags = [*tiny, "--distribution=mirrored", run]
    command = [SCRIPTS / "train_resnet50", *flags]
    done = subprocess.run(
        [*command, "--cpu_devices=2"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done
    assert "each of 8 images on 2 devices" in done.stdout
    assert "cpu_devices" not in (tmp_path / "run" / "flags.txt").read_text()
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "This run is finished" in again.stdout


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_lost_worker_ends_the_others_and_all_together_go_on(tmp_path, tiny, victim):
    folder = tmp_path / "run"
    flags = [*tiny, "--train_steps=400", "--eval_steps=10", f"--output_dir={folder}"]
    addresses = free_addresses(2)
    workers = [start(flags, addresses, index) for index in range(2)]
    read_until(workers[0], "step 30 of 400")
    workers[victim].kill()
    survivor = workers[1 - victim]
    _, err = survivor.communicate(timeout=120)
    assert survivor.returncode == WORKER_MISSING, err
    message = err.strip()
    assert message.startswith(
        f"train_resnet50: worker {victim} ({addresses[victim]}) has ended"
    )
    assert "\n" not in message
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
