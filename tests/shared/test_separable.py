"""Variational dropout of separable convolutions: two linear maps, each with noise.

The reference is NumPy's float64. With theta and s2 the mean and the variance of a
weight, h = x * theta_d has the mean m and the variance v = x**2 * s2_d + 1e-8, and the
outputs have the mean h * theta_p and the variance

    theta_p**2 * v + s2_p * (m**2 + v) + 1e-8

where * is the convolution, since the parts are independent.
"""

import numpy as np
import pytest

from tests.flavour import (
    compiled,
    keras,
    outputs_of,
    plain_part,
    sos,
    sparse_layers,
    to_numpy,
)

DRAWS = 4000
KINDS = {
    "SeparableConv1D": (
        lambda: keras.layers.SeparableConv1D(2, 2, dilation_rate=2, use_bias=False),
        (5, 2),
    ),
    "SeparableConv2D": (
        lambda: keras.layers.SeparableConv2D(2, 2, strides=2, depth_multiplier=2),
        (4, 4, 2),
    ),
}
NAMES = ("depthwise_kernel", "pointwise_kernel")

pytestmark = pytest.mark.parametrize(
    "kind",
    [
        pytest.param(
            "SeparableConv1D",
            marks=[
                pytest.mark.feature("SeparableConv1D layers"),
                pytest.mark.any_backend,
            ],
        ),
        pytest.param(
            "SeparableConv2D", marks=pytest.mark.feature("SeparableConv2D layers")
        ),
    ],
)


def make_model(kind):
    make, shape = KINDS[kind]
    x = keras.Input(shape)
    return keras.Model(x, make()(x))


def variational(kind, rng):
    """A sparse model with a positive part of its noise, its layer, and an input."""
    sparse = sos.sparsify(make_model(kind), sos.VariationalDropout(0.0))
    (layer,) = sparse_layers(sparse)
    for theta, extra in variables(layer):
        theta.assign(rng.normal(size=tuple(theta.shape)))
        # Far from the limits of log alpha.
        log_theta2 = np.log(to_numpy(theta) ** 2 + 1e-8)
        extra.assign(log_theta2 + rng.uniform(-2, 1, tuple(theta.shape)))
    x = rng.normal(size=KINDS[kind][1]).astype("float32")
    return sparse, layer, x


def variables(layer):
    return [
        (getattr(layer, name), getattr(layer, name.replace("kernel", "log_sigma2")))
        for name in NAMES
    ]


def values(layer):
    return [[to_numpy(v).astype("float64") for v in pair] for pair in variables(layer)]


def depthwise(layer, x, kernel):
    """`(..., channels)` to `(..., channels * multiplier)`, "valid" padding."""
    rank = kernel.ndim - 2
    steps = layer.strides[:rank], layer.dilation_rate[:rank]
    sizes = [
        (n - d * (k - 1) - 1) // s + 1
        for n, k, s, d in zip(x.shape, kernel.shape, *steps, strict=False)
    ]
    outputs = np.zeros((*sizes, kernel.shape[-2] * kernel.shape[-1]))
    for place in np.ndindex(*sizes):
        window = tuple(
            slice(p * s, p * s + d * (k - 1) + 1, d)
            for p, k, s, d in zip(place, kernel.shape, *steps, strict=False)
        )
        products = x[window][..., None] * kernel
        outputs[place] = products.sum(axis=tuple(range(rank))).reshape(-1)
    return outputs


def moments(layer, x, weights):
    """Mean and variance of each output; see the module."""
    (theta_d, log_d), (theta_p, log_p) = weights
    theta_p, s2_p = (np.reshape(t, t.shape[-2:]) for t in (theta_p, np.exp(log_p)))
    mean = depthwise(layer, x, theta_d)
    variance = depthwise(layer, x**2, np.exp(log_d)) + 1e-8
    return mean @ theta_p, (variance @ theta_p**2 + (mean**2 + variance) @ s2_p + 1e-8)


