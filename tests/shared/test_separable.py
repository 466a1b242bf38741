"""Variational dropout of separable convolutions: two linear maps, each with noise.

With theta and s2 the mean and the variance of a weight, h = x * theta_d has the mean m
and the variance v = x**2 * s2_d + 1e-8, and the outputs have the mean h * theta_p and
the variance

    theta_p**2 * v + s2_p * (m**2 + v) + 1e-8

where * is the convolution, since the parts are independent.
"""

import numpy as np
import pytest

from tests.flavour import (
    compiled,
    fit,
    keras,
    outputs_of,
    plain_part,
    sos,
    sparse_layers,
    to_numpy,
)

DRAWS = 4000
SHAPE = (4, 4, 2)
ARGUMENTS = {"kernel_size": 2, "strides": 2, "depth_multiplier": 2, "use_bias": False}
NAMES = ("depthwise_kernel", "pointwise_kernel")

pytestmark = pytest.mark.feature("SeparableConv2D layers")


def separable():
    layer = keras.layers.SeparableConv2D(filters=2, name="separable", **ARGUMENTS)
    return keras.Sequential([keras.Input(SHAPE), layer])


def moments(x, means, variances):
    """Mean and variance of each output; the depthwise map is Keras's own."""
    depthwise = keras.layers.DepthwiseConv2D(**ARGUMENTS)
    depthwise.build((None, *SHAPE))

    def mapped(inputs, kernel):
        depthwise.set_weights([kernel])
        return outputs_of(depthwise, inputs[None])[0].astype("float64")

    mean, variance = mapped(x, means[0]), mapped(x**2, variances[0]) + 1e-8
    theta, s2 = means[1][0, 0], variances[1][0, 0]
    return mean @ theta, variance @ theta**2 + (mean**2 + variance) @ s2 + 1e-8


@pytest.mark.any_backend
@pytest.mark.feature("noise: moments equal in both Kerases, all backends")
def test_outputs_have_the_analytic_moments(rng):
    """Equal examples are independent draws, and so are the positions of an example.

    Means are within 6 standard errors, which for at most 8 outputs is a false alarm
    rate below 1e-7. Outputs are products of normals: the standard error of a variance
    is estimated from the fourth moment.
    """
    sparse = sos.sparsify(separable(), sos.VariationalDropout(0.0))
    (layer,), means, variances = sparse_layers(sparse), [], []
    for name in NAMES:
        theta = getattr(layer, name)
        means.append(rng.normal(size=tuple(theta.shape)))
        # Far from the limits of log alpha.
        log_alpha = rng.uniform(-2, 1, theta.shape)
        variances.append(np.exp(log_alpha) * (means[-1] ** 2 + 1e-8))
        theta.assign(means[-1])
        extra = getattr(layer, name.replace("kernel", "log_sigma2"))
        extra.assign(np.log(variances[-1]))
    x = rng.normal(size=SHAPE).astype("float32")
    mean, variance = moments(x, means, variances)
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


def test_masks_of_both_kernels_may_be_given(rng):
    """Pruning by itself leaves the depthwise kernel dense."""
    inputs = rng.normal(size=(4, *SHAPE)).astype("float32")
    shapes = {f"separable/{n}": w.shape for n, w in kernels(separable())}
    masks = {name: rng.random(tuple(shape)) < 0.5 for name, shape in shapes.items()}
    sparse = compiled(sos.sparsify(separable(), sos.FixedMask(masks)))
    fit(sparse, inputs, np.ones_like(outputs_of(sparse, inputs)))
    stripped = sos.strip(sparse)
    for name, kernel in kernels(stripped):
        mask = masks[f"separable/{name}"]
        np.testing.assert_array_equal(
            sos.weight_masks(sparse)[f"separable/{name}"], mask
        )
        np.testing.assert_array_equal(to_numpy(kernel) != 0, mask)
    np.testing.assert_allclose(
        outputs_of(stripped, inputs), outputs_of(sparse, inputs), atol=1e-5
    )


def kernels(model):
    return [(name, getattr(plain_part(model.layers[-1]), name)) for name in NAMES]
