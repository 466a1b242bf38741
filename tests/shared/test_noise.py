"""Noise: on what it depends, on what it does not, and its distribution.

Bounds on statistics are six standard errors of a normal distribution, which is passed
by chance once in 5e8; where several numbers are compared, that times their number.
Seeds are fixed all the same.
"""

import numpy as np
import pytest

from tests.flavour import (
    compiled,
    fit,
    keras,
    outputs_of,
    sites,
    sos,
    sparse_layers,
    to_numpy,
)
from tests.shared import zoo

SIGMAS = 6
pytestmark = pytest.mark.feature(
    "noise: new each step, use, layer; the same for a seed"
)


def identity(*names, technique=None, size=40, calls=1, seed=1):
    """Layers whose outputs, on ones, are their noise: theta 0, log sigma2 0."""
    keras.utils.set_random_seed(seed)
    x = keras.Input((size,))
    y = []
    for name in names:
        layer = keras.layers.EinsumDense("ab,b->ab", size, name=name)
        y += [layer(x) for _ in range(calls)]
    technique = technique or sos.VariationalDropout(1.0, clip_log_alpha=30.0)
    sparse = sos.sparsify(keras.Model(x, y), technique)
    for layer in sparse_layers(sparse):
        layer.kernel.assign(np.zeros(size))
        layer.log_sigma2.assign(np.zeros(size))
    return sparse


def drawn(model, examples=50):
    """The noise of each output in a training step."""
    size = model.input_shape[-1]
    outputs = model(np.ones((examples, size), "float32"), training=True)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    return [to_numpy(output).astype("float64") for output in outputs]


def assert_independent(one, other):
    """Standard normal numbers: products have mean 0 and variance 1."""
    bound = SIGMAS / np.sqrt(one.size)
    assert abs(np.mean(one * other)) < bound
    # And neither is a shift of the other.
    assert abs(np.mean(one.ravel()[1:] * other.ravel()[:-1])) < bound


def test_noise_differs_between_steps():
    model = identity("a")
    (first,), (second,) = drawn(model), drawn(model)
    assert_independent(first, second)


def test_noise_differs_between_layers():
    first, second = drawn(identity("a", "b"))
    assert_independent(first, second)


def test_noise_differs_between_two_uses_of_a_layer_in_a_step():
    first, second = drawn(identity("a", calls=2))
    assert_independent(first, second)


def test_noise_differs_between_examples_and_between_outputs():
    (noise,) = drawn(identity("a"))
    assert_independent(noise[1:], noise[:-1])
    assert_independent(noise[:, 1:].copy(), noise[:, :-1].copy())


def test_noise_differs_between_seeds():
    (first,), (second,) = drawn(identity("a")), drawn(identity("a", seed=2))
    assert_independent(first, second)


def test_the_same_seed_and_step_give_the_same_noise():
    one, other = identity("a", "b"), identity("a", "b")
    for _ in range(2):
        for first, second in zip(drawn(one), drawn(other), strict=True):
            np.testing.assert_array_equal(first, second)


def test_going_back_a_step_gives_its_noise_again():
    model = identity("a")
    drawn(model)
    (second,) = drawn(model)
    (layer,) = sparse_layers(model)
    layer.training_step.assign(1)
    np.testing.assert_array_equal(drawn(model)[0], second)


def test_inference_has_no_noise_and_moves_none():
    technique = sos.VariationalDropout(1.0, initial_log_sigma2=-2.0)
    model = sos.sparsify(zoo.perceptron(), technique)
    inputs = np.ones((4, zoo.FEATURES), "float32")
    np.testing.assert_array_equal(outputs_of(model, inputs), outputs_of(model, inputs))
    assert {int(to_numpy(x.training_step)) for x in sparse_layers(model)} == {0}


def test_gates_are_drawn_once_for_a_batch():
    keras.utils.set_random_seed(1)
    sparse = sos.sparsify(zoo.perceptron(), sos.L0Regularization(1.0))
    inputs = np.ones((5, zoo.FEATURES), "float32")
    outputs = outputs_of(sparse, inputs, training=True)
    np.testing.assert_allclose(outputs, np.tile(outputs[:1], (5, 1)), rtol=1e-5)


def test_each_weight_has_a_gate_of_its_own():
    """So the share that is closed is sigmoid(beta log(-gamma / zeta) - log alpha)."""
    keras.utils.set_random_seed(1)
    size = 40_000
    x = keras.Input((size,))
    model = keras.Model(x, keras.layers.EinsumDense("ab,b->ab", size)(x))
    sparse = sos.sparsify(model, sos.L0Regularization(1.0))
    (layer,) = sparse_layers(sparse)
    layer.kernel.assign(np.ones(size))
    layer.log_alpha.assign(np.full(size, -0.5))
    gates = outputs_of(sparse, np.ones((1, size), "float32"), training=True)
    expected = 1 / (1 + np.exp(-0.5 - 2 / 3 * np.log(0.1 / 1.1)))
    error = np.sqrt(expected * (1 - expected) / size)
    assert abs((gates == 0).mean() - expected) < SIGMAS * error