def test_deployed_outputs_are_those_of_the_reference(kind, rng):
    sparse, layer, x = variational(kind, rng)
    for _, extra in variables(layer):
        extra.assign(to_numpy(extra) + rng.uniform(0, 6, tuple(extra.shape)))
    masked, zeros = [], 0
    for theta, extra in values(layer):
        keep = extra - np.log(theta**2 + 1e-8) < 3.0
        masked.append((theta * keep, np.full(theta.shape, -np.inf)))
        zeros += np.sum(~keep)
    assert 0 < zeros == sum(w.zeros for w in sos.sparsity_report(sparse).layers)
    expected, _ = moments(layer, x.astype("float64"), masked)
    for model in (sparse, sos.strip(sparse)):
        actual = outputs_of(model, x[None])[0]
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.feature("noise: moments equal in both Kerases, all backends")
def test_outputs_have_the_analytic_moments(kind, rng):
    """Equal examples are independent draws, and so are the positions of an example.

    Means are within 6 standard errors, which for at most 8 outputs is a false alarm
    rate below 1e-7. Outputs are products of normals: the standard error of a variance
    is estimated from the fourth moment.
    """
    sparse, layer, x = variational(kind, rng)
    mean, variance = moments(layer, x.astype("float64"), values(layer))
    outputs = outputs_of(sparse, np.stack([x] * DRAWS), training=True)
    deviations = outputs.astype("float64") - mean
    assert np.all(np.abs(deviations.mean(axis=0)) < 6 * np.sqrt(variance / DRAWS))
    squares = deviations**2
    error = squares.std(axis=0) / np.sqrt(DRAWS)
    assert np.all(np.abs(squares.mean(axis=0) - variance) < 6 * error)
    # One filter at two positions.
    flat = (deviations / np.sqrt(variance)).reshape(DRAWS, -1, mean.shape[-1])
    products = flat[:, 0] * flat[:, -1]
    error = products.std(axis=0) / np.sqrt(DRAWS)
    assert np.all(np.abs(products.mean(axis=0)) < 6 * error)


def test_pruning_masks_the_pointwise_kernel_unless_masks_are_given(kind, rng):
    model = make_model(kind)
    inputs = rng.normal(size=(4, *KINDS[kind][1])).astype("float32")
    targets = np.zeros_like(outputs_of(model, inputs))
    gated = sos.sparsify(model, sos.L0Regularization(0.0, initial_log_alpha=0.0))
    for theta in NAMES:
        extra = getattr(sparse_layers(gated)[0], theta.replace("kernel", "log_alpha"))
        extra.assign(np.resize([4.0, -4.0, 4.0], tuple(extra.shape)))
    given = sos.weight_masks(gated)
    assert all(0 < mask.sum() < mask.size for mask in given.values())
    for technique in (sos.MagnitudePruning(0.5, 1, 1, 1), sos.FixedMask(given)):
        sparse = compiled(sos.sparsify(model, technique))
        sparse.fit(inputs, targets, verbose=0, callbacks=sos.callbacks(sparse))
        masks = [sos.weight_masks(sparse)[name] for name in sorted(given)]
        if isinstance(technique, sos.FixedMask):
            expected = [given[name] for name in sorted(given)]
            for mask, other in zip(masks, expected, strict=True):
                np.testing.assert_array_equal(mask, other)
        else:
            depthwise_mask, pointwise_mask = masks
            assert depthwise_mask.all()
            assert pointwise_mask.sum() == pointwise_mask.size // 2
        stripped = plain_part(sos.strip(sparse).layers[-1])
        for name, mask in zip(NAMES, masks, strict=True):
            assert not to_numpy(getattr(stripped, name))[~mask].any()
        np.testing.assert_allclose(
            outputs_of(sos.strip(sparse), inputs), outputs_of(sparse, inputs), atol=1e-5
        )
