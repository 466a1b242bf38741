"""What others' programs did, and what no program may do without a word."""

import subprocess
import sys

import keras
import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines import formats
from tests.flavour import BACKEND
from tests.keras3 import presets
from tests.shared.test_formats import OWN, check_outputs, written


class Shifted(keras.layers.Layer):
    """Adds constants, of which TensorFlow keeps small and large ones in other ways."""

    def build(self, shape):
        self.shift = keras.ops.arange(shape[-1], dtype="float32")

    def call(self, inputs):
        return inputs + self.shift


def with_constants():
    rng = np.random.default_rng(0)
    normalization = keras.layers.Normalization()
    normalization.adapt(rng.normal(1, 2, (8, 5)).astype("float32"))
    return keras.Sequential(
        [keras.Input((5,)), normalization, keras.layers.Dense(150), Shifted()]
    )


@pytest.mark.feature("others: constants of a model in its files")
@pytest.mark.parametrize("format", OWN)
def test_constants_of_a_model_are_no_inputs_of_its_file(tmp_path, format):
    model = with_constants()
    call, _ = written(tmp_path, model, format)
    check_outputs(model, call)


@pytest.mark.feature("others: constants of a model in its files")
@pytest.mark.skipif("onnx" not in OWN, reason="the backend writes no ONNX")
def test_a_model_of_several_unnamed_inputs_is_run(tmp_path):
    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, inputs):
            return self.dense(inputs["wide"]) - inputs["narrow"]

    model = Two()
    inputs = {"narrow": np.ones((2, 3), "float32"), "wide": np.ones((2, 5), "float32")}
    model(inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(formats.FORMATS["onnx"]), "run", lambda *arguments: [])
        with pytest.raises(RuntimeError, match=r"outputs of \[\] .* \[\(2, 3\)\]"):
            written(tmp_path, model, "onnx")
    written(tmp_path, model, "onnx")


@pytest.mark.skipif("onnx" not in OWN, reason="the backend writes no ONNX")
def test_outputs_keep_the_names_that_a_model_gives_them(tmp_path):
    import onnx

    if BACKEND == "torch":
        pytest.skip("torch's exporter names them itself")
    inputs = keras.Input((5,), name="features")
    outputs = {name: keras.layers.Dense(2)(inputs) for name in ("left", "right")}
    written(tmp_path, keras.Model(inputs, outputs), "onnx")
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert [place.name for place in graph.input] == ["features"]
    assert [place.name for place in graph.output] == ["left", "right"]


@pytest.fixture
def writes_instead(monkeypatch):
    """Has a format write other models than those that it is asked for."""

    def write_instead(format, other):
        write = type(formats.FORMATS[format]).write
        monkeypatch.setattr(
            type(formats.FORMATS[format]),
            "write",
            lambda self, model, path: write(self, other, path),
        )

    return write_instead


@pytest.mark.feature("others: constants of a model in its files")
@pytest.mark.parametrize("format", OWN)
@pytest.mark.parametrize(
    ("inputs", "units", "message"), [(2, 3, "does not run"), (1, 7, "gives outputs of")]
)
def test_a_file_of_other_inputs_or_outputs_is_refused(
    tmp_path, format, writes_instead, inputs, units, message
):
    places = [keras.Input((4,), name=name) for name in ("a", "b")]
    model = keras.Model(places[0], keras.layers.Dense(3)(places[0]))
    given = places if inputs == 2 else places[0]
    other = keras.Model(given, keras.layers.Dense(units)(sum(places[:inputs])))
    writes_instead(format, other)
    path = tmp_path / f"model{formats.FORMATS[format].suffix}"
    with pytest.raises(RuntimeError, match=f"{format} file .* {message}"):
        formats.write(model, path, format)
    assert not any(tmp_path.iterdir())


@pytest.mark.feature("others: constants of a model in its files")
@pytest.mark.parametrize("format", OWN)
def test_a_file_of_other_weights_is_told(tmp_path, format, writes_instead):
    model, other = (
        keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)]) for _ in range(2)
    )
    writes_instead(format, other)
    path = tmp_path / f"model{formats.FORMATS[format].suffix}"
    with pytest.warns(UserWarning, match=f"{format} file .* gives other outputs"):
        sos.export(model, path, format=format)


