"""Several devices: keras.distribution on JAX, MirroredStrategy on TensorFlow."""

import importlib

import numpy as np
import pytest

from tests.flavour import (
    BACKEND,
    IS_KERAS3,
    compiled,
    fit,
    keras,
    outputs_of,
    sgd,
    sos,
    steps_of,
)
from tests.shared import zoo

MAGNITUDE = sos.MagnitudePruning(0.75, 1, 4, 1)
RANDOM = sos.RandomPruning(0.75, 1, 4, 1)
VARIATIONAL = sos.VariationalDropout(1e-4)
L0 = sos.L0Regularization(1e-4)
# What each adds up, overwrites, draws from all gradients, or trains beside the weights.
OF_GRADIENTS = {
    "saliency": (sos.SaliencyPruning(0.75, 2, 4, 1), None),
    "fisher": (sos.FisherPruning(0.75, 2, 4, 1, block_size=4), None),
    "rigl": (sos.RigL(0.75, end_step=4, frequency=2), None),
    "acdc": (sos.ACDC(0.75, 1, (3, 4)), None),
    "st3": (sos.ST3(0.75, 1, 3), None),
    "str": (sos.STR(-2.0, 1e-2), None),
}
of_gradients = pytest.mark.parametrize(
    ("technique", "budget"),
    [
        # One of them among the tests that take seconds.
        pytest.param(*case, marks=[pytest.mark.slow] * (name != "rigl"), id=name)
        for name, case in OF_GRADIENTS.items()
    ],
)


def trained(technique, weights=None, budget=None):
    """A sparse model after four steps, and its losses."""
    plain = zoo.perceptron()
    if weights is not None:
        plain.set_weights(weights)
    keras.utils.set_random_seed(4)
    sparse = sos.sparsify(plain, technique, budget=budget)
    compiled(sparse, sgd(0.1, momentum=0.9), run_eagerly=False)
    return sparse, fit(sparse, *zoo.data(np.random.default_rng(0), 16))


def assert_same_masks(model, expected):
    for name, mask in sos.weight_masks(model).items():
        np.testing.assert_array_equal(mask, sos.weight_masks(expected)[name], name)


@pytest.fixture
def distribution():
    """Sets a distribution of `keras.distribution`, and takes it away again."""
    if BACKEND != "jax":
        pytest.skip("keras.distribution is JAX's")
    yield keras.distribution.set_distribution
    keras.distribution.set_distribution(None)


@pytest.fixture
def strategy():
    if BACKEND != "tensorflow":
        pytest.skip("tf.distribute is TensorFlow's")
    tf = importlib.import_module("tensorflow")
    return tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice()
    )


@pytest.mark.slow
@pytest.mark.feature("DataParallel")
@pytest.mark.parametrize(
    ("technique", "budget"),
    [(VARIATIONAL, None), (MAGNITUDE, sos.Global())],
    ids=["variational", "global"],
)
def test_data_parallel_trains_as_one_device_does(technique, budget, distribution):
    weights = zoo.perceptron().get_weights()
    alone, expected = trained(technique, weights, budget)
    distribution(keras.distribution.DataParallel(devices=["cpu:0", "cpu:1"]))
    sparse, losses = trained(technique, weights, budget)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert_same_masks(sparse, alone)


@pytest.mark.feature("DataParallel")
@of_gradients
def test_data_parallel_adds_up_the_gradients_of_all(technique, budget, distribution):
    weights = zoo.perceptron().get_weights()
    alone, expected = trained(technique, weights, budget)
    distribution(keras.distribution.DataParallel(devices=["cpu:0", "cpu:1"]))
    sparse, losses = trained(technique, weights, budget)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert_same_masks(sparse, alone)


@pytest.mark.feature("ModelParallel")
@pytest.mark.parametrize("technique", [MAGNITUDE, L0], ids=["magnitude", "l0"])
def test_model_parallel_shards_masks_as_the_weights(technique, distribution):
    weights = zoo.perceptron().get_weights()
    _, expected = trained(technique, weights)
    mesh = keras.distribution.DeviceMesh((1, 2), ["batch", "model"], ["cpu:0", "cpu:1"])
    layout = keras.distribution.LayoutMap(mesh)
    layout["hidden/kernel"] = (None, "model")
    layout["logits/kernel"] = ("model", None)
    distribution(
        keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")
    )
    sparse, losses = trained(technique, weights)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    (weight,) = sparse.get_layer("hidden").sparse_weights
    (beside,) = weight.state.values()
    assert beside.value.sharding == weight.theta.value.sharding
    inputs = np.ones((2, zoo.FEATURES), "float32")
    np.testing.assert_allclose(
        outputs_of(sos.strip(sparse), inputs), outputs_of(sparse, inputs), atol=1e-6
    )


@pytest.mark.slow
@pytest.mark.feature("MirroredStrategy")
@pytest.mark.parametrize(
    ("technique", "budget"),
    [(VARIATIONAL, None), (L0, None), (RANDOM, None), (MAGNITUDE, sos.Global())],
    ids=["variational", "l0", "random", "global"],
)
def test_replicas_train_as_one_model_does(technique, budget, strategy):
    weights = zoo.perceptron().get_weights()
    with strategy.scope():
        sparse, losses = trained(technique, weights, budget)
    assert np.isfinite(losses).all()
    assert steps_of(sparse) == {4}
    for variable in sparse.variables:
        first, second = strategy.experimental_local_results(
            variable._value if IS_KERAS3 else variable
        )
        np.testing.assert_array_equal(first.numpy(), second.numpy())
    inputs = np.ones((2, zoo.FEATURES), "float32")
    np.testing.assert_allclose(
        outputs_of(sos.strip(sparse), inputs), outputs_of(sparse, inputs), atol=1e-6
    )
    if technique in (RANDOM, MAGNITUDE):
        assert sos.sparsity_report(sparse).sparsity == 0.75
        assert_same_masks(sparse, trained(technique, weights, budget)[0])


@pytest.mark.slow
@pytest.mark.feature("MirroredStrategy")
@of_gradients
def test_replicas_add_up_the_gradients_of_all(technique, budget, strategy):
    weights = zoo.perceptron().get_weights()
    alone, expected = trained(technique, weights, budget)
    with strategy.scope():
        sparse, losses = trained(technique, weights, budget)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert_same_masks(sparse, alone)
