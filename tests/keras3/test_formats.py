"""Files of every format that the backend can write, in the runtimes they are for."""

import contextlib
import importlib.util
import os

import keras
import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity import atomic
from state_of_sparsity.engines import formats

BACKEND = keras.backend.backend()
OWN = [name for name, entry in formats.FORMATS.items() if BACKEND in entry.packages]


def in_table(names):
    """Formats as parameters that the table of features tells of."""
    feature = pytest.mark.feature
    return [pytest.param(name, marks=feature(f"export: {name}")) for name in names]


TRACED = BACKEND == "torch"


def perceptron():
    return [
        keras.Input((8,)),
        keras.layers.Dense(16, activation="relu"),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(4),
    ]


def convolutions():
    return [
        keras.Input((8, 8, 3)),
        keras.layers.Conv2D(4, 3, padding="same", use_bias=False),
        keras.layers.BatchNormalization(),
        keras.layers.ReLU(),
        keras.layers.MaxPooling2D(2),
        keras.layers.DepthwiseConv2D(3, strides=2, padding="same"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(4, activation="softmax"),
    ]


def attention():
    inputs = keras.Input((6, 8))
    attended = keras.layers.MultiHeadAttention(2, 4)(inputs, inputs)
    normalized = keras.layers.LayerNormalization()(inputs + attended)
    return inputs, keras.layers.Dense(8, activation="gelu")(normalized)


def tagger(unroll=True, length=3, mask_zero=False):
    lstm = keras.layers.LSTM(4, return_sequences=True, unroll=unroll)
    return [
        keras.Input((length,), dtype="int32"),
        keras.layers.Embedding(20, 4, mask_zero=mask_zero),
        keras.layers.Bidirectional(lstm),
        keras.layers.Dense(3),
    ]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(4)

    def call(self, inputs):
        return self.dense(inputs["left"]) - self.dense(inputs["right"])


def subclassed():
    model = Subclassed()
    model({"left": np.ones((2, 8), "float32"), "right": np.ones((2, 8), "float32")})
    return model


def built(layers):
    """A model with weights of which most are zero."""
    model = layers
    if isinstance(layers, list):
        model = keras.Sequential(layers)
    elif isinstance(layers, tuple):
        model = keras.Model(*layers)
    rng = np.random.default_rng(1)
    for weight in model.weights:
        if weight.dtype == "float32":
            value = rng.uniform(0.5, 1.5, weight.shape)
            if len(weight.shape) > 1:
                value = (value - 1) * (rng.random(weight.shape) > 0.7)
            weight.assign(value)
    return model


def batch(model, size):
    rng = np.random.default_rng(size)
    if isinstance(model, Subclassed):
        left, right = rng.normal(size=(2, size, 8)).astype("float32")
        return {"left": left, "right": right}
    (inputs,) = model.inputs
    if inputs.dtype == "int32":
        return rng.integers(0, 20, (size, *inputs.shape[1:])).astype("int32")
    return rng.normal(size=(size, *inputs.shape[1:])).astype("float32")


# Each of these gives a function of a batch to the outputs, and the weights in the file.


def load_saved_model(path):
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    weights = [variable.numpy() for variable in loaded.variables]
    return lambda inputs: loaded.serve(inputs).numpy(), weights


def load_onnx(path):
    import onnx
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    names = [tensor.name for tensor in session.get_inputs()]
    initializers = onnx.load(path).graph.initializer
    return (
        lambda inputs: session.run(None, dict(zip(names, flat(inputs), strict=True)))[
            0
        ],
        [onnx.numpy_helper.to_array(tensor) for tensor in initializers],
    )


def load_openvino(path):
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    # Otherwise it computes in half precision on processors that have it.
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    constants = [op for op in model.get_ops() if op.get_type_name() == "Constant"]
    return lambda inputs: compiled(flat(inputs))[0], [op.data for op in constants]


def load_litert(path):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path)
    interpreter.allocate_tensors()
    places = sorted(interpreter.get_input_details(), key=lambda place: place["name"])
    (output,) = interpreter.get_output_details()

    def call(inputs):
        for place, value in zip(places, flat(inputs), strict=True):
            interpreter.resize_tensor_input(place["index"], value.shape)
        interpreter.allocate_tensors()
        for place, value in zip(places, flat(inputs), strict=True):
            interpreter.set_tensor(place["index"], value)
        interpreter.invoke()
        return interpreter.get_tensor(output["index"])

    weights = []
    for place in interpreter.get_tensor_details():
        # What is computed has no value yet.
        with contextlib.suppress(ValueError):
            weights.append(interpreter.get_tensor(place["index"]))
    return call, weights