def quantizable():
    ids = keras.Input((6,), dtype="int32")
    embedding = keras.layers.ReversibleEmbedding(10, 7, tie_weights=False, name="e")
    x = keras.layers.EinsumDense("abc,cde->abde", (None, 3, 5), name="einsum")(
        embedding(ids)
    )
    x = keras.layers.Dense(7, name="dense")(keras.layers.Reshape((6, 15))(x))
    model = keras.Model(ids, embedding(x, reverse=True))
    rng = np.random.default_rng(0)
    for weight in model.weights:
        values = rng.uniform(0.5, 1, weight.shape) * rng.choice([-1, 1], weight.shape)
        weight.assign(values * (rng.random(weight.shape) > 0.7))
    return model


@pytest.mark.feature("others: quantized models")
@pytest.mark.any_backend
@pytest.mark.filterwarnings("ignore:.*quantiz")
@pytest.mark.parametrize("mode", ["int8", "int4", "int4, by channel", "float8"])
def test_a_quantized_model_has_the_weights_and_zeros_of_before(mode):
    model = quantizable()
    before, masks = sos.sparsity_report(model), sos.weight_masks(model)
    if "by channel" in mode:
        model.quantize(config=keras.quantizers.Int4QuantizationConfig(block_size=-1))
    else:
        model.quantize(mode)
    after = sos.sparsity_report(model)
    assert str(after) == str(before)
    for name, mask in sos.weight_masks(model).items():
        assert np.array_equal(mask, masks[name]), name
    sos.sparsify(quantizable(), sos.FixedMask(sos.weight_masks(model)))


@pytest.mark.feature("others: operations of other libraries' layers")
@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("make", "shape", "dtype", "multiply_adds"),
    [
        (lambda: keras.layers.Dense(6), (5, 4), "float32", 5 * (4 * 6 + 4 * 2 + 2 * 6)),
        (
            lambda: keras.layers.EinsumDense("abc,cde->abde", (None, 3, 6)),
            (5, 4),
            "float32",
            5 * (4 * 18 + 4 * 3 * 2) + 5 * 3 * 2 * 6,
        ),
        (
            lambda: keras.layers.Conv2D(6, 2),
            (3, 3, 4),
            "float32",
            4 * (2 * 2 * 4 * (6 + 2) + 2 * 6),
        ),
        (lambda: keras.layers.Embedding(9, 6), (5,), "int32", 5 * 2 * 6),
    ],
    ids=["Dense", "EinsumDense", "Conv2D", "Embedding"],
)
def test_adapters_count_beside_the_weight(make, shape, dtype, multiply_adds):
    layer = make()
    model = keras.Sequential([keras.Input(shape, dtype=dtype), layer])
    layer.enable_lora(2)
    assert sos.count_flops(model).dense == 2 * multiply_adds


PRUNED = sos.MagnitudePruning(0.5, 1, 1, 1)


def saved_as_preset(folder):
    """Presets of a sparse model, with others made sparse before and after."""
    sparse = [
        sos.sparsify(presets.OneTask(presets.OneBackbone()), PRUNED),
        sos.sparsify(presets.OtherTask(presets.OtherBackbone()), PRUNED),
    ]
    sparse[0](np.ones((1, 4)), training=True)
    sparse[0].save_to_preset(folder)
    return sparse[0]


@pytest.mark.feature("others: presets of KerasHub")
@pytest.mark.any_backend
def test_a_preset_of_a_sparse_model_is_found_by_its_class(tmp_path):
    sparse = saved_as_preset(tmp_path)
    inputs = np.arange(8.0).reshape(2, 4)
    expected = sparse.predict(inputs, verbose=0)
    for cls in (presets.Backbone, presets.OneBackbone, presets.Task):
        model = cls.from_preset(tmp_path)
        assert isinstance(model, cls)
        assert sos.sparsity_report(model) == sos.sparsity_report(sparse)
        assert np.array_equal(model.predict(inputs, verbose=0), expected)
        assert type(sos.strip(model)) in (presets.OneBackbone, presets.OneTask)
        half = cls.from_preset(tmp_path, dtype="bfloat16")
        assert half.get_layer(index=-1).compute_dtype == "bfloat16"
    with pytest.raises(AssertionError):
        presets.OtherBackbone.from_preset(tmp_path)
    sparse.save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    assert np.array_equal(model.predict(inputs, verbose=0), expected)


@pytest.mark.feature("others: presets of KerasHub")
@pytest.mark.slow
def test_a_preset_of_a_sparse_model_loads_in_another_process(tmp_path):
    saved_as_preset(tmp_path)
    script = (
        "from tests.keras3 import presets\n"
        "from state_of_sparsity import layers\n"
        f"print(presets.Task.from_preset({str(tmp_path)!r}))"
    )
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "OneTask" in ran.stdout
