"""Reports, masks, operation counts and exports of sparse models."""

import csv
import gzip
import os
import subprocess
import sys

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras, tf
from tests.tf_keras import zoo

PRUNE_NOW = sos.MagnitudePruning(0.7, begin_step=1, end_step=1, frequency=1)


@pytest.fixture
def trained(rng):
    """A sparse model with a dense layer in it."""
    inputs, labels = zoo.data(rng)
    sparse = sos.sparsify(zoo.functional(), PRUNE_NOW, {"shared": None})
    zoo.compiled(sparse)
    sparse.fit(inputs, labels, verbose=0, callbacks=sos.callbacks(sparse))
    return sparse


def test_report_counts_parameters_without_masks_and_moving_averages(trained):
    report = sos.sparsity_report(trained)
    dense = zoo.functional()
    expected = sum(int(np.prod(w.shape)) for w in dense.trainable_weights)
    assert report.parameters == expected
    assert sos.sparsity_report(dense).parameters == expected
    zeros = sum(
        int((weight.numpy() == 0).sum())
        for weight in sos.strip(trained).trainable_weights
        if "kernel" in weight.name
    )
    assert report.nonzero_parameters == expected - zeros


def test_report_of_the_stripped_model_has_the_same_zeros(trained):
    stripped = {r.name: r for r in sos.sparsity_report(sos.strip(trained)).layers}
    for layer in sos.sparsity_report(trained).layers:
        assert stripped[layer.name].zeros == layer.zeros
        assert stripped[layer.name].shape == layer.shape


def test_report_of_a_plain_model_counts_its_zeros():
    model = zoo.sequential()
    kernel = model.get_layer("a").kernel
    values = kernel.numpy()
    values[0] = 0
    kernel.assign(values)
    report = sos.sparsity_report(model)
    assert [layer.zeros for layer in report.layers] == [8, 0]
    assert {layer.technique for layer in report.layers} == {"dense"}


def test_printed_report_has_a_line_per_tensor_and_a_sum(trained):
    report = sos.sparsity_report(trained)
    lines = str(report).splitlines()
    assert len(lines) == len(report.layers) + 2
    assert "head/kernel" in str(report)
    assert f"{report.sparsity:.2%}" in lines[-1]


def test_csv_has_the_columns_of_the_report(trained, tmp_path):
    report = sos.sparsity_report(trained)
    report.to_csv(tmp_path / "layers.csv")
    with open(tmp_path / "layers.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["name", "shape", "size", "zeros", "sparsity", "technique"]
    for row, layer in zip(rows, report.layers, strict=True):
        assert row["name"] == layer.name
        assert int(row["zeros"]) == layer.zeros
        assert float(row["sparsity"]) == layer.sparsity
        assert row["shape"] == "x".join(map(str, layer.shape))


def test_plot_is_a_picture(trained, tmp_path):
    sos.sparsity_report(trained).plot(tmp_path / "sparsity.png")
    picture = (tmp_path / "sparsity.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


def test_flops_of_convolutions_and_dense_layers():
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Conv2D(8, 3, strides=2, input_shape=(9, 9, 4), name="c"),
            layers.Conv2D(6, 3, padding="same", groups=2, name="g"),
            layers.Flatten(),
            layers.Dense(5, name="d"),
        ]
    )
    conv = 4 * 4 * 8 * (3 * 3 * 4)
    grouped = 4 * 4 * 6 * (3 * 3 * 4)
    dense = 96 * 5
    assert sos.count_flops(model).dense == 2 * (conv + grouped + dense)


def test_sparse_flops_leave_out_zeros_weighted_by_positions():
    model = keras.Sequential(
        [keras.layers.Conv1D(2, 3, input_shape=(10, 4)), keras.layers.Dense(5)]
    )
    for layer, keep in zip(model.layers, (6, 1), strict=True):
        values = np.zeros(layer.kernel.shape)
        values.flat[:keep] = 1
        layer.kernel.assign(values)
    assert sos.count_flops(model).sparse == 2 * 8 * (6 + 1)


def test_flops_of_a_layer_used_twice_count_twice():
    inputs = keras.Input((4,))
    layer = keras.layers.Dense(4)
    model = keras.Model(inputs, layer(layer(inputs)))
    assert sos.count_flops(model).dense == 2 * 2 * 16


