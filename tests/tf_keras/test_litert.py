"""Models of tf_keras in LiteRT files, run by the runtime they are for."""

import pathlib

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import state_of_sparsity as sos
from state_of_sparsity.engines.formats import litert
from state_of_sparsity.engines.tf_keras.backend import keras

layers = keras.layers


def perceptron():
    return [
        layers.Dense(64, activation="relu", input_shape=(32,)),
        layers.Dropout(0.5),
        layers.Dense(4),
    ]


def convolutions():
    return [
        layers.Conv2D(16, 3, padding="same", use_bias=False, input_shape=(8, 8, 3)),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.MaxPooling2D(2),
        layers.DepthwiseConv2D(3, strides=2, padding="same"),
        layers.SeparableConv2D(16, 3, padding="same"),
        layers.Conv2DTranspose(8, 3, strides=2, padding="same"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(4, activation="softmax"),
    ]


def attention():
    inputs = keras.Input((6, 8))
    attended = layers.MultiHeadAttention(2, 4)(inputs, inputs)
    normalized = layers.LayerNormalization()(inputs + attended)
    return inputs, layers.Dense(8, activation="gelu")(normalized)


def tagger(unroll=True):
    lstm = layers.LSTM(4, return_sequences=True, unroll=unroll)
    return [
        layers.Embedding(20, 4, input_length=3),
        layers.Bidirectional(lstm),
        layers.Dense(3),
    ]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(4)

    def call(self, inputs):
        return self.dense(inputs["left"]) - self.dense(inputs["right"])


def subclassed():
    model = Subclassed()
    model({"left": np.ones((2, 8), "float32"), "right": np.ones((2, 8), "float32")})
    return model


def built(made, density=0.2):
    """A model with weights of which most are zero."""
    model = made
    if isinstance(made, list):
        model = keras.Sequential(made)
    elif isinstance(made, tuple):
        model = keras.Model(*made)
    rng = np.random.default_rng(1)
    for weight in model.weights:
        value = rng.uniform(0.5, 1.5, weight.shape)
        if len(weight.shape) > 1:
            value = (value - 1) * (rng.random(weight.shape) < density)
        weight.assign(value)
    return model


def batch(model, size):
    rng = np.random.default_rng(size)
    if isinstance(model, Subclassed):
        left, right = rng.normal(size=(2, size, 8)).astype("float32")
        return {"left": left, "right": right}
    if isinstance(model.layers[0], layers.Embedding):
        return rng.integers(0, 20, (size, 3)).astype("float32")
    return rng.normal(size=(size, *model.input_shape[1:])).astype("float32")


def run(path, inputs):
    """What the runtime makes of a batch."""
    interpreter = Interpreter(str(path))
    arrays = [inputs] if not isinstance(inputs, dict) else list(inputs.values())
    places = sorted(interpreter.get_input_details(), key=lambda place: place["name"])
    for place, array in zip(places, arrays, strict=True):
        interpreter.resize_tensor_input(place["index"], array.shape)
    interpreter.allocate_tensors()
    for place, array in zip(places, arrays, strict=True):
        interpreter.set_tensor(place["index"], array)
    interpreter.invoke()
    (output,) = interpreter.get_output_details()
    return interpreter.get_tensor(output["index"])


def relative_error(model, path, size):
    inputs = batch(model, size)
    expected = np.asarray(model(inputs, training=False))
    outputs = run(path, inputs)
    assert outputs.shape == expected.shape
    return np.abs(outputs - expected).max() / np.abs(expected).max()


def encoded_tensors(path):
    """What LiteRT says of the tensors that are encoded as sparse."""
    interpreter = Interpreter(str(path))
    return [t for t in interpreter.get_tensor_details() if t["sparsity_parameters"]]


@pytest.mark.slow
@pytest.mark.parametrize("made", [convolutions, attention, tagger, subclassed])
@pytest.mark.feature("export: litert")
def test_outputs_are_the_models_for_any_batch(made, tmp_path):
    model = built(made())
    sos.export(model, tmp_path / "model.tflite", format="litert")
    for size in (1, 3):
        assert relative_error(model, tmp_path / "model.tflite", size) <= 1e-5


@pytest.mark.feature("export: litert")
def test_a_sparse_model_is_written_with_sparse_tensors(rng, tmp_path, capfd):
    model = keras.Sequential(perceptron())
    sparse = sos.sparsify(model, sos.MagnitudePruning(0.75, 0, 1, 1))
    sparse.compile("sgd", "mse")
    inputs = rng.normal(size=(8, 32)).astype("float32")
    callbacks = sos.callbacks(sparse)
    sparse.fit(inputs, inputs[:, :4], callbacks=callbacks, verbose=0)
    capfd.readouterr()
    path = tmp_path / "model.tflite"
    sos.export(sparse, path, format="litert")
    assert capfd.readouterr().out == ""
    assert list(tmp_path.iterdir()) == [path]
    assert relative_error(sparse, path, 3) <= 1e-5
    dense_path = tmp_path / "dense.tflite"
    sos.export(model, dense_path, format="litert")
    assert path.stat().st_size < 0.6 * dense_path.stat().st_size
    assert len(encoded_tensors(path)) == 2
    assert not encoded_tensors(dense_path)


@pytest.mark.slow
def test_the_smaller_file_is_kept(tmp_path):
    """Of attention with few weights, the places of the weights take more than zeros."""
    model = built(attention(), density=0.7)
    sos.export(model, tmp_path / "model.tflite", format="litert")
    assert not encoded_tensors(tmp_path / "model.tflite")


def stored(path, dtype):
    """The constants of a dtype in a file without sparse tensors."""
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    constants = []
    for tensor in interpreter.get_tensor_details():
        if tensor["dtype"] == dtype:
            try:
                constants.append(interpreter.get_tensor(tensor["index"]))
            except ValueError:
                continue  # What is computed has no value yet.
    return constants


@pytest.mark.slow
@pytest.mark.feature("export: litert, int8")
def test_int8_weights_are_a_quarter_as_large_with_all_zeros(tmp_path):
    model = built([layers.Dense(256, input_shape=(128,)), layers.Dense(8)], 0.6)
    for name, quantize in (("plain", None), ("int8", "int8")):
        path = tmp_path / f"{name}.tflite"
        sos.export(model, path, format="litert", quantize=quantize)
    plain, small = (tmp_path / f"{name}.tflite" for name in ("plain", "int8"))
    assert small.stat().st_size < 0.4 * plain.stat().st_size
    assert relative_error(model, small, 3) <= 0.03
    kernel = model.layers[0].kernel.numpy().T
    (quantized,) = [w for w in stored(small, np.int8) if w.shape == kernel.shape]
    assert (quantized[kernel == 0] == 0).all()
    assert (quantized[np.abs(kernel) > 0.1] != 0).all()


@pytest.mark.slow
def test_a_file_that_the_runtime_refuses_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(litert, "_runs", lambda contents: False)
    sos.export(built(perceptron()), tmp_path / "model.tflite", format="litert")
    assert not encoded_tensors(tmp_path / "model.tflite")


@pytest.mark.slow
@pytest.mark.feature("export: litert")
def test_what_cannot_be_expressed_is_refused(tmp_path):
    model = built(tagger(unroll=False))
    with pytest.raises(RuntimeError, match=r"cannot write model .* as litert.*unroll"):
        sos.export(model, tmp_path / "model.tflite", format="litert")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"format": "onnx"},
            r"exported as litert or tf_saved_model or sparse: build.*'onnx'",
        ),
        ({"format": "litert", "quantize": "int4"}, "quantize must be 'int8'.*'int4'"),
        (
            {"quantize": "int8"},
            "'tf_saved_model' has no option quantize.*for format='litert'",
        ),
        ({"format": "litert", "path": "model"}, r"end in '\.tflite'.*'model'"),
    ],
)
def test_bad_arguments_are_errors(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = {"path": "model.tflite"} | arguments
    with pytest.raises(ValueError, match=message):
        sos.export(built(perceptron()), **arguments)
    assert not any(pathlib.Path(tmp_path).iterdir())


def test_an_interrupt_leaves_what_was_there(tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    path = tmp_path / "model.tflite"
    path.write_text("of before")
    monkeypatch.setattr(litert, "_converted", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sos.export(built(perceptron()), path, format="litert", overwrite=True)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "of before"
