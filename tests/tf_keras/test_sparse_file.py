"""Models of tf_keras in sparse files."""

import importlib.util

import numpy as np
import onnxruntime
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras, tf
from tests.tf_keras import test_litert as made_for_litert

layers = keras.layers
QUICK = ("convolutions",)
MODELS = ("perceptron", "convolutions", "attention", "tagger", "subclassed")


def relative_error(model, path, size):
    inputs = made_for_litert.batch(model, size)
    contents = sos.runtime.read(path).SerializeToString()
    session = onnxruntime.InferenceSession(contents)
    arrays = [inputs] if not isinstance(inputs, dict) else list(inputs.values())
    names = [place.name for place in session.get_inputs()]
    (outputs,) = session.run(None, dict(zip(names, arrays, strict=True)))
    expected = np.asarray(model(inputs, training=False))
    assert outputs.shape == expected.shape
    return np.abs(outputs - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in MODELS],
)
@pytest.mark.feature("export: sparse")
def test_outputs_are_the_models_for_any_batch(name, tmp_path, capfd):
    model = made_for_litert.built(getattr(made_for_litert, name)())
    capfd.readouterr()
    sos.export(model, tmp_path / "model.sparse", format="sparse")
    assert capfd.readouterr().out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["model.sparse"]
    for size in (1, 3):
        assert relative_error(model, tmp_path / "model.sparse", size) <= 1e-5


@pytest.mark.slow
@pytest.mark.feature("export: sparse")
def test_recurrence_that_is_not_unrolled_is_written(tmp_path):
    model = made_for_litert.built(made_for_litert.tagger(unroll=False))
    sos.export(model, tmp_path / "model.sparse", format="sparse")
    assert relative_error(model, tmp_path / "model.sparse", 3) <= 1e-5


@pytest.mark.slow
@pytest.mark.feature("export: sparse, float16 and int8")
def test_fewer_bits_take_fewer_bytes(tmp_path):
    model = made_for_litert.built(
        [layers.Dense(256, input_shape=(128,)), layers.Dense(8)]
    )
    sizes = []
    for values, tolerance in ((None, 1e-5), ("float16", 1e-3), ("int8", 0.03)):
        path = tmp_path / f"{values}.sparse"
        sos.export(model, path, format="sparse", values=values)
        assert relative_error(model, path, 3) <= tolerance
        sizes.append(path.stat().st_size)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] < 4 * model.count_params() / 4
    assert sizes[2] < 4 * model.count_params() / 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": "int4"}, "values must be one of float32, float16, int8.*'int4'"),
        (
            {"format": "litert", "values": "int8"},
            "'litert' has no option values.*for format='sparse'",
        ),
        ({"quantize": "int8"}, "'sparse' has no option quantize.*for format='litert'"),
        ({"path": "model"}, r"end in '\.sparse'.*'model'"),
    ],
)
def test_bad_arguments_are_errors(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = {"path": "model.sparse", "format": "sparse"} | arguments
    with pytest.raises(ValueError, match=message):
        sos.export(made_for_litert.built(made_for_litert.perceptron()), **arguments)
    assert not any(tmp_path.iterdir())


def test_what_tf2onnx_does_not_know_is_refused(tmp_path):
    inputs = keras.Input((8,))
    outputs = tf.math.erfinv(layers.Dense(4, activation="tanh")(inputs))
    with pytest.raises(RuntimeError, match=r"tf2onnx cannot write model .*Erfinv"):
        sos.export(
            keras.Model(inputs, outputs), tmp_path / "model.sparse", format="sparse"
        )
    assert not any(tmp_path.iterdir())


def test_missing_packages_are_named(tmp_path, monkeypatch):
    model = made_for_litert.built(made_for_litert.perceptron())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    packages = "onnx tf2onnx safetensors zstandard"
    with pytest.raises(ImportError, match=f"`pip install {packages}`"):
        sos.export(model, tmp_path / "model.sparse", format="sparse")


def test_constants_of_a_model_are_no_inputs_of_its_file(tmp_path):
    normalization = layers.Normalization()
    normalization.adapt(np.random.default_rng(0).normal(1, 2, (8, 5)))
    shift = tf.range(150.0)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            normalization,
            layers.Dense(150),
            layers.Lambda(lambda outputs: outputs + shift),
        ]
    )
    path = tmp_path / "model.sparse"
    sos.export(model, path, format="sparse")
    inputs = np.ones((3, 5), "float32")
    (outputs,) = sos.runtime.load(path).run(inputs).values()
    assert np.allclose(outputs, model(inputs), atol=1e-4)