def test_flops_of_a_model_used_twice_count_twice():
    inputs = keras.Input((4,))
    inner = keras.Sequential([keras.layers.Dense(4, input_shape=(4,))])
    model = keras.Model(inputs, inner(inner(inputs)))
    assert sos.count_flops(model).dense == 2 * 2 * 16


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (zoo.subclassed, "Sequential and functional"),
        (
            lambda: keras.Sequential(
                [keras.layers.Conv2D(2, 3, input_shape=(None, None, 3))]
            ),
            "no fixed size",
        ),
        (
            lambda: keras.Sequential(
                [keras.layers.DepthwiseConv2D(3, input_shape=(5, 5, 2))]
            ),
            "No rule",
        ),
        (
            lambda: keras.Sequential(
                [keras.layers.Conv2DTranspose(2, 3, input_shape=(5, 5, 2))]
            ),
            "No rule",
        ),
        (
            lambda: keras.Sequential([keras.layers.LSTM(3, input_shape=(5, 2))]),
            "No rule",
        ),
    ],
)
def test_flops_that_cannot_be_counted_are_an_error(make, message):
    with pytest.raises(ValueError, match=message):
        sos.count_flops(make())


@pytest.mark.parametrize("kind", ["functional", "subclassed"])
def test_export_computes_the_same_and_holds_the_same_zeros(kind, rng, tmp_path):
    inputs, labels = zoo.data(rng)
    sparse = zoo.compiled(sos.sparsify(zoo.ALL[kind](), PRUNE_NOW))
    sparse.fit(inputs, labels, verbose=0, callbacks=sos.callbacks(sparse))
    sos.export_saved_model(sparse, tmp_path / "export")
    loaded = tf.saved_model.load(str(tmp_path / "export"))
    np.testing.assert_allclose(loaded.serve(inputs), sparse(inputs), atol=1e-6)
    zeros = sorted(int((v.numpy() == 0).sum()) for v in kernels(loaded))
    expected = sorted(layer.zeros for layer in sos.sparsity_report(sparse).layers)
    assert zeros == expected
    # A batch of another size goes, too.
    assert loaded.serve(inputs[:3]).shape == (3, zoo.CLASSES)


def kernels(loaded):
    return [v for v in loaded._all_variables if "kernel" in v.name]


def test_export_of_mixed_precision_takes_float32(rng, tmp_path):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    sparse = sos.sparsify(zoo.subclassed(), PRUNE_NOW)
    sos.export_saved_model(sparse, tmp_path / "export")
    inputs, _ = zoo.data(rng)
    loaded = tf.saved_model.load(str(tmp_path / "export"))
    np.testing.assert_allclose(
        tf.cast(loaded.serve(inputs), tf.float32),
        tf.cast(sparse(inputs), tf.float32),
        atol=0.05,
    )


def test_export_does_not_overwrite_unless_told(tmp_path):
    model = zoo.sequential()
    path = tmp_path / "export"
    sos.export_saved_model(model, path)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        sos.export_saved_model(model, path)
    sos.export_saved_model(model, path, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["export"]


def test_export_never_replaces_what_is_no_saved_model(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="no SavedModel"):
        sos.export_saved_model(zoo.sequential(), tmp_path, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_failed_export_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(keras.export.ExportArchive, "write_out", fail)
    with pytest.raises(OSError, match="disk full"):
        sos.export_saved_model(zoo.sequential(), tmp_path / "export")
    assert not os.listdir(tmp_path)


@pytest.mark.slow
def test_export_loads_in_a_process_with_tensorflow_only(trained, rng, tmp_path):
    inputs, _ = zoo.data(rng)
    sos.export_saved_model(trained, tmp_path / "export")
    np.save(tmp_path / "inputs.npy", inputs)
    script = (
        "import sys, numpy as np, tensorflow as tf\n"
        f"model = tf.saved_model.load({str(tmp_path / 'export')!r})\n"
        f"inputs = np.load({str(tmp_path / 'inputs.npy')!r})\n"
        "outputs = model.signatures['serving_default'](tf.constant(inputs))\n"
        f"np.save({str(tmp_path / 'outputs.npy')!r}, outputs['output_0'])\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "ours = {'state_of_sparsity', 'tensorflow_model_optimization'}\n"
        "assert not loaded & ours, loaded\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
    outputs = np.load(tmp_path / "outputs.npy")
    np.testing.assert_allclose(outputs, trained(inputs), atol=1e-5)


def test_zeros_compress():
    """The premise of smaller files: a tenth of random weights is small, gzipped."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=100_000).astype("float32")
    dense = len(gzip.compress(weights.tobytes()))
    weights[rng.random(weights.size) < 0.9] = 0
    assert len(gzip.compress(weights.tobytes())) < dense / 3
