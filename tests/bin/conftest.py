"""Runs binaries within the test process: importing TensorFlow takes seconds."""

import contextlib
import dataclasses
import importlib
import io
import shutil
import sys

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from state_of_sparsity.bin import runs
from state_of_sparsity.models.runs import folders

PACKAGE = "state_of_sparsity.bin"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a user would have seen of a command."""

    code: int
    out: str
    err: str


def _forget_flags():
    """Of binaries, of which a process has one, other than this one."""
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if module.startswith(PACKAGE):
            for flag in list(defined):
                if flag.name in flags.FLAGS:
                    delattr(flags.FLAGS, flag.name)


def _load(name):
    """A binary's module, its flags defined and those of other binaries gone."""
    _forget_flags()
    full_name = f"{PACKAGE}.{name}"
    if full_name in sys.modules:
        return importlib.reload(sys.modules[full_name])
    return importlib.import_module(full_name)


def parsed(binary, *arguments):
    """The flags of a binary's run, with these arguments."""
    values = flags.FlagValues()
    runs.define_run_flags(binary, values)
    values([binary, *arguments])
    return values


def run_of(binary, *arguments):
    """The run that a binary would train."""
    return runs.run_from_flags(binary, parsed(binary, *arguments))


def run_binary(name, *arguments):
    module = _load(name)
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        flagsaver.flagsaver(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        patch.setattr(sys.modules["__main__"], "__doc__", "")
        with pytest.raises(SystemExit) as exit_:
            module.run()
    code = exit_.value.code
    if isinstance(code, str):
        return Outcome(1, out.getvalue(), err.getvalue() + code)
    return Outcome(code or 0, out.getvalue(), err.getvalue())


@pytest.fixture
def no_flags():
    """As in a process in which no binary was loaded."""
    _forget_flags()


@pytest.fixture(scope="session")
def command():
    """Runs a binary as its console script does, but for the process.

    `command("train_resnet50", "--depth=18")` returns an `Outcome`.
    """
    return run_binary


@pytest.fixture(scope="session")
def refused():
    """Runs a binary that must fail with one clear message, which it returns."""

    def run(name, *arguments):
        outcome = run_binary(name, *arguments)
        assert outcome.code not in (0, None), outcome
        assert "Traceback" not in outcome.err
        assert outcome.err.startswith(f"{name}: "), outcome
        return outcome.err

    return run


@pytest.fixture(scope="session")
def flags_of():
    """Names of the flags of a binary."""

    def known(name):
        _load(name)
        return set(flags.FLAGS)

    return known


@pytest.fixture(scope="session")
def tiny():
    """Flags of a run that takes seconds."""
    return (
        "--depth=18",
        "--width=0.05",
        "--train_steps=8",
        "--eval_steps=4",
        "--batch_size=8",
    )


@pytest.fixture(scope="session")
def lenet():
    """Flags of a run that takes a third of that: no ResNet, three layers to trace."""
    return (
        "--network=lenet5",
        "--width=0.1",
        "--train_steps=8",
        "--eval_steps=4",
        "--batch_size=8",
    )


@pytest.fixture(scope="session")
def tiny_transformer():
    """The same of a translation."""
    return (
        "--layers=1",
        "--width=8",
        "--feed_forward=8",
        "--heads=2",
        "--tokens_per_replica=256",
        "--train_steps=4",
        "--eval_steps=4",
        "--beams=1",
        "--max_length=6",
        "--extra_length=2",
    )


@pytest.fixture(scope="session")
def overridden():
    """Further flags of the run in the folder `finished`."""
    return ("--override=conv1=dense", "--override=logits=0.5")


@pytest.fixture(scope="session")
def load():
    """Task and model of a run's folder."""
    return lambda folder: folders.load_model(*folders.read_run(folder))


@pytest.fixture(scope="session")
def finished(tmp_path_factory, lenet, overridden):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    flags_ = [*lenet, *overridden, f"--output_dir={folder}"]
    outcome = run_binary("train_resnet50", *flags_)
    assert outcome.code == 0, outcome
    return folder


@pytest.fixture(scope="session")
def images():
    """Three of the size of digits."""
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (3, 32, 32, 3)).astype("float32")


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of a finished run to break."""
    return shutil.copytree(finished, tmp_path / "copied")