LINEAR_MAPS = {
    "Dense": (lambda: keras.layers.Dense(3), (5,)),
    "Conv2D": (lambda: keras.layers.Conv2D(2, 2, padding="same"), (3, 3, 2)),
    "Conv2D strided": (lambda: keras.layers.Conv2D(2, 2, strides=2), (4, 4, 2)),
    "DepthwiseConv1D": (lambda: keras.layers.DepthwiseConv1D(2), (4, 2)),
    "Conv1DTranspose": (lambda: keras.layers.Conv1DTranspose(2, 2), (3, 2)),
    "EinsumDense": (
        lambda: keras.layers.EinsumDense("abc,cde->abde", (None, 2, 2), bias_axes="de"),
        (2, 3),
    ),
}


QUICK = ("Dense", "Conv2D strided")


@pytest.mark.feature("noise: moments equal in both Kerases, all backends")
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.any_backend] * (kind not in QUICK))
        for kind in LINEAR_MAPS
    ],
)
def test_outputs_have_the_mean_and_variance_of_the_linear_map(kind, rng):
    """Mean `x theta + bias`, variance `x^2 sigma^2`, by the plain layer itself.

    Over 3,000 equal examples, whose outputs are independent normal numbers.
    """
    make, shape = LINEAR_MAPS[kind]
    examples = 3000
    x = keras.Input(shape)
    model = keras.Model(x, make()(x))
    sparse = sos.sparsify(model, sos.VariationalDropout(1.0))
    (layer,) = sparse_layers(sparse)
    (variable,) = sites(sparse)[0].weights.values()
    theta = rng.normal(size=tuple(variable.shape))
    log_sigma2 = rng.normal(-2, 1, theta.shape)
    bias = rng.normal(size=tuple(layer.bias.shape))
    plain = model.layers[-1]
    one = rng.normal(size=(1, *shape)).astype("float32")
    values = [variable for variable in plain.weights]
    values[0].assign(theta)
    values[1].assign(bias)
    mean = outputs_of(model, one).astype("float64")
    sigma2 = np.exp(np.clip(log_sigma2 - np.log(theta**2 + 1e-8), -8, 8)) * (
        theta**2 + 1e-8
    )
    values[0].assign(sigma2)
    values[1].assign(np.zeros_like(bias))
    variance = outputs_of(model, one**2).astype("float64")
    variable.assign(theta)
    layer.log_sigma2.assign(log_sigma2)
    layer.bias.assign(bias)
    outputs = outputs_of(
        sparse, np.tile(one, (examples, *[1] * len(shape))), training=True
    )
    outputs = outputs.astype("float64")
    error = np.sqrt(variance[0] / examples)
    assert np.all(np.abs(outputs.mean(axis=0) - mean[0]) < SIGMAS * error + 1e-4)
    ratio = outputs.var(axis=0) / (variance[0] + 1e-8)
    assert np.all(np.abs(ratio - 1) < SIGMAS * np.sqrt(2 / examples))


def test_noise_of_an_embedding_is_drawn_for_each_row_that_is_looked_up():
    keras.utils.set_random_seed(1)
    x = keras.Input((200,), dtype="int32")
    model = keras.Model(x, keras.layers.Embedding(5, 40)(x))
    technique = sos.VariationalDropout(1.0, clip_log_alpha=30.0)
    sparse = sos.sparsify(model, technique)
    (layer,) = sparse_layers(sparse)
    layer.embeddings.assign(np.zeros((5, 40)))
    layer.log_sigma2.assign(np.zeros((5, 40)))
    rows = outputs_of(sparse, np.full((1, 200), 3), training=True)[0].astype("float64")
    assert_independent(rows[1:].copy(), rows[:-1].copy())
    assert abs(rows.var() - 1) < SIGMAS * np.sqrt(2 / rows.size)


def test_noise_reaches_the_gradients_of_both_parameters(rng):
    sparse = compiled(
        sos.sparsify(
            zoo.perceptron(), sos.VariationalDropout(0.0, initial_log_sigma2=-2.0)
        )
    )
    before = [to_numpy(v).copy() for v in sparse.trainable_variables]
    fit(sparse, *zoo.data(rng))
    for variable, value in zip(sparse.trainable_variables, before, strict=True):
        assert np.any(to_numpy(variable) != value), variable.path
