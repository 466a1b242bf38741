"""Several devices: keras.distribution on JAX, MirroredStrategy on TensorFlow."""

import keras
import numpy as np
import pytest

import state_of_sparsity as sos
from tests.flavour import BACKEND, compiled, from_logits, sites, steps_of, to_numpy

MAGNITUDE = sos.MagnitudePruning(0.75, 1, 4, 1)
RANDOM = sos.RandomPruning(0.75, 1, 4, 1)
VARIATIONAL = sos.VariationalDropout(1e-4)
L0 = sos.L0Regularization(1e-4)


def network():
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="relu", name="hidden"),
            keras.layers.Dense(4, name="logits"),
        ]
    )


def trained(technique, weights=None, budget=None):
    """A sparse model after four steps, and its losses."""
    plain = network()
    if weights is not None:
        plain.set_weights(weights)
    keras.utils.set_random_seed(4)
    sparse = sos.sparsify(plain, technique, budget=budget)
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(16, 6)).astype("float32")
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    compiled(sparse, optimizer, from_logits(), run_eagerly=False)
    history = sparse.fit(
        inputs, rng.integers(0, 4, 16), batch_size=4, epochs=1, verbose=0, shuffle=False
    )
    return sparse, history.history["loss"]


@pytest.fixture
def distribution():
    """Sets a distribution of `keras.distribution`, and takes it away again."""
    if BACKEND != "jax":
        pytest.skip("keras.distribution is JAX's")
    yield keras.distribution.set_distribution
    keras.distribution.set_distribution(None)


@pytest.mark.feature("DataParallel")
@pytest.mark.parametrize(
    ("technique", "budget"),
    [(VARIATIONAL, None), (MAGNITUDE, sos.Global())],
    ids=["variational", "global"],
)
def test_data_parallel_trains_as_one_device_does(technique, budget, distribution):
    weights = network().get_weights()
    alone, expected = trained(technique, weights, budget)
    distribution(keras.distribution.DataParallel(devices=["cpu:0", "cpu:1"]))
    sparse, losses = trained(technique, weights, budget)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    masks, expected_masks = sos.weight_masks(sparse), sos.weight_masks(alone)
    for name in masks:
        np.testing.assert_array_equal(masks[name], expected_masks[name])


@pytest.mark.feature("ModelParallel")
@pytest.mark.parametrize("technique", [MAGNITUDE, L0], ids=["magnitude", "l0"])
def test_model_parallel_shards_masks_as_the_weights(technique, distribution):
    weights = network().get_weights()
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
    assert weight.extra.value.sharding == weight.theta.value.sharding
    stripped = sos.strip(sparse)
    inputs = np.ones((2, 6), "float32")
    np.testing.assert_allclose(
        to_numpy(stripped(inputs)), to_numpy(sparse(inputs)), atol=1e-6
    )


@pytest.fixture
def strategy():
    if BACKEND != "tensorflow":
        pytest.skip("tf.distribute is TensorFlow's")
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice()
    )


@pytest.mark.feature("MirroredStrategy")
@pytest.mark.parametrize("technique", [VARIATIONAL, L0], ids=["variational", "l0"])
def test_replicas_have_the_same_parameters(technique, strategy):
    with strategy.scope():
        sparse, losses = trained(technique)
    assert np.isfinite(losses).all()
    assert steps_of(sparse) == {4}
    for site in sites(sparse):
        for weight in site.layer.sparse_weights:
            first, second = strategy.experimental_local_results(weight.extra._value)
            np.testing.assert_array_equal(first.numpy(), second.numpy())


@pytest.mark.feature("MirroredStrategy")
@pytest.mark.parametrize(
    ("technique", "budget"),
    [(RANDOM, None), (MAGNITUDE, sos.Global())],
    ids=["random", "global"],
)
def test_replicas_prune_as_one_device_does(technique, budget, strategy):
    weights = network().get_weights()
    alone, _ = trained(technique, weights, budget)
    with strategy.scope():
        sparse, _ = trained(technique, weights, budget)
    assert steps_of(sparse) == {4}
    assert sos.sparsity_report(sparse).sparsity == pytest.approx(0.75)
    masks, expected = sos.weight_masks(sparse), sos.weight_masks(alone)
    for name in masks:
        np.testing.assert_array_equal(masks[name], expected[name])