def load_torch(path):
    import torch

    program = torch.export.load(path)

    def call(inputs):
        tensors = keras.tree.map_structure(torch.tensor, inputs)
        return program.module()(tensors).detach().numpy()

    return call, [value.detach().numpy() for value in program.state_dict.values()]


def load_sparse(path):
    import onnx
    import onnxruntime

    model = sos.runtime.read(path)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [tensor.name for tensor in session.get_inputs()]
    return (
        lambda inputs: session.run(None, dict(zip(names, flat(inputs), strict=True)))[
            0
        ],
        [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer],
    )


LOADERS = {
    "tf_saved_model": load_saved_model,
    "onnx": load_onnx,
    "openvino": load_openvino,
    "litert": load_litert,
    "torch": load_torch,
    "sparse": load_sparse,
}


def flat(inputs):
    return keras.tree.flatten(inputs)


def written(tmp_path, model, format):
    path = tmp_path / f"model{formats.FORMATS[format].suffix}"
    formats.write(model, path, format)
    return LOADERS[format](str(path))


def check_outputs(model, call):
    for size in (1, 3):
        inputs = batch(model, size)
        expected = keras.ops.convert_to_numpy(model(inputs, training=False))
        outputs = np.asarray(call(inputs))
        assert outputs.shape == expected.shape
        assert np.abs(outputs - expected).max() <= 1e-5 * np.abs(expected).max()


def models_and_formats():
    """Each format with a perceptron and another network; the rest is slow."""
    others = [convolutions, attention, tagger, subclassed]
    for place, name in enumerate(n for n in OWN if n != "sparse"):
        for number, layers in enumerate([perceptron, *others]):
            quick = layers is perceptron or number == 1 + place % len(others)
            marks = [pytest.mark.feature(f"export: {name}")]
            marks += [] if quick else [pytest.mark.slow]
            yield pytest.param(name, layers, marks=marks)


@pytest.mark.parametrize(("format", "layers"), models_and_formats())
def test_outputs_are_the_models_for_any_batch(tmp_path, format, layers, capfd):
    model = built(layers())
    call, weights = written(tmp_path, model, format)
    # Nothing else is left or printed.
    names = {path.name for path in tmp_path.iterdir()}
    more = {"model.bin"} if format == "openvino" else set()
    assert names == {f"model{formats.FORMATS[format].suffix}"} | more
    assert capfd.readouterr().out == ""
    check_outputs(model, call)
    if layers is perceptron:
        kernel = keras.ops.convert_to_numpy(model.layers[0].kernel)
        assert (kernel == 0).mean() > 0.5
        assert any(np.array_equal(w, k) for w in weights for k in (kernel, kernel.T))


# The graph in the file is that of ONNX, of which the test above has more.
@pytest.mark.skipif("sparse" not in OWN, reason="the backend writes no ONNX")
@pytest.mark.feature("export: sparse")
@pytest.mark.parametrize(
    "layers", [convolutions, pytest.param(attention, marks=pytest.mark.slow)]
)
def test_outputs_of_sparse_files_are_the_models_for_any_batch(tmp_path, layers):
    model = built(layers())
    call, _ = written(tmp_path, model, "sparse")
    check_outputs(model, call)


