"""Along a sequence, variational dropout shares the noise of a dense map (or not).

Bounds on statistics are six standard errors, beyond which a normal number is once in
5e8; each test compares at most 200 numbers, and so fails by chance less than once in
2e6 runs. Seeds are fixed all the same.
"""

import numpy as np
import pytest

from state_of_sparsity.engines.linear_maps import sequence_axes
from tests.flavour import (
    compiled,
    fit,
    keras,
    outputs_of,
    plain_part,
    sites,
    sos,
    sparse_layers,
    to_numpy,
)

SIGMAS = 6
EXAMPLES, LENGTH, INPUTS = 4000, 4, 5
pytestmark = pytest.mark.feature(
    "variational dropout: one noise for all positions of a sequence"
)

# Layers with three outputs at each of the four positions.
DENSE = {
    "Dense": lambda: keras.layers.Dense(3),
    "EinsumDense": lambda: keras.layers.EinsumDense(
        "abc,cd->abd", (None, 3), bias_axes="d"
    ),
}
# Layers, shape of an input, and hyperparameters; places of an image are no sequence.
SEQUENCE, EACH = (LENGTH, INPUTS), {"shared_positions": False}
INDEPENDENT = {
    "Dense": (DENSE["Dense"], SEQUENCE, EACH),
    "EinsumDense": (DENSE["EinsumDense"], SEQUENCE, EACH),
    "Conv1D": (lambda: keras.layers.Conv1D(3, 2, padding="same"), SEQUENCE, {}),
    "DepthwiseConv1D": (
        lambda: keras.layers.DepthwiseConv1D(1, padding="same"),
        SEQUENCE,
        {},
    ),
    "image": (DENSE["Dense"], (2, 2, INPUTS), {}),
}


def sparse_layer(make, rng, shape=(LENGTH, INPUTS), **hyperparameters):
    """A model of one layer with random parameters, and these."""
    keras.utils.set_random_seed(2)
    x = keras.Input(shape)
    technique = sos.VariationalDropout(0.0, **hyperparameters)
    model = sos.sparsify(keras.Model(x, make()(x)), technique)
    (layer,) = sparse_layers(model)
    ((name, variable),) = next(iter(sites(model))).weights.items()
    size = tuple(variable.shape)
    theta = rng.normal(size=size).astype("float32")
    log_sigma2 = rng.normal(-2, 1, size).astype("float32")
    getattr(plain_part(layer), name).assign(theta)
    layer.log_sigma2.assign(log_sigma2)
    return model, theta.astype("float64"), log_sigma2.astype("float64")


def drawn(model, one):
    """Outputs in training for one example that is repeated, in float64."""
    many = np.tile(one, (EXAMPLES, *[1] * (one.ndim - 1)))
    return outputs_of(model, many, training=True).astype("float64")


def moments(theta, log_sigma2, one):
    """Mean and variance of the outputs at each position, by the formula."""
    log_square = np.log(theta**2 + 1e-8)
    sigma2 = np.exp(np.clip(log_sigma2 - log_square, -8, 8) + log_square)
    return one[0] @ theta, one[0] ** 2 @ sigma2 + 1e-8


@pytest.mark.parametrize("kind", DENSE)
def test_all_positions_share_one_number_per_example_and_unit(kind, rng):
    model, *parameters = sparse_layer(DENSE[kind], rng)
    one = rng.normal(size=(1, LENGTH, INPUTS)).astype("float32")
    mean, variance = moments(*parameters, one)
    noise = (drawn(model, one) - mean) / np.sqrt(variance)
    # Up to the rounding of outputs near their means.
    np.testing.assert_allclose(
        noise, np.broadcast_to(noise[:, :1], noise.shape), rtol=0, atol=1e-3
    )
    check_independent(noise[1:, 0], noise[:-1, 0])
    check_independent(noise[:, 0, 1:], noise[:, 0, :-1])


def check_independent(one, other):
    """The product of two standard normal numbers has mean 0 and variance 1."""
    assert abs(np.mean(one * other)) < SIGMAS / np.sqrt(one.size)


@pytest.mark.parametrize("kind", INDEPENDENT)
def test_elsewhere_positions_are_independent(kind, rng):
    make, shape, hyperparameters = INDEPENDENT[kind]
    model, *_ = sparse_layer(make, rng, shape, **hyperparameters)
    outputs = drawn(model, rng.normal(size=(1, *shape)).astype("float32"))
    noise = (outputs - outputs.mean(axis=0)) / outputs.std(axis=0)
    check_independent(noise[:, 1:], noise[:, :-1])
    check_independent(noise[..., 1:, :], noise[..., :-1, :])


def test_heads_of_attention_share_no_noise(rng):
    """The projections of attention make units of several axes from one."""
    model, theta, log_sigma2 = sparse_layer(
        lambda: keras.layers.EinsumDense("abc,cde->abde", (None, 2, 3)), rng
    )
    one = rng.normal(size=(1, LENGTH, INPUTS)).astype("float32")
    flat = (theta.reshape(INPUTS, 6), log_sigma2.reshape(INPUTS, 6))
    mean, variance = moments(*flat, one)
    outputs = drawn(model, one).reshape(EXAMPLES, LENGTH, 6)
    noise = (outputs - mean) / np.sqrt(variance)
    np.testing.assert_allclose(
        noise, np.broadcast_to(noise[:, :1], noise.shape), rtol=0, atol=1e-3
    )
    check_independent(noise[:, 0, :3], noise[:, 0, 3:])


@pytest.mark.parametrize(
    ("equation", "rank", "axes"),
    [
        ("...a,ab->...b", 2, ()),
        ("...a,ab->...b", 3, (1,)),
        ("...a,ab->...b", 4, ()),
        ("abc,cd->abd", 3, (1,)),
        ("abc,cde->abde", 3, (1,)),
        ("abcd,cde->abe", 4, (1,)),
        ("abcd,de->abce", 4, ()),
        ("abc,cd->adb", 3, (2,)),
        # With another kernel at each position, there is nothing to share.
        ("abc,bcd->abd", 3, ()),
        ("ab,bc->ac", 2, ()),
    ],
)
def test_the_axis_of_a_sequence_is_the_one_along_which_a_kernel_is_used_again(
    equation, rank, axes
):
    assert sequence_axes(equation, rank) == axes


@pytest.mark.any_backend
def test_a_model_trains_on_sequences_of_any_length(rng):
    keras.utils.set_random_seed(2)
    model = keras.Sequential([keras.Input((None, INPUTS)), keras.layers.Dense(3)])
    technique = sos.VariationalDropout(1e-3, initial_log_sigma2=-2.0)
    sparse = compiled(sos.sparsify(model, technique))
    for length in (2, 4):
        inputs = rng.normal(size=(8, length, INPUTS)).astype("float32")
        losses = fit(sparse, inputs, np.zeros((8, length, 3), "float32"))
        assert np.isfinite(losses).all()


def test_the_field_is_kept_with_a_saved_model(rng, tmp_path):
    model, *_ = sparse_layer(DENSE["Dense"], rng, shared_positions=False)
    model.save(tmp_path / "model.keras")
    (layer,) = sparse_layers(keras.models.load_model(tmp_path / "model.keras"))
    assert layer.technique.shared_positions is False
    assert np.any(to_numpy(layer.log_sigma2))


def test_a_value_that_is_no_boolean_is_an_error_which_names_the_field():
    with pytest.raises(
        TypeError, match=r"shared_positions must be True or False.*'no'"
    ):
        sos.VariationalDropout(0.0, shared_positions="no")
