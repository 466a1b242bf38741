"""Exports of sparse models as SavedModels, and operations that only tf_keras has."""

import os
import subprocess
import sys

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras, tf
from tests.flavour import compiled, fit
from tests.shared import zoo

PRUNE_NOW = sos.MagnitudePruning(0.7, begin_step=1, end_step=1, frequency=1)


class OfTheChosen(keras.layers.Layer):
    """Attends to positions of which nobody knows how many there are."""

    def call(self, inputs, chosen):
        scores = tf.matmul(inputs, chosen[tf.newaxis], transpose_b=True)
        return tf.matmul(scores, chosen[tf.newaxis])

    def activation_products(self, input_shapes, output_shape):
        raise AssertionError("there is nothing to compute with")


class Choosing(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.attention = OfTheChosen(name="attention")

    def call(self, inputs):
        return self.attention(inputs, tf.boolean_mask(inputs, inputs[..., 0] > 0))


def test_products_of_activations_of_no_fixed_size_are_an_error():
    x = keras.Input((5, 4))
    model = keras.Model(x, keras.layers.Dense(2)(Choosing()(x)))
    with pytest.raises(ValueError, match=r"/attention' computes on .*no fixed size"):
        sos.count_flops(model)


def test_export_computes_the_same_and_holds_the_same_zeros(rng, tmp_path):
    inputs, targets = zoo.data(rng)
    sparse = compiled(sos.sparsify(zoo.subclassed(), PRUNE_NOW))
    fit(sparse, inputs, targets)
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


@pytest.mark.feature("others: exports of models of dictionaries")
@pytest.mark.parametrize(
    "structured",
    [lambda b, a: {"b": b, "a": a}, lambda b, a: (b, a), lambda b, a: [b, a]],
    ids=["dictionary", "tuple", "list"],
)
def test_an_export_takes_what_the_model_takes(structured, rng, tmp_path):
    tensors = [keras.Input((6,), name=name) for name in ("b", "a")]
    outputs = keras.layers.Dense(2)(keras.layers.Concatenate()(tensors))
    model = keras.Model(structured(*tensors), outputs)
    sos.export_saved_model(model, tmp_path / "export")
    loaded = tf.saved_model.load(str(tmp_path / "export"))
    inputs = structured(*rng.normal(size=(2, 3, 6)).astype("float32"))
    np.testing.assert_allclose(loaded.serve(inputs), model(inputs), atol=1e-6)


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


@pytest.mark.slow
def test_export_loads_in_a_process_with_tensorflow_only(rng, tmp_path):
    inputs, targets = zoo.data(rng)
    sparse = compiled(sos.sparsify(zoo.functional(), PRUNE_NOW))
    fit(sparse, inputs, targets)
    sos.export_saved_model(sparse, tmp_path / "export")
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
    np.testing.assert_allclose(outputs, sparse(inputs), atol=1e-5)
