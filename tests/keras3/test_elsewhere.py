"""Formats that a process under another backend writes."""

import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines import reading_back
from tests.flavour import BACKEND, register
from tests.shared.test_formats import check_outputs, written

# What each backend lacks, with options and the tolerance of outputs.
LACKING = {
    "tensorflow": [("torch", {}, 1e-5)],
    "jax": [("onnx", {}, 1e-5), ("sparse", {"values": "int8"}, 0.05)],
    "torch": [("tf_saved_model", {}, 1e-5)],
}[BACKEND]
FORMAT = LACKING[0][0]


@register
class Doubled(keras.layers.Layer):
    def call(self, inputs):
        return inputs * 2


class Unregistered(keras.layers.Layer):
    def call(self, inputs):
        return inputs


def network(layer):
    model = keras.Sequential(
        [
            keras.Input((6, 8)),
            keras.layers.Conv1D(4, 3, padding="same"),
            keras.layers.BatchNormalization(),
            layer,
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if weight.dtype == "float32":
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    return model


@pytest.mark.slow
@pytest.mark.feature("export: formats that the backend lacks, by another one")
@pytest.mark.parametrize(("format", "options", "tolerance"), LACKING)
def test_a_format_that_the_backend_lacks_is_written_by_another_process(
    tmp_path, format, options, tolerance, caplog, capfd, recwarn
):
    technique = sos.MagnitudePruning(0.5, begin_step=0, end_step=1, frequency=1)
    model = network(Doubled())
    sparse = sos.sparsify(model, technique)
    capfd.readouterr()
    call, _ = written(tmp_path, sparse, format, **options)
    assert len(list(tmp_path.iterdir())) == 1
    assert capfd.readouterr().out == ""
    (line,) = [r.getMessage() for r in caplog.records if "KERAS_" in r.getMessage()]
    assert line.startswith(f"The {BACKEND} backend has no {format}: a process under")
    assert not any("other outputs" in str(w.message) for w in recwarn)
    check_outputs(model, call, tolerance)


@pytest.mark.slow
def test_a_file_of_other_outputs_than_those_of_here_is_told(tmp_path, monkeypatch):
    model, outputs = network(Doubled()), reading_back.outputs
    monkeypatch.setattr(
        reading_back, "outputs", lambda model: [2 * x for x in outputs(model)]
    )
    with pytest.warns(UserWarning, match=f"{FORMAT} file .* gives other outputs"):
        written(tmp_path, model, FORMAT)


@pytest.mark.slow
def test_a_class_that_the_process_cannot_find_is_named(tmp_path):
    message = r"have to be registered .* Could not locate class 'Unregistered'"
    with pytest.raises(RuntimeError, match=message):
        written(tmp_path, network(Unregistered()), FORMAT)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_process_that_dies_says_how(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match=r"KERAS_BACKEND=.* exit status 1"):
        written(tmp_path, network(Doubled()), FORMAT)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_an_interrupt_ends_the_process_and_leaves_nothing(tmp_path, monkeypatch):
    started = []

    class Interrupted(subprocess.Popen):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            started.append(self)
            signal.setitimer(signal.ITIMER_REAL, 0.2)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            written(tmp_path, network(Doubled()), FORMAT)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert [process.returncode for process in started] == [-signal.SIGKILL]
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_path_with_another_suffix_is_refused_before(tmp_path):
    format = "litert" if BACKEND == "torch" else FORMAT
    with pytest.raises(ValueError, match=r"has to end in '\.\w+'"):
        sos.export(network(Doubled()), tmp_path / "model", format)
