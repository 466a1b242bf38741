"""Modules and files of users that are broken: one message each."""

import pathlib
import zipfile

import pytest

from state_of_sparsity.engines.tf_keras.backend import keras

MODULES = {
    "no_such_module": (None, "No module named 'no_such_module'"),
    "raising": ("x = 1\n\nraise KeyError('x')\n", "raising.py, line 3)"),
    "leaving": ("import sys\nsys.exit('bye')\n", "SystemExit: bye"),
    "half": ("def f(:\n", "half.py, line 1)"),
}


@pytest.fixture
def saved(tmp_path):
    model = keras.Sequential([keras.layers.Dense(3, input_shape=(2,), name="a")])
    path = tmp_path / "model.keras"
    model.save(path)
    return path


@pytest.mark.parametrize("name", MODULES)
def test_a_broken_module_is_one_message(refused, saved, tmp_path, monkeypatch, name):
    content, expected = MODULES[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    if content is not None:
        pathlib.Path(f"{name}.py").write_text(content)
    message = refused("report_sparsity", f"--model={saved}", f"--import_module={name}")
    assert message.startswith(f"report_sparsity: --import_module={name}: ")
    assert expected in message
    assert message.count("\n") == 1


@keras.utils.register_keras_serializable("users")
class Stubborn(keras.layers.Layer):
    """A layer of one's own that cannot be made from what Keras saves of it."""

    @classmethod
    def from_config(cls, config):
        raise AttributeError("no such luck")


def without(path, name):
    """The archive without one of its files."""
    new = path.with_name("new.keras")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(new, "w") as file:
        for info in old.infolist():
            if info.filename != name:
                file.writestr(info, old.read(info))
    return new


def truncated(path, name=""):
    file = path / name if name else path
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return path


def as_folder(path):
    folder = path.with_name("folder")
    keras.models.load_model(path).save(folder, save_format="tf")
    return folder


def stubborn(path):
    model = keras.Sequential([keras.layers.InputLayer((2,)), Stubborn()])
    model.save(path)
    return path


BROKEN = {
    "half": truncated,
    "no weights": lambda path: without(path, "model.weights.h5"),
    "half of the variables": lambda path: truncated(
        as_folder(path), "variables/variables.data-00000-of-00001"
    ),
    "a layer that raises": stubborn,
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_file_that_keras_cannot_load_is_one_message(refused, saved, how):
    path = BROKEN[how](saved)
    message = refused("report_sparsity", f"--model={path}")
    assert f"Keras cannot load {path}: " in message
    assert "--import_module" in message
