"""Bad input is refused, with errors that name it and the way out."""

import numpy as np
import pytest

from tests.flavour import compiled, fit, keras, sos
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


def test_integers_that_would_be_multiplied_are_refused():
    x = keras.Input((3,), dtype="int32")
    dense = keras.Model(x, keras.layers.Dense(3, name="d", dtype="float32")(x))
    with pytest.raises(TypeError, match=r"'d'[^']*floating-point"):
        _train_on_integers(dense)


def _train_on_integers(model):
    sparse = compiled(sos.sparsify(model, sos.VariationalDropout(1.0)))
    fit(sparse, np.ones((4, 3), "int32"), np.ones((4, 3)))
