"""Runs that go on, whatever has become of their folder: one message for each."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

import state_of_sparsity as sos
from state_of_sparsity.models.training.run_folder import RunFolder, lock

SCRIPT = pathlib.Path(sys.executable).parent / "train_resnet50"


@pytest.fixture
def arguments(copied, lenet, overridden):
    """Of the command that made it."""
    return "train_resnet50", *lenet, *overridden, f"--output_dir={copied}"


@pytest.fixture
def nothing_is_built(monkeypatch):
    """What is refused has to be refused before a model is built."""

    def fail(*arguments):
        raise AssertionError("a model was built")

    monkeypatch.setattr("state_of_sparsity.models.runs.train.build_dense", fail)


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def without_times(result):
    return {k: v for k, v in result.items() if k != "seconds_per_step"}


@pytest.mark.usefixtures("nothing_is_built")
def test_a_folder_that_is_held_is_refused_to_train_and_not_to_read(
    copied, refused, command, arguments
):
    (copied / "result.json").unlink()
    before = contents(copied)
    with lock.held(RunFolder(copied)):
        message = refused(*arguments)
        assert f"{copied} is being trained by process {os.getpid()} on" in message
    assert contents(copied) == before


@pytest.mark.slow
def test_a_truncated_checkpoint_falls_back_to_the_one_before(
    copied, finished, command, arguments
):
    expected = json.loads((copied / "result.json").read_text())
    rows = (copied / "metrics.csv").read_text().splitlines()
    (copied / "result.json").unlink()
    file = copied / "checkpoints" / "ckpt-8.data-00000-of-00001"
    file.write_bytes(file.read_bytes()[:1000])
    outcome = command(*arguments)
    assert outcome.code == 0, outcome
    assert f"warning: {copied / 'checkpoints' / 'ckpt-8'} cannot be read" in outcome.out
    assert "Going on from step 4 of 8." in outcome.out
    result = json.loads((copied / "result.json").read_text())
    assert without_times(result) == without_times(expected)
    # The row of step 8 is that of the run that went on.
    again = (copied / "metrics.csv").read_text().splitlines()
    assert [r.split(",")[0] for r in again] == [r.split(",")[0] for r in rows]
    assert command("evaluate_resnet50", f"--run_dir={copied}").code == 0


@pytest.mark.usefixtures("nothing_is_built")
@pytest.mark.parametrize("content", ["", "# train_resnet50\n--depth=18"])
def test_a_version_that_is_not_known_is_one_message_before_a_model_is_built(
    copied, refused, arguments, content
):
    (copied / "result.json").unlink()
    (copied / "flags.txt").write_text(content)
    before = contents(copied)
    assert "with a version that is not known, and this is" in refused(*arguments)
    assert contents(copied) == before


@pytest.mark.parametrize("command", ["evaluate_resnet50 --run_dir=", "compare "])
def test_a_run_of_another_version_is_neither_evaluated_nor_compared(
    copied, refused, command
):
    flags = copied / "flags.txt"
    flags.write_text(
        flags.read_text().replace(f"sparsity {sos.__version__}.", "sparsity 0.1.7.")
    )
    message = refused(*f"{command}{copied}".split())
    assert f"{copied} holds a run that was begun with state-of-sparsity 0.1" in message
    assert message.count("\n") == 1


@pytest.mark.slow
def test_ctrl_c_while_a_binary_is_imported_is_one_line(tmp_path):
    process = subprocess.Popen(
        [SCRIPT, f"--output_dir={tmp_path / 'run'}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    # As soon as TensorFlow is being loaded, which takes seconds.
    maps = pathlib.Path("/proc") / str(process.pid) / "maps"
    while "tensorflow" not in maps.read_text():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert err == "train_resnet50: interrupted.\n"
    # As the shell expects of whoever ends by Ctrl-C.
    assert process.returncode == -signal.SIGINT


def environment(**locale):
    own = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    return own | locale


@pytest.mark.slow
def test_characters_that_a_terminal_does_not_have_are_no_error(
    lenet, overridden, finished, tmp_path
):
    folder = tmp_path / "Läufe" / "größer"
    first = tmp_path / "Läufe" / "erster"
    shutil.copytree(finished, first)
    command = [SCRIPT, *lenet, *overridden, f"--load_weights_from={first}"]
    for said in ("run's folder", "This run is finished"):
        done = subprocess.run(
            [*command, f"--output_dir={folder}"],
            capture_output=True,
            check=False,
            env=environment(LC_ALL="C", PYTHONIOENCODING="ascii"),
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert said.encode() in done.stdout
        assert rb"L\xe4ufe/gr\xf6\xdfer" in done.stdout
    written = (folder / "flags.txt").read_bytes().decode("utf-8")
    assert f"--load_weights_from={first}" in written


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["output_dir", "flagfile"])
def test_a_path_outside_of_the_encoding_of_the_locale_is_one_message(tmp_path, flag):
    flagfile = tmp_path / "run.flags"
    flagfile.write_text("--output_dir=Läufe\n", encoding="utf-8")
    value = {"output_dir": tmp_path / "Läufe", "flagfile": flagfile}[flag]
    done = subprocess.run(
        [SCRIPT, f"--{flag}={value}"],
        capture_output=True,
        check=False,
        env=environment(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0"),
    )
    assert done.returncode == 2
    message = done.stderr.decode("ascii")
    assert message.count("\n") == 1
    assert message.startswith("train_resnet50: ")
    assert "does not have: set PYTHONUTF8=1" in message
    assert not (tmp_path / "Läufe").exists()
