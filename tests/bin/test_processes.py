"""Binaries in processes of their own: their help, signals, several devices."""

import contextlib
import dataclasses
import gc
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from state_of_sparsity.models.images.options import ImageOptions
from state_of_sparsity.models.interruption import between_steps, interruptible
from state_of_sparsity.models.runs import folders
from state_of_sparsity.models.training.loop.evaluations import Evaluations

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
    code, help_, err = finish(start("report_sparsity", "--help"))
    assert (code, err) == (0, "")
    assert "report_sparsity --" in help_
    assert "  --" in help_


@pytest.mark.slow
def test_a_signal_saves_the_run_and_the_same_command_finishes_it(tmp_path, lenet):
    folder = tmp_path / "run"
    flags = [*lenet, "--train_steps=120", "--eval_steps=40", f"--output_dir={folder}"]
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


@pytest.fixture
def collected(monkeypatch):
    """Has a signal come in a collection of garbage, where Python drops it.

    `collected(owner, name, signum)` collects as soon as that function is called, which
    goes on a second later, in which a signal that ends what is within has to have come:
    what it raises in TensorFlow's C++ code may end the process.
    """

    def patch(owner, name, signum):
        function, left = getattr(owner, name), [signum]

        def send(phase, info):
            if left:
                # Python raises in the next instruction, which is still in here.
                signal.raise_signal(left.pop())

        def collecting(*arguments, **keywords):
            if left:
                gc.callbacks.append(send)
                gc.collect()
                gc.callbacks.remove(send)
                time.sleep(1)
            return function(*arguments, **keywords)

        monkeypatch.setattr(owner, name, collecting)
        return left

    return patch


SIGNALS = pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])


@pytest.mark.feature("others: Ctrl-C and SIGTERM in a garbage collection")
@SIGNALS
@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate_resnet50", "--run_dir={run}"),
        ("export_model", "--model={run}", "--export_dir={out}"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_signal_in_a_garbage_collection_ends_a_binary(
    command, collected, finished, tmp_path, arguments, signum
):
    left = collected(folders, "load_model", signum)
    places = {"run": finished, "out": tmp_path / "out"}
    outcome = command(*(argument.format(**places) for argument in arguments))
    assert not left
    assert (outcome.code, outcome.out) == (130, "")
    assert outcome.err == f"\n{arguments[0]}: interrupted.\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.feature("others: Ctrl-C and SIGTERM in a garbage collection")
@SIGNALS
def test_a_signal_in_a_garbage_collection_saves_a_run(
    command, collected, lenet, tmp_path, signum
):
    left = collected(Evaluations, "add_row", signum)
    outcome = command(
        "train_resnet50", *lenet, "--train_steps=100000", f"--output_dir={tmp_path}"
    )
    assert not left
    assert outcome.code == 130
    assert "train_resnet50: interrupted, and saved at step " in outcome.err
    assert "Exception ignored" not in outcome.err


@pytest.mark.feature("others: Ctrl-C and SIGTERM in a garbage collection")
@SIGNALS
def test_a_signal_that_is_dropped_comes_again_until_it_ends_what_is_within(signum):
    class Dropping:
        def __del__(self):
            signal.raise_signal(signum)

    def dropped_by_python():
        Dropping()

    def swallowed():
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signum)

    def became_another_error():
        try:
            signal.raise_signal(signum)
        finally:
            raise RuntimeError

    def within(come, seconds):
        with interruptible():
            come()
            time.sleep(seconds)

    before = [signal.getsignal(s) for s in (signum, signal.SIGALRM)]
    for come in (dropped_by_python, swallowed, became_another_error):
        # The second time at the latest at the end.
        for seconds in (60, 0):
            with pytest.raises(KeyboardInterrupt):
                within(come, seconds)
        assert [signal.getsignal(s) for s in (signum, signal.SIGALRM)] == before
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    with pytest.raises(RuntimeError), interruptible():
        raise RuntimeError


def test_a_signal_comes_through_what_drops_it_at_intervals():
    went_on = []

    class Dropping:
        def __del__(self):
            # Ends with what it drops.
            time.sleep(1)

    def within():
        with interruptible():
            for _ in range(60):
                Dropping()
                # Half of the longest time in which it comes again: with a chance of
                # 2^-60 it comes in none of them.
                time.sleep(0.05)
            went_on.append(True)

    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(KeyboardInterrupt):
        within()
    assert not went_on


@pytest.mark.feature("others: Ctrl-C and SIGTERM between two steps")
@SIGNALS
def test_a_signal_waits_until_it_may_come_and_a_second_one_does_not(signum):
    came = []

    def within(signals, *, asks):
        with interruptible():
            with between_steps() as interrupt:
                interrupt()
                for _ in range(signals):
                    signal.raise_signal(signum)
                    came.append("it waits")
                if asks:
                    interrupt()
                    came.append("wrong")
            came.append("wrong")

    for signals, asks in ((1, True), (1, False), (2, False)):
        with pytest.raises(KeyboardInterrupt):
            within(signals, asks=asks)
    assert came == ["it waits"] * 3


@pytest.mark.slow
def test_two_devices_train_a_run(command, lenet, tmp_path):
    # The test process has two logical CPU devices.
    outcome = command(
        "train_resnet50",
        *lenet,
        "--technique=random_pruning",
        "--distribution=mirrored",
        f"--output_dir={tmp_path / 'run'}",
    )
    assert outcome.code == 0, outcome
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["steps"] == 8
    assert result["sparsity"] == pytest.approx(0.9, abs=0.005)
    evaluated = command("evaluate_resnet50", f"--run_dir={tmp_path / 'run'}")
    assert json.loads(evaluated.out)["quality"] == pytest.approx(result["quality"])
