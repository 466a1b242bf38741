"""Models that Keras saved, reported and exported by the binaries."""

import re
import subprocess
import sys

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras, tf


@pytest.mark.parametrize(
    ("kind", "suffix"), [("sparse", ".keras"), ("stripped", ".h5"), ("sparse", "")]
)
def test_models_that_keras_saved_are_reported_and_exported(
    kind, suffix, command, tmp_path
):
    dense = keras.Sequential([keras.layers.Dense(4, input_shape=(3,), name="only")])
    technique = sos.MagnitudePruning(0.5, begin_step=0, end_step=1, frequency=1)
    model = sos.sparsify(dense, technique)
    model.compile("sgd", "mse")
    model.fit(
        np.ones((2, 3)), np.ones((2, 4)), verbose=0, callbacks=sos.callbacks(model)
    )
    path = tmp_path / f"model{suffix}"
    (model if kind == "sparse" else sos.strip(model)).save(path)
    outcome = command("report_sparsity", f"--model={path}")
    assert re.search(r"only/kernel +3x4 +12 +6 +50.00%", outcome.out), outcome
    exported = tmp_path / "exported"
    assert (
        command("export_model", f"--model={path}", f"--export_dir={exported}").code == 0
    )
    served = tf.saved_model.load(str(exported))
    points = np.ones((2, 3), "float32")
    np.testing.assert_allclose(
        served.serve(points), model(points, training=False), atol=1e-6
    )


def inputs_of_litert(path):
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    return interpreter.get_input_details()[0]["shape"].tolist()


def inputs_of_sparse(path):
    return [1, sos.runtime.load(path, threads=1, tune=False).inputs[0].shape[1]]


@pytest.mark.parametrize(
    ("format_", "name", "inputs_of", "flag"),
    [
        pytest.param(
            *("litert", "model.tflite", inputs_of_litert, "--quantize=int8"),
            marks=pytest.mark.slow,
        ),
        ("sparse", "model.sparse", inputs_of_sparse, "--values=int8"),
    ],
)
def test_a_model_is_exported_in_another_format(
    format_, name, inputs_of, flag, command, refused, tmp_path
):
    model = keras.Sequential([keras.layers.Dense(128, input_shape=(64,))])
    model.save(tmp_path / "model.keras")
    path = tmp_path / "exported" / name
    arguments = (f"--model={tmp_path / 'model.keras'}", f"--export_dir={path.parent}")
    message = refused("export_model", *arguments, flag)
    assert f"{flag} is for --format={format_}" in message
    arguments += (f"--format={format_}",)
    assert command("export_model", *arguments).code == 0
    assert inputs_of(path) == [1, 64]
    size = path.stat().st_size
    message = refused("export_model", *arguments)
    assert f"holds {name} already" in message
    assert command("export_model", *arguments, flag, "--overwrite").code == 0
    assert path.stat().st_size < 0.6 * size


LAYER = """
import tf_keras as keras

@keras.utils.register_keras_serializable("mine")
class Gain(keras.layers.Dense):
    def call(self, inputs):
        return 2.0 * super().call(inputs)
"""


@pytest.mark.slow
def test_layers_of_ones_own_can_be_imported(command, refused, tmp_path, monkeypatch):
    (tmp_path / "my_layers.py").write_text(LAYER)
    monkeypatch.chdir(tmp_path)
    program = """
import my_layers, tf_keras as keras
keras.Sequential([my_layers.Gain(4, input_shape=(3,))]).save("model.keras")
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    message = refused("report_sparsity", "--model=model.keras")
    assert "Gain" in message
    assert "--import_module" in message
    arguments = ("--model=model.keras", "--import_module=my_layers")
    assert "gain/kernel" in command("report_sparsity", *arguments).out
    arguments += ("--export_dir=out",)
    assert command("export_model", *arguments).code == 0
    assert (tmp_path / "out" / "saved_model.pb").is_file()
