"""Whole channels that a run masked: the smaller model that is left, and its export."""

import json
import re

import keras
import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import tf

# What stays of the 2, 5 and 50 channels and units of a LeNet-5 of width 0.1.
KEPT = {"conv1": 1, "conv2": 3, "dense1": 25}


@pytest.fixture(scope="module")
def trained(command, lenet, tmp_path_factory):
    """The folder of a run that masked half of the channels, and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "channels"
    flags = ("--structure=channels", "--sparsity=0.5", "--override=logits=dense")
    outcome = command("train_resnet50", *lenet, *flags, f"--output_dir={folder}")
    assert outcome.code == 0, outcome
    return folder, outcome.out


@pytest.fixture(scope="module")
def channels(trained):
    return trained[0]


@pytest.fixture(scope="module")
def result(channels):
    return json.loads((channels / "result.json").read_text())


@pytest.mark.slow
def test_a_result_has_the_figures_of_the_smaller_model(result, trained):
    """Where biases of masked channels make them constants, one more stays for all."""
    least, most = figures_of(**KEPT), figures_of(**{n: k + 1 for n, k in KEPT.items()})
    for name, low, high in zip(("parameters", "flops"), least, most, strict=True):
        assert low <= result[f"smaller_{name}"] <= high
    assert 0 < result["smaller_gzipped_bytes"] < result["gzipped_bytes"]
    said = f"smaller model +{result['smaller_parameters']:,} parameters, "
    assert re.search(said, trained[1])


def figures_of(conv1, conv2, dense1):
    """Parameters, and FLOPs for an image of 32x32, with so many channels."""
    sizes = [75 * conv1, 25 * conv1 * conv2, 25 * conv2 * dense1, 10 * dense1]
    positions = [28 * 28, 10 * 10, 1, 1]
    parameters = sum(sizes) + conv1 + conv2 + dense1 + 10
    return parameters, 2 * np.dot(sizes, positions)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format_", "name"),
    [("tf_saved_model", "saved_model.pb"), ("sparse", "model.sparse")],
)
def test_the_smaller_model_is_exported_with_the_same_outputs(
    format_, name, channels, result, images, command, tmp_path
):
    arguments = (f"--model={channels}", f"--format={format_}", "--shrink")
    outcome = command("export_model", *arguments, f"--export_dir={tmp_path}")
    assert outcome.code == 0, outcome
    assert (tmp_path / name).is_file()
    exported = tf.saved_model.load(str(channels / "export"))
    expected = exported.serve(images)
    if format_ == "sparse":
        model = sos.runtime.load(tmp_path / name, threads=1, tune=False)
        (found,) = model.run(images).values()
    else:
        model = tf.saved_model.load(str(tmp_path))
        found = model.serve(images)
        sizes = sum(np.prod(variable.shape) for variable in model.variables)
        assert sizes == result["smaller_parameters"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.fixture
def masked(tmp_path):
    """A model of Keras 3 in a file, half of whose units are masked."""
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(8, name="a"), keras.layers.Dense(2)]
    )
    technique = sos.MagnitudePruning(
        0.5, begin_step=0, end_step=1, frequency=1, structure="channels"
    )
    model = sos.sparsify(model, technique, {"dense.*": None})
    # Which learns nothing, so that biases stay 0.
    model.compile(keras.optimizers.SGD(0.0), "mse")
    batch = np.ones((2, 3)), np.ones((2, 2))
    model.fit(*batch, verbose=0, callbacks=sos.callbacks(model))
    model.save(tmp_path / "model.keras")
    return model


def test_models_of_keras_3_are_reported_exported_and_made_smaller(
    masked, command, tmp_path
):
    given = f"--model={tmp_path / 'model.keras'}"
    outcome = command("report_sparsity", given)
    assert re.search(r"a/kernel +3x8 +24 +12 +50.00%", outcome.out), outcome
    points = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    expected = masked.predict(points, verbose=0)
    # Of kernels and biases: masked units give 0, since biases still are.
    for flags, parameters in [((), 24 + 8 + 16 + 2), (("--shrink",), 12 + 4 + 8 + 2)]:
        folder = tmp_path / f"exported{len(flags)}"
        arguments = (given, f"--export_dir={folder}", *flags)
        outcome = command("export_model", *arguments)
        assert outcome.code == 0, outcome
        model = tf.saved_model.load(str(folder))
        assert sum(np.prod(v.shape) for v in model.variables) == parameters
        np.testing.assert_allclose(model.serve(points), expected, atol=1e-5)