@pytest.mark.skipif("litert" not in OWN, reason="the backend writes no LiteRT")
@pytest.mark.feature("export: litert")
def test_litert_has_sparse_tensors_where_those_are_smaller(tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    model = built([keras.Input((64,)), keras.layers.Dense(64)])
    kernel, sizes, encoded = model.layers[0].kernel, [], []
    rng = np.random.default_rng(0)
    for density in (0.1, 0.7):
        values = rng.uniform(1, 2, (64, 64)) * (rng.random((64, 64)) < density)
        kernel.assign(values.astype("float32"))
        call, _ = written(tmp_path, model, "litert")
        check_outputs(model, call)
        path = str(tmp_path / "model.tflite")
        sizes.append(os.path.getsize(path))
        details = Interpreter(path).get_tensor_details()
        encoded.append(any(tensor["sparsity_parameters"] for tensor in details))
    assert encoded == [True, False]
    assert sizes[0] < 0.5 * sizes[1]


@pytest.mark.skipif("litert" not in OWN, reason="the backend writes no LiteRT")
@pytest.mark.feature("export: litert, int8")
def test_litert_of_8_bits_is_smaller_with_all_zeros(tmp_path):
    layers = [
        keras.Input((64,)),
        keras.layers.Dense(128, activation="relu"),
        keras.layers.Dense(4),
    ]
    model = built(layers)
    small = tmp_path / "int8.tflite"
    sos.export(model, small, format="litert", quantize="int8")
    assert small.stat().st_size < 0.5 * 4 * model.count_params()
    call, weights = load_litert(str(small))
    expected, inputs = model.layers[0].kernel.numpy().T, batch(model, 3)
    (kernel,) = [w for w in weights if w.shape == expected.shape]
    assert kernel.dtype == np.int8
    assert (kernel[expected == 0] == 0).all()
    outputs = model(inputs, training=False).numpy()
    assert np.abs(call(inputs) - outputs).max() <= 0.03 * np.abs(outputs).max()


@pytest.mark.parametrize("format", [name for name in OWN if name != "litert"])
def test_only_litert_is_quantized(tmp_path, format):
    message = f"Format '{format}' has no option quantize.*for format='litert'.*'int8'"
    with pytest.raises(ValueError, match=message):
        sos.export(built(perceptron()), tmp_path / "x", format=format, quantize="int8")


def wide():
    return [
        keras.Input((64,)),
        keras.layers.Dense(400, activation="relu", use_bias=False),
        keras.layers.Dense(100),
    ]


@pytest.mark.skipif("sparse" not in OWN, reason="the backend writes no ONNX")
@pytest.mark.parametrize(
    ("values", "factor", "tolerance"),
    [
        pytest.param(None, 5, 1e-5, marks=pytest.mark.slow),
        pytest.param("float16", 8, 1e-3, marks=pytest.mark.slow),
        ("int8", 10, 0.02),
    ],
)
@pytest.mark.feature("export: sparse, float16 and int8")
def test_a_sparse_file_is_as_small_as_its_values(tmp_path, values, factor, tolerance):
    model = built(wide())
    for weight in model.weights:
        if len(weight.shape) > 1:
            kept = np.random.default_rng(2).random(weight.shape) > 0.5
            weight.assign(np.where(kept, keras.ops.convert_to_numpy(weight), 0))
    path = tmp_path / "model.sparse"
    sos.export(model, path, format="sparse", values=values)
    assert path.stat().st_size < 4 * model.count_params() / factor
    call, weights = load_sparse(str(path))
    inputs = batch(model, 3)
    expected = keras.ops.convert_to_numpy(model(inputs, training=False))
    assert np.abs(call(inputs) - expected).max() <= tolerance * np.abs(expected).max()
    kernel = keras.ops.convert_to_numpy(model.layers[0].kernel)
    (stored,) = [weight for weight in weights if weight.shape == kernel.shape]
    assert (stored[kernel == 0] == 0).all()


@pytest.mark.parametrize("format", [name for name in OWN if name != "sparse"])
def test_only_sparse_files_have_other_values(tmp_path, format):
    message = f"Format '{format}' has no option values.*for format='sparse'.*'int8'"
    with pytest.raises(ValueError, match=message):
        sos.export(built(perceptron()), tmp_path / "x", format=format, values="int8")


@pytest.mark.skipif("sparse" not in OWN, reason="the backend writes no ONNX")
def test_negative_weights_that_a_mask_zeroes_are_not_stored(tmp_path):
    model = built(wide())
    kernel = keras.ops.convert_to_numpy(model.layers[0].kernel)
    model.layers[0].kernel.assign(kernel * (kernel > 0))
    sos.export(model, tmp_path / "model.sparse", format="sparse")
    _, weights = load_sparse(tmp_path / "model.sparse")
    (stored,) = [weight for weight in weights if weight.shape == kernel.shape]
    assert not np.signbit(stored).any()
    assert np.array_equal(stored, np.maximum(kernel, 0))


@pytest.mark.skipif("sparse" not in OWN, reason="the backend writes no ONNX")
def test_unknown_values_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"float32, float16, int8\. .*'int4'"):
        sos.export(built(perceptron()), tmp_path / "x", format="sparse", values="int4")
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif("sparse" not in OWN, reason="the backend writes no ONNX")
def test_weights_that_cannot_be_rounded_leave_what_was_there(tmp_path):
    model = built(wide())
    model.layers[0].kernel.assign(np.full((64, 400), np.nan))
    path = tmp_path / "model.sparse"
    path.write_text("of before")
    with pytest.raises(ValueError, match=r"some weights are not finite: choose values"):
        sos.export(model, path, format="sparse", values="int8", overwrite=True)
    assert path.read_text() == "of before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
@pytest.mark.skipif("onnx" not in OWN, reason="the backend writes no ONNX")
def test_onnx_of_masked_recurrence(tmp_path):
    model = built(tagger(unroll=False, mask_zero=True))
    call, _ = written(tmp_path, model, "onnx")
    check_outputs(model, call)


