"""Layers that set activations or weights to zero, beside NumPy in float64.

What is drawn is compared with closed forms, by Hoeffding's bound: a comparison fails
by chance with a probability of 1e-8, and no test makes more than 72 of them.
"""

import math

import numpy as np
import pytest

from state_of_sparsity import layers
from tests.autodiff import gradient
from tests.flavour import compiled, fit, keras, outputs_of, sos, to_numpy

pytestmark = pytest.mark.feature("layers: k winners, DropConnect, DropBlock")


def bound(width, draws):
    """How far the mean of draws from a range of some width may be off."""
    return width * math.sqrt(math.log(2 / 1e-8) / (2 * draws))


@pytest.mark.any_backend
@pytest.mark.parametrize("axis", [-1, 1, None])
@pytest.mark.parametrize("decimals", [7, 0], ids=["different", "equal ones"])
def test_exactly_k_units_win_and_get_the_gradient(axis, decimals, rng):
    inputs = np.round(rng.normal(size=(5, 4, 3, 7)), decimals).astype("float32")
    units = inputs.reshape(5, -1) if axis is None else np.moveaxis(inputs, axis, -1)
    winners = round(0.3 * units.shape[-1])
    order = np.argsort(-units.astype("float64"), axis=-1, kind="stable")
    wins = np.zeros(units.shape)
    np.put_along_axis(wins, order[..., :winners], 1, axis=-1)
    wins = np.moveaxis(wins, -1, -1 if axis is None else axis).reshape(inputs.shape)
    layer = layers.KWinners(0.3, axis)
    np.testing.assert_array_equal(to_numpy(layer(inputs)), inputs * wins)
    np.testing.assert_array_equal(gradient(layer, inputs)[0], wins)


@pytest.mark.any_backend
@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_drop_connect_has_the_mean_and_the_variance_of_its_formula(kind, rng):
    """Units with the same weights, each with draws of its own."""
    rate, draws = 0.4, 30_000
    if kind == "dense":
        layer, shape = layers.DropConnectDense(draws, rate=rate, seed=3), (4,)
    else:
        layer, shape = layers.DropConnectConv2D(draws, 2, rate=rate), (2, 2, 1)
    layer.build((None, *shape))
    inputs, weights = rng.uniform(0.5, 1.5, (2, *shape))
    layer.kernel.assign(np.repeat(weights[..., None], draws, axis=-1))
    batch = np.stack([inputs, inputs]).astype("float32")
    outputs = to_numpy(layer(batch, training=True)).reshape(2, draws).astype("float64")
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-5)
    products = (inputs * weights).ravel()
    mean, most = products.sum(), products.sum() / (1 - rate)
    variance = np.square(products).sum() * rate / (1 - rate)
    assert abs(outputs[0].mean() - mean) < bound(most, draws)
    squares = np.square(outputs[0] - mean)
    assert abs(squares.mean() - variance) < bound(max(mean, most - mean) ** 2, draws)
    again = to_numpy(layer(batch, training=True)).reshape(2, draws)
    assert not np.allclose(again, outputs)
    np.testing.assert_allclose(outputs_of(layer, batch).mean(), mean, rtol=1e-5)


@pytest.mark.any_backend
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("block_size", [2, 3, 9])
def test_drop_block_drops_whole_blocks_as_often_as_its_formula(block_size, data_format):
    sizes, examples, channels, rate = (9, 8), 100, 100, 0.3
    layer = layers.DropBlock2D(rate, block_size, data_format, seed=5)
    last = data_format == "channels_last"
    images = (examples, *sizes, channels) if last else (examples, channels, *sizes)
    outputs = to_numpy(layer(np.ones(images, "float32"), training=True))
    outputs = outputs if last else np.moveaxis(outputs, 1, -1)
    kept = outputs > 0
    np.testing.assert_allclose(outputs[kept], kept.size / kept.sum(), rtol=1e-5)
    blocks = [min(block_size, n) for n in sizes]
    places = [n - b + 1 for n, b in zip(sizes, blocks, strict=True)]
    # How many blocks cover each position.
    covers = [
        np.convolve(np.ones(p), np.ones(b)) for p, b in zip(places, blocks, strict=True)
    ]
    gamma = rate / np.prod(blocks) * np.prod(sizes) / np.prod(places)
    expected = (1 - gamma) ** np.outer(*covers)
    apart = np.abs(kept.mean(axis=(0, 3)) - expected)
    assert apart.max() < bound(1, examples * channels)
    windows = np.lib.stride_tricks.sliding_window_view(~kept, blocks, axis=(1, 2))
    empty, dropped = windows.all(axis=(-2, -1)), np.zeros_like(kept)
    for i, j in np.ndindex(*blocks):
        dropped[:, i : i + places[0], j : j + places[1]] |= empty
    np.testing.assert_array_equal(dropped, ~kept)
    images = np.ones((1, 3, 3, 3), "float32")
    np.testing.assert_array_equal(outputs_of(layer, images), images)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_model_of_them_is_pruned_trained_stripped_and_saved(policy, rng, tmp_path):
    keras.config.set_dtype_policy(policy)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.DropConnectConv2D(4, 3, rate=0.2, activation="relu"),
            layers.DropBlock2D(0.3, 2, seed=2),
            keras.layers.Flatten(),
            layers.KWinners(0.25),
            layers.DropConnectDense(3, rate=0.5, seed=4),
        ]
    )
    technique = sos.MagnitudePruning(0.5, begin_step=0, end_step=2, frequency=1)
    sparse = compiled(sos.sparsify(model, technique))
    images = rng.normal(size=(12, 6, 6, 2)).astype("float32")
    losses = fit(sparse, images, rng.normal(size=(12, 3)).astype("float32"))
    assert np.isfinite(losses).all()
    assert sos.sparsity_report(sparse).sparsity == 0.5
    plain = sos.strip(sparse)
    assert sos.activation_sparsity(plain, images).layers[3].sparsity >= 0.75
    plain.save(tmp_path / "plain.keras")
    keras.config.set_dtype_policy("float32")
    loaded = keras.saving.load_model(tmp_path / "plain.keras")
    for one, other in zip(plain.layers, loaded.layers, strict=True):
        assert type(one) is type(other)
        assert one.get_config() == other.get_config()
        assert one.compute_dtype == other.compute_dtype
    found = [outputs_of(each, images) for each in (sparse, plain, loaded)]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[1], found[2])


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.KWinners(0.0), "density must be above 0. Received: 0.0"),
        (lambda: layers.KWinners(1.0), "density must be below 1. Received: 1.0"),
        (lambda: layers.KWinners(0.5, axis=0), r"axis must be .* Received: 0"),
        (lambda: layers.KWinners(0.5, axis="c"), r"axis must be .* Received: 'c'"),
        (
            lambda: layers.KWinners(0.5, axis=None)(keras.Input((None, 3))),
            r"fixed number .*axis=None.*Received: input_shape=\(None, None, 3\)",
        ),
        (
            lambda: layers.KWinners(0.5, axis=3)(keras.Input((4, 3))),
            r"fixed number .*axis=3.*Received: input_shape=\(None, 4, 3\)",
        ),
        (lambda: layers.DropConnectDense(3, rate=1.0), "rate must be below 1"),
        (lambda: layers.DropConnectConv2D(3, 3, rate=-1), "rate must be at least 0"),
        (lambda: layers.DropBlock2D(1.0, 3), "rate must be below 1. Received: 1.0"),
        (lambda: layers.DropBlock2D(0.1, 0), "block_size must be at least 1"),
        (lambda: layers.DropBlock2D(0.1, 2, "first"), "data_format.*first"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
