"""Bad input is refused, with errors that name it and the way out."""

import importlib
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tests.flavour import BACKEND, IS_KERAS3, NAME, compiled, fit, keras, sos
from tests.shared import zoo

NOW = sos.MagnitudePruning(0.6, begin_step=1, end_step=1, frequency=1)
pytestmark = pytest.mark.feature("bad input: errors that name the way out")


@pytest.mark.parametrize("function", [sos.strip, sos.sparsity_report, sos.weight_masks])
@pytest.mark.parametrize("value", [None, "model.keras", 3])
def test_what_is_no_model_is_refused(function, value):
    with pytest.raises(TypeError, match=r"model must be a keras\.Model .*Received: "):
        function(value)


def test_a_layer_is_no_model():
    with pytest.raises(TypeError, match=r"model must be a keras\.Model .*Dense"):
        sos.sparsify(keras.layers.Dense(3), NOW)


def test_an_unbuilt_model_is_refused():
    for model in (
        keras.Sequential([keras.layers.Dense(3)], name="unbuilt"),
        zoo.Subclassed(name="unbuilt"),
    ):
        with pytest.raises(
            ValueError, match=r"'unbuilt' has no weights yet\. Build it"
        ):
            sos.sparsify(model, NOW)


def test_a_model_that_is_sparse_already_is_refused():
    sparse = sos.sparsify(zoo.functional(), NOW)
    with pytest.raises(
        ValueError, match=r"sparse already, at layer .*sos\.strip first"
    ):
        sos.sparsify(sparse, sos.L0Regularization(1.0))


def test_a_model_without_anything_to_make_sparse_is_refused():
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.BatchNormalization()], name="nothing"
    )
    with pytest.raises(ValueError, match="Nothing to sparsify in model 'nothing'"):
        sos.sparsify(model, NOW)


@pytest.mark.parametrize("value", [None, 0.9, "magnitude", sos.MagnitudePruning])
def test_what_is_no_technique_is_refused(value):
    with pytest.raises(
        TypeError, match=r"technique must be one of sos\.MagnitudePruning.*Received: "
    ):
        sos.sparsify(zoo.perceptron(), value)


def test_blocks_of_a_weight_that_is_no_matrix_are_refused():
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 2, name="convolution")]
    )
    technique = sos.MagnitudePruning(0.5, 1, 1, 1, block_size=(1, 2))
    with pytest.raises(
        ValueError, match=r"cannot mask convolution/kernel of shape \(2, 2, 1, 2\)"
    ):
        sos.sparsify(model, technique)


def test_options_of_the_other_engine_are_refused():
    if IS_KERAS3:
        technique = sos.MagnitudePruning(0.5, 1, 1, 1, pruning_policy=object())
        message = r"pruning_policy is an option of TF-MOT, for tf_keras models only"
    else:
        technique = sos.MagnitudePruning(0.5, 1, 1, 1, masked_weights="return")
        message = r"masked_weights must be 'stay' for a tf_keras model"
    with pytest.raises(ValueError, match=message):
        sos.sparsify(zoo.perceptron(), technique)
    with pytest.raises(ValueError, match=message):
        sos.sparsify(zoo.perceptron(), sos.L0Regularization(1.0), {"logits": technique})


def test_integers_that_would_be_multiplied_are_refused():
    x = keras.Input((3,), dtype="int32")
    dense = keras.Model(x, keras.layers.Dense(3, name="d", dtype="float32")(x))
    with pytest.raises(TypeError, match=r"'d'[^']*floating-point"):
        _train_on_integers(dense)


def _train_on_integers(model):
    sparse = compiled(sos.sparsify(model, sos.VariationalDropout(1.0)))
    fit(sparse, np.ones((4, 3), "int32"), np.ones((4, 3)))


def python(code, **environment):
    """Runs code in a process of its own; gives what it wrote."""
    kept = {k: v for k, v in os.environ.items() if k not in ("SOS_KERAS", "XLA_FLAGS")}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        env={**kept, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_layers_of_the_other_keras_are_refused():
    """A subclassed model may hold them; the Kerases themselves refuse other models."""
    other = "tf_keras" if IS_KERAS3 else "keras"
    done = python(
        f"""
        import {NAME} as one, {other} as other, numpy as np
        import state_of_sparsity as sos

        class Mixed(one.Model):
            def __init__(self):
                super().__init__(name="mixed")
                self.own = one.layers.Dense(3, name="own")
                self.foreign = other.layers.Dense(3, name="foreign")

            def call(self, x):
                return self.own(x)

        model = Mixed()
        model(np.ones((1, 3), "float32"))
        sos.sparsify(model, sos.MagnitudePruning(0.5, 1, 1, 1))
        """,
        KERAS_BACKEND=BACKEND,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(("ValueError", "TypeError")), done.stderr
    assert "foreign" in last
    assert "Keras" in last


@pytest.mark.slow
@pytest.mark.skipif(BACKEND == "tensorflow", reason="tf_keras works with TensorFlow")
def test_a_tf_keras_model_under_another_backend_is_refused():
    done = python(
        """
        import tf_keras
        import state_of_sparsity as sos
        model = tf_keras.Sequential([tf_keras.layers.Dense(3, input_shape=(3,))])
        sos.sparsify(model, sos.MagnitudePruning(0.5, 1, 1, 1))
        """,
        KERAS_BACKEND=BACKEND,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError"), done.stderr
    assert "KERAS_BACKEND=tensorflow" in last
    assert repr(BACKEND) in last


@pytest.mark.slow
@pytest.mark.parametrize(
    "technique", ["MagnitudePruning(0.5, 1, 1, 1)", "L0Regularization(1.0)"]
)
def test_a_file_of_the_other_engine_is_refused(technique, tmp_path):
    other = "tf_keras" if IS_KERAS3 else "keras"
    path = str(tmp_path / "model.keras")
    made = python(
        f"""
        import {other} as keras
        import state_of_sparsity as sos
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
        sos.sparsify(model, sos.{technique}).save({path!r})
        """,
        KERAS_BACKEND="tensorflow",
    )
    assert made.returncode == 0, made.stderr
    # What a user imports before loading.
    name = "state_of_sparsity.layers"
    importlib.import_module(name if IS_KERAS3 else f"{name}.tf_keras")
    with pytest.raises(ValueError, match=rf"load it with {other}\.models\.load_model"):
        keras.models.load_model(path)