@pytest.mark.slow
@pytest.mark.skipif(TRACED, reason="torch traces paddings: see the next test")
@pytest.mark.parametrize("format", OWN)
def test_undefined_lengths_stay_so(tmp_path, format):
    convolution = keras.layers.Conv2D(4, 3, strides=2, padding="same")
    model = built(
        [keras.Input((None, None, 3)), convolution, keras.layers.GlobalMaxPooling2D()]
    )
    call, _ = written(tmp_path, model, format)
    for shape in ((2, 7, 8, 3), (1, 12, 9, 3)):
        inputs = np.random.default_rng(0).normal(size=shape).astype("float32")
        expected = keras.ops.convert_to_numpy(model(inputs, training=False))
        np.testing.assert_allclose(call(inputs), expected, atol=1e-5)


@pytest.mark.skipif(not TRACED, reason="only torch traces")
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_undefined_lengths_are_refused_where_they_would_be_fixed(tmp_path, format):
    model = built(tagger(unroll=False, length=None))
    with pytest.raises(ValueError, match=r"define them\. Received: \(None, None\)"):
        written(tmp_path, model, format)
    assert not any(tmp_path.iterdir())


INEXPRESSIBLE = {
    "tensorflow": ("openvino", {"unroll": False}),
    "torch": ("torch", {"unroll": False, "mask_zero": True}),
}


@pytest.mark.skipif(BACKEND not in INEXPRESSIBLE, reason="all of it can be written")
def test_what_cannot_be_expressed_is_refused(tmp_path):
    format, options = INEXPRESSIBLE[BACKEND]
    model = built(tagger(**options))
    with pytest.raises(RuntimeError, match=f"cannot write this model as {format}.*unr"):
        written(tmp_path, model, format)
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf2onnx is TensorFlow's")
def test_onnx_without_meaning_is_refused(tmp_path):
    inputs = keras.Input((8,))
    model = built((inputs, keras.ops.erfinv(keras.layers.Dense(4)(inputs))))
    with pytest.raises(RuntimeError, match="Erfinv"):
        written(tmp_path, model, "onnx")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("format", OWN)
def test_interrupt_leaves_what_was_there(tmp_path, format, monkeypatch):
    path = tmp_path / f"model{formats.FORMATS[format].suffix}"
    path.write_text("of before")

    def interrupted(format, model, path):
        path.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(type(formats.FORMATS[format]), "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        formats.write(built(perceptron()), path, format)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "of before"


@pytest.mark.parametrize("moves", range(4))
def test_interrupt_of_the_moves_undoes_them(tmp_path, moves, monkeypatch):
    path, weights = tmp_path / "model.xml", tmp_path / "model.bin"
    path.write_text("old")
    weights.write_text("old")
    rename = type(path).rename
    calls = iter([True] * moves + [False])

    def interrupted(source, target):
        if not next(calls, True):
            raise KeyboardInterrupt
        return rename(source, target)

    def replace():
        with atomic.replacing(path) as new:
            new.write_text("new")
            new.with_suffix(".bin").write_text("new")

    monkeypatch.setattr(type(path), "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replace()
    assert {p.name for p in tmp_path.iterdir()} == {"model.xml", "model.bin"}
    assert path.read_text() == weights.read_text() == "old"
    replace()
    assert {p.name for p in tmp_path.iterdir()} == {"model.xml", "model.bin"}
    assert path.read_text() == weights.read_text() == "new"


def test_unknown_format_is_refused():
    with pytest.raises(ValueError, match=r"one of litert, onnx.*'pickle'"):
        formats.check("pickle", BACKEND)


@pytest.mark.parametrize("format", in_table(sorted(set(formats.FORMATS) - set(OWN))))
def test_format_of_other_backends_is_refused(format):
    message = f"{BACKEND} backend can write {', '.join(OWN)}\\. For {format}"
    with pytest.raises(ValueError, match=message):
        formats.check(format, BACKEND)
    pytest.skip(f"the {BACKEND} backend does not write it")


@pytest.mark.parametrize("format", OWN)
def test_missing_package_is_named(format, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    packages = formats.FORMATS[format].packages[BACKEND]
    if not packages:
        formats.check(format, BACKEND)
        return
    with pytest.raises(ImportError, match=f"`pip install {' '.join(packages)}`"):
        formats.check(format, BACKEND)


@pytest.mark.parametrize("format", [name for name in OWN if name != "tf_saved_model"])
def test_other_suffix_is_refused(tmp_path, format):
    with pytest.raises(ValueError, match=r"has to end in '\.\w+'. Received: .*model'"):
        formats.write(built(perceptron()), tmp_path / "model", format)


@pytest.mark.parametrize("format", OWN)
@pytest.mark.parametrize("model", [Subclassed, keras.Sequential])
def test_model_that_is_not_built_is_refused(tmp_path, model, format):
    with pytest.raises(ValueError, match=r"Call the model once"):
        written(tmp_path, model(), format)
