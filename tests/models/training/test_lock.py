"""One process at a time trains in a folder."""

import os
import subprocess
import sys

import pytest

from state_of_sparsity.models.training.run_folder import (
    LOCK,
    RunFolder,
    RunFolderError,
    lock,
)

HOLDER = """
import sys, time
from state_of_sparsity.models.training.run_folder import RunFolder, lock
with lock.held(RunFolder(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "runs" / "one", {"seed": "0"})


@pytest.fixture
def holder(folder):
    """Another process that holds the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder.path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_folder_that_another_process_holds_is_refused_until_that_is_killed(
    folder, holder
):
    with (
        pytest.raises(
            RunFolderError, match=rf"by process {holder.pid} on .* UTC: wait"
        ),
        lock.held(folder),
    ):
        pass
    holder.kill()
    holder.wait()
    # What it left does not matter.
    assert folder.path.joinpath(LOCK).exists()
    with lock.held(folder):
        pass


def test_two_runs_of_one_process_exclude_each_other_as_well(folder):
    with lock.held(folder):
        with (
            pytest.raises(RunFolderError, match=f"by process {os.getpid()} on"),
            lock.held(folder),
        ):
            pass
        with lock.held(RunFolder(folder.path.with_name("another"))):
            pass


def test_a_folder_that_stays_empty_is_removed_again(folder):
    with lock.held(folder):
        assert folder.path.is_dir()
    assert not folder.path.exists()


def test_a_folder_with_a_run_keeps_the_run_alone(folder):
    with lock.held(folder):
        folder.start()
    assert [path.name for path in folder.path.iterdir()] == ["flags.txt"]


def test_a_folder_that_was_held_only_is_free(folder):
    folder.path.mkdir(parents=True)
    (folder.path / LOCK).write_text("process 1 on nowhere")
    folder.check_same_run()


def test_a_folder_in_the_place_of_the_lock_is_one_message(folder):
    (folder.path / LOCK).mkdir(parents=True)
    with (
        pytest.raises(RunFolderError, match="cannot be written"),
        lock.held(folder),
    ):
        pass
