"""Files of every format that can be written here, in the runtimes they are for."""

import contextlib
import importlib
import importlib.util
import os

import numpy as np
import pytest

from state_of_sparsity import atomic
from state_of_sparsity.engines import formats
from tests.flavour import BACKEND, IS_KERAS3, keras, outputs_of, sos, to_numpy

layers = keras.layers
WRITER = BACKEND if IS_KERAS3 else "tf_keras"
OWN = [name for name, entry in formats.FORMATS.items() if WRITER in entry.packages]
NOT_WRITTEN = "its files are not written there"
BY_ANOTHER = "a process of another backend writes its files"
TRACED = WRITER == "torch"


def only(format):
    return pytest.mark.skipif(format not in OWN, reason=NOT_WRITTEN)


def perceptron():
    return [
        keras.Input((8,)),
        layers.Dense(16, activation="relu"),
        layers.Dropout(0.5),
        layers.Dense(4),
    ]


def convolutions():
    return [
        keras.Input((8, 8, 3)),
        layers.Conv2D(4, 3, padding="same", use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.MaxPooling2D(2),
        layers.DepthwiseConv2D(3, strides=2, padding="same"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(4, activation="softmax"),
    ]


def attention():
    inputs = keras.Input((6, 8))
    attended = layers.MultiHeadAttention(2, 4)(inputs, inputs)
    normalized = layers.LayerNormalization()(inputs + attended)
    return inputs, layers.Dense(8, activation="gelu")(normalized)


def tagger(unroll=True, length=3, mask_zero=False):
    lstm = layers.LSTM(4, return_sequences=True, unroll=unroll)
    return [
        keras.Input((length,), dtype="int32"),
        layers.Embedding(20, 4, mask_zero=mask_zero),
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


def wide():
    return [
        keras.Input((64,)),
        layers.Dense(400, activation="relu", use_bias=False),
        layers.Dense(100),
    ]


def built(made):
    """A model with weights of which most are zero."""
    model = made
    if isinstance(made, list):
        model = keras.Sequential(made)
    elif isinstance(made, tuple):
        model = keras.Model(*made)
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
    weights = [variable.numpy() for variable in loaded._all_variables]
    return lambda inputs: loaded.serve(inputs).numpy(), weights


def load_onnx(path):
    import onnx

    return load_graph(onnx.load(path))


def load_sparse(path):
    return load_graph(sos.runtime.read(path))


def load_graph(model):
    import onnx
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [tensor.name for tensor in session.get_inputs()]

    def call(inputs):
        return session.run(None, dict(zip(names, flat(inputs), strict=True)))[0]

    return call, [onnx.numpy_helper.to_array(w) for w in model.graph.initializer]


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


LOADERS = {
    "tf_saved_model": load_saved_model,
    "onnx": load_onnx,
    "openvino": load_openvino,
    "litert": load_litert,
    "torch": load_torch,
    "sparse": load_sparse,
}


def flat(inputs):
    return list(inputs.values()) if isinstance(inputs, dict) else [inputs]


def written(tmp_path, model, format, **options):
    path = tmp_path / f"model{formats.FORMATS[format].suffix}"
    sos.export(model, path, format, overwrite=True, **options)
    return LOADERS[format](str(path))


def check_outputs(model, call, tolerance=1e-5):
    for size in (1, 3):
        inputs = batch(model, size)
        expected, outputs = outputs_of(model, inputs), np.asarray(call(inputs))
        assert outputs.shape == expected.shape
        assert np.abs(outputs - expected).max() <= tolerance * np.abs(expected).max()


def stored_kernel(model, weights):
    """The kernel of the first layer, and what a file has of it."""
    kernel = to_numpy(model.layers[0].kernel)
    (stored,) = [w for w in weights if w.shape in (kernel.shape, kernel.shape[::-1])]
    return kernel, stored if stored.shape == kernel.shape else stored.T


def models_and_formats():
    """Each format with a perceptron and another network; the rest is slow."""
    others = [convolutions, attention, tagger, subclassed]
    for place, name in enumerate(OWN):
        for number, make in enumerate([perceptron, *others]):
            quick = make is perceptron or number == 1 + place % len(others)
            marks = [pytest.mark.feature(f"export: {name}")]
            marks += [] if quick else [pytest.mark.slow]
            yield pytest.param(name, make, marks=marks)


@pytest.mark.parametrize(("format", "make"), models_and_formats())
def test_outputs_are_the_models_for_any_batch(tmp_path, format, make, capfd):
    model = built(make())
    capfd.readouterr()
    call, weights = written(tmp_path, model, format)
    # Nothing else is left or printed.
    names = {path.name for path in tmp_path.iterdir()}
    more = {"model.bin"} if format == "openvino" else set()
    assert names == {f"model{formats.FORMATS[format].suffix}"} | more
    assert capfd.readouterr().out == ""
    check_outputs(model, call)
    if make is perceptron:
        kernel = to_numpy(model.layers[0].kernel)
        assert (kernel == 0).mean() > 0.5
        assert any(np.array_equal(w, k) for w in weights for k in (kernel, kernel.T))


@pytest.mark.slow
@only("litert")
@pytest.mark.feature("export: litert")
def test_litert_has_sparse_tensors_where_those_are_smaller(tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    model = built([keras.Input((64,)), layers.Dense(64)])
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


@pytest.mark.slow
@only("litert")
def test_a_litert_file_that_the_runtime_refuses_is_not_kept(tmp_path, monkeypatch):
    sizes, model = [], built(wide())
    for refuses in (False, True):
        if refuses:
            monkeypatch.setattr(formats.litert, "_runs", lambda contents: False)
        check_outputs(model, written(tmp_path, model, "litert")[0])
        sizes.append((tmp_path / "model.tflite").stat().st_size)
    assert sizes[0] < sizes[1]


@only("litert")
@pytest.mark.feature("export: litert, int8")
def test_litert_of_8_bits_is_smaller_with_all_zeros(tmp_path):
    model = built([keras.Input((64,)), layers.Dense(128, "relu"), layers.Dense(4)])
    call, weights = written(tmp_path, model, "litert", quantize="int8")
    size = (tmp_path / "model.tflite").stat().st_size
    assert size < 0.5 * 4 * model.count_params()
    kernel, stored = stored_kernel(model, weights)
    assert stored.dtype == np.int8
    assert (stored[kernel == 0] == 0).all()
    check_outputs(model, call, 0.03)


@only("sparse")
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
            weight.assign(np.where(kept, to_numpy(weight), 0))
    call, weights = written(tmp_path, model, "sparse", values=values)
    size = (tmp_path / "model.sparse").stat().st_size
    assert size < 4 * model.count_params() / factor
    check_outputs(model, call, tolerance)
    kernel, stored = stored_kernel(model, weights)
    assert (stored[kernel == 0] == 0).all()


@only("sparse")
def test_negative_weights_that_a_mask_zeroes_are_not_stored(tmp_path):
    model = built(wide())
    kernel = to_numpy(model.layers[0].kernel)
    model.layers[0].kernel.assign(kernel * (kernel > 0))
    _, weights = written(tmp_path, model, "sparse")
    _, stored = stored_kernel(model, weights)
    assert not np.signbit(stored).any()
    assert np.array_equal(stored, np.maximum(kernel, 0))


@pytest.mark.parametrize("format", OWN)
@pytest.mark.parametrize(
    ("option", "owner"), [("quantize", "litert"), ("values", "sparse")]
)
def test_options_are_of_one_format_and_have_its_values(option, owner, format, tmp_path):
    message = f"{option} must be .*'?int8'?.* Received: 'int4'"
    if format != owner:
        message = f"'{format}' has no option {option}.*for format='{owner}'.*'int4'"
    with pytest.raises(ValueError, match=message):
        sos.export(built(perceptron()), tmp_path / "x", format, **{option: "int4"})
    assert not any(tmp_path.iterdir())


@only("sparse")
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
@only("sparse")
@pytest.mark.feature("export: sparse")
def test_recurrence_that_is_not_unrolled_is_written(tmp_path):
    model = built(tagger(unroll=False, mask_zero=IS_KERAS3))
    check_outputs(model, written(tmp_path, model, "sparse")[0])


@pytest.mark.slow
@pytest.mark.skipif(TRACED, reason="torch traces paddings: see the next test")
@pytest.mark.parametrize("format", OWN)
def test_undefined_lengths_stay_so(tmp_path, format):
    convolution = layers.Conv2D(4, 3, strides=2, padding="same")
    model = built(
        [keras.Input((None, None, 3)), convolution, layers.GlobalMaxPooling2D()]
    )
    call, _ = written(tmp_path, model, format)
    for shape in ((2, 7, 8, 3), (1, 12, 9, 3)):
        inputs = np.random.default_rng(0).normal(size=shape).astype("float32")
        np.testing.assert_allclose(call(inputs), outputs_of(model, inputs), atol=1e-5)


@pytest.mark.skipif(not TRACED, reason="only torch traces")
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_undefined_lengths_are_refused_where_they_would_be_fixed(tmp_path, format):
    model = built(tagger(unroll=False, length=None))
    with pytest.raises(ValueError, match=r"define them\. Received: \(None, None\)"):
        written(tmp_path, model, format)
    assert not any(tmp_path.iterdir())


INEXPRESSIBLE = {
    "tensorflow": ("openvino", {"unroll": False}),
    "tf_keras": ("litert", {"unroll": False}),
    "torch": ("torch", {"unroll": False, "mask_zero": True}),
}


@pytest.mark.skipif(WRITER not in INEXPRESSIBLE, reason="all of it can be written")
def test_what_cannot_be_expressed_is_refused(tmp_path):
    format, options = INEXPRESSIBLE[WRITER]
    model = built(tagger(**options))
    with pytest.raises(RuntimeError, match=f"cannot write .* as {format}.*unr"):
        written(tmp_path, model, format)
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf2onnx is TensorFlow's")
def test_what_tf2onnx_does_not_know_is_refused(tmp_path):
    functions = keras.ops if IS_KERAS3 else importlib.import_module("tensorflow").math
    inputs = keras.Input((8,))
    model = built((inputs, functions.erfinv(layers.Dense(4)(inputs))))
    with pytest.raises(RuntimeError, match="Erfinv"):
        written(tmp_path, model, "sparse")
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


@pytest.mark.any_backend
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
        formats.check("pickle", WRITER)


@pytest.mark.parametrize(
    "format",
    [
        pytest.param(name, marks=pytest.mark.feature(f"export: {name}"))
        for name in sorted(set(formats.FORMATS) - set(OWN))
    ],
)
def test_format_of_other_writers_is_refused_without_them(format, monkeypatch):
    if IS_KERAS3:
        assert formats.check(format, WRITER) in formats.FORMATS[format].packages
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = f"can write {' or '.join(OWN)}\\. For {format}, install (tensor|torch)"
    if not IS_KERAS3:
        message = f"exported as {' or '.join(OWN)}: build .*'{format}'"
    with pytest.raises(ValueError, match=message):
        formats.check(format, WRITER)
    pytest.skip(BY_ANOTHER if IS_KERAS3 else NOT_WRITTEN)


@pytest.mark.skipif(not IS_KERAS3, reason="tf_keras has one backend")
def test_of_several_backends_the_one_that_lacks_nothing_writes(monkeypatch):
    found = importlib.util.find_spec
    for missing, writer in [("tf2onnx", "torch"), ("onnxscript", "tensorflow")]:
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name, missing=missing: name != missing and found(name),
        )
        assert formats.check("onnx", "jax") == writer


@pytest.mark.parametrize("format", OWN)
def test_missing_package_is_named(format, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    packages = formats.FORMATS[format].packages[WRITER]
    if not packages:
        formats.check(format, WRITER)
        return
    with pytest.raises(ImportError, match=f"`pip install {' '.join(packages)}`"):
        formats.check(format, WRITER)


@pytest.mark.parametrize("format", [name for name in OWN if name != "tf_saved_model"])
def test_other_suffix_is_refused(tmp_path, format):
    with pytest.raises(ValueError, match=r"has to end in '\.\w+'. Received: .*model'"):
        formats.write(built(perceptron()), tmp_path / "model", format)


@pytest.mark.parametrize("format", OWN)
@pytest.mark.parametrize("model", [Subclassed, *[keras.Sequential] * IS_KERAS3])
def test_model_that_is_not_built_is_refused(tmp_path, model, format):
    with pytest.raises(ValueError, match=r"[Cc]all the model (on a batch )?once"):
        formats.write(model(), tmp_path / f"x{formats.FORMATS[format].suffix}", format)
