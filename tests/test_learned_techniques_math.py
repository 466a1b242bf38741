"""The mathematics of variational dropout and L0 gates against NumPy in float64."""

import operator

import keras
import numpy as np
import pytest
import scipy.integrate
import scipy.special
from keras import ops

from state_of_sparsity import ramps
from state_of_sparsity.techniques import l0, variational_dropout
from tests.autodiff import gradient, quick

GATE = {"beta": 2 / 3, "gamma": -0.1, "zeta": 1.1}
# JAX has no float64 unless told.
FULL = ["float32"] if keras.backend.backend() == "jax" else ["float32", "float64"]
HALVES = ["float16", "bfloat16"]


def reference_kl(log_alpha):
    k1, k2, k3 = 0.63576, 1.8732, 1.48695
    sigmoid = scipy.special.expit(k2 + k3 * log_alpha)
    return -(k1 * sigmoid - 0.5 * np.logaddexp(0, -log_alpha) - k1)


def reference_gate(log_alpha, u, beta, gamma, zeta):
    s = scipy.special.expit((np.log(u) - np.log1p(-u) + log_alpha) / beta)
    return np.clip(s * (zeta - gamma) + gamma, 0, 1)


def tensors(arrays, dtype):
    return [ops.convert_to_tensor(array, dtype) for array in arrays]


def exactly(tensor):
    """What a tensor holds, in float64."""
    return ops.convert_to_numpy(ops.cast(tensor, "float32")).astype("float64")


def numeric_gradient(function, x):
    """Of a function of each element: central differences of the fourth order."""
    step = 1e-3 * np.maximum(np.abs(x), 1e-3)
    near, far = (function(x + k * step) - function(x - k * step) for k in (1, 2))
    return (8 * near - far) / (12 * step)


def log_square(theta):
    return np.log(theta**2 + 1e-8)


def reference_clipped(theta, log_sigma2):
    return np.clip(log_sigma2 - log_square(theta), -8, 8) + log_square(theta)


def away_from(values, *kinks):
    """Without those near which central differences straddle a kink."""
    distance = np.min([np.abs(values - kink) for kink in kinks], axis=0)
    return values[distance > 0.02]


RNG = np.random.default_rng(0)
THETA = away_from(RNG.normal(size=300), 0.0)[:200]
LOG_SIGMA2 = RNG.uniform(-30, 20, 200)
KINKS = np.abs(np.abs(LOG_SIGMA2 - log_square(THETA)) - 8) > 0.1
UNIFORM = RNG.uniform(0.1, 0.9, 200)
LOG_ALPHA = away_from(RNG.uniform(-8, 8, 210), -np.log(11), np.log(11))[:200]
LOGITS = (np.log(UNIFORM / (1 - UNIFORM)) + LOG_ALPHA) / GATE["beta"]
# Where the sampled gate is neither close to 0 nor to 1, or well beyond.
OPEN = np.abs(np.abs(LOGITS) - np.log(11)) > 0.1
VARIANCE = RNG.uniform(0.01, 4, 200)

# The function, its reference in NumPy, and the arguments.
FUNCTIONS = {
    "log_alpha": (
        variational_dropout.log_alpha,
        lambda theta, log_sigma2: log_sigma2 - log_square(theta),
        (THETA, LOG_SIGMA2),
    ),
    "log_sigma2": (
        variational_dropout.log_sigma2,
        lambda theta, log_alpha: log_alpha + log_square(theta),
        (THETA, LOG_ALPHA),
    ),
    "clipped_log_sigma2": (
        lambda theta, x: variational_dropout.clipped_log_sigma2(theta, x, 8.0),
        reference_clipped,
        (THETA[KINKS], LOG_SIGMA2[KINKS]),
    ),
    "kl_divergence": (
        variational_dropout.kl_divergence,
        reference_kl,
        (np.linspace(-10, 10, 101),),
    ),
    "noisy_output": (
        variational_dropout.noisy_output,
        lambda mean, variance, noise: mean + np.sqrt(variance + 1e-8) * noise,
        (THETA, VARIANCE, RNG.normal(size=200)),
    ),
    "sampled_gate": (
        lambda log_alpha, u: l0.sampled_gate(log_alpha, u, **GATE),
        lambda log_alpha, u: reference_gate(log_alpha, u, **GATE),
        (LOG_ALPHA[OPEN], UNIFORM[OPEN]),
    ),
    "deployed_gate": (
        lambda log_alpha: l0.deployed_gate(log_alpha, -0.1, 1.1),
        lambda x: np.clip(scipy.special.expit(x) * 1.2 - 0.1, 0, 1),
        (LOG_ALPHA,),
    ),
    "expected_l0": (
        lambda log_alpha: l0.expected_l0(log_alpha, **GATE),
        lambda x: scipy.special.expit(x - 2 / 3 * np.log(0.1 / 1.1)),
        (LOG_ALPHA,),
    ),
}


# Those that add nothing of either sign hold what is asked for near zero, too.
SUMS_OF_ONE_SIGN = ("kl_divergence", "expected_l0")


@pytest.mark.parametrize("dtype", FULL)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_gradients_are_those_of_the_formula(name, dtype):
    function, reference, arguments = FUNCTIONS[name]
    given = [argument.astype(dtype) for argument in arguments]
    # What float32 rounds its inputs to is what the reference gets.
    exact = [argument.astype("float64") for argument in given]
    # Terms of size 1 to 50 that cancel leave the rounding errors of their size.
    relative, absolute = (1e-5, 1e-5) if dtype == "float32" else (1e-6, 1e-9)
    values = ops.convert_to_numpy(quick(function)(*tensors(given, dtype)))
    assert values.dtype == dtype
    of_values = 0.0 if name in SUMS_OF_ONE_SIGN else absolute
    np.testing.assert_allclose(values, reference(*exact), relative, of_values)
    slopes = gradient(function, *tensors(given, dtype))
    for position, slope in enumerate(slopes):

        def along(x, position=position):
            return reference(*exact[:position], x, *exact[position + 1 :])

        expected = numeric_gradient(along, exact[position])
        np.testing.assert_allclose(slope, expected, relative, absolute)


def noisy_map(inputs, theta, log_sigma2, noise):
    """Local reparameterization of a matrix product, noise given."""
    # Not of `ops`, which computes float64 in float32 on PyTorch.
    clipped = variational_dropout.clipped_log_sigma2(theta, log_sigma2, 8.0)
    variance = variational_dropout.output_variance(
        operator.matmul, inputs, ops.exp(clipped)
    )
    return variational_dropout.noisy_output(inputs @ theta, variance, noise)


def reference_noisy_map(inputs, theta, log_sigma2, noise):
    sigma2 = np.exp(reference_clipped(theta, log_sigma2))
    return inputs @ theta + np.sqrt(inputs**2 @ sigma2 + 1e-8) * noise


def gated_map(inputs, theta, log_alpha, uniform):
    return inputs @ (theta * l0.sampled_gate(log_alpha, uniform, **GATE))


def reference_gated_map(inputs, theta, log_alpha, uniform):
    return inputs @ (theta * reference_gate(log_alpha, uniform, **GATE))


@pytest.mark.parametrize("dtype", FULL)
@pytest.mark.parametrize(
    ("function", "reference", "noise"),
    [
        (noisy_map, reference_noisy_map, RNG.normal(size=(4, 3))),
        (gated_map, reference_gated_map, RNG.uniform(0.4, 0.6, (5, 3))),
    ],
    ids=["variational_dropout", "l0_regularization"],
)
def test_a_linear_map_with_noise_is_that_of_the_formula(
    function, reference, noise, dtype
):
    matrices = [np.random.default_rng(1).normal(size=s) for s in ((4, 5), (5, 3))]
    extra = np.random.default_rng(2).uniform(-1, 1, (5, 3))
    given = [argument.astype(dtype) for argument in (*matrices, extra, noise)]
    exact = [argument.astype("float64") for argument in given]
    relative, absolute = (1e-5, 1e-5) if dtype == "float32" else (1e-6, 1e-9)
    values = ops.convert_to_numpy(quick(function)(*tensors(given, dtype)))
    np.testing.assert_allclose(values, reference(*exact), relative, absolute)
    for position, slope in enumerate(gradient(function, *tensors(given, dtype))):
        expected = np.empty(slope.shape)
        for place in np.ndindex(slope.shape):

            def along(x, position=position, place=place):
                moved = exact[position].copy()
                moved[place] = x
                others = exact[:position], exact[position + 1 :]
                return reference(*others[0], moved, *others[1]).sum()

            expected[place] = numeric_gradient(along, exact[position][place])
        np.testing.assert_allclose(slope, expected, relative, absolute)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_half_precision_inputs_are_computed_in_float32(name, dtype):
    function, reference, arguments = FUNCTIONS[name]
    given = tensors(arguments, dtype)
    values = exactly(quick(function)(*given))
    tolerance = 2e-2 if name == "noisy_output" else 1e-5
    np.testing.assert_allclose(
        values, reference(*map(exactly, given)), rtol=tolerance, atol=tolerance
    )


def test_variance_of_large_half_precision_inputs_is_that_of_the_formula():
    variance = variational_dropout.output_variance(
        lambda x, w: ops.matmul(x, ops.cast(w, x.dtype)),
        ops.full((2, 5), 3000.0, "float16"),
        ops.full((5, 3), 0.5),
    )
    np.testing.assert_allclose(
        exactly(variance), np.full((2, 3), 5 * 3000.0**2 / 2), rtol=1e-2
    )


def test_kl_divergence_is_not_negative_and_tends_to_zero():
    log_alpha = np.linspace(-50, 50, 1001).astype("float32")
    values = exactly(variational_dropout.kl_divergence(log_alpha))
    assert (values >= 0).all()
    assert (np.diff(values) <= 0).all()
    assert values[-1] < 1e-20


@pytest.mark.parametrize("dtype", ["float32", *HALVES])
@pytest.mark.parametrize("extreme", [-50.0, 0.0, 50.0])
def test_extreme_values_have_finite_values_and_gradients(dtype, extreme):
    theta = np.array([0.0, 1e-4, -1.0, 50.0], "float32")
    log_alpha = np.full(4, extreme, "float32")

    def variational(theta, log_alpha):
        log_sigma2 = variational_dropout.log_sigma2(theta, log_alpha)
        clipped = variational_dropout.clipped_log_sigma2(theta, log_sigma2, 8.0)
        noise = ops.ones((4,), dtype)
        output = variational_dropout.noisy_output(
            ops.cast(theta, dtype), ops.exp(clipped), noise
        )
        kl = variational_dropout.kl_divergence(
            variational_dropout.log_alpha(theta, clipped)
        )
        return ops.cast(output, "float32") + kl

    def gated(theta, log_alpha):
        gates = sum(
            l0.sampled_gate(log_alpha, ops.full((4,), u), **GATE)
            for u in (0.0, 0.5, 1.0)
        )
        weight = ops.cast(theta, dtype) * ops.cast(gates, dtype)
        return ops.cast(weight, "float32") + l0.expected_l0(log_alpha, **GATE)

    for function in (variational, gated):
        assert np.isfinite(exactly(function(*tensors((theta, log_alpha), None)))).all()
        for slope in gradient(function, theta, log_alpha):
            assert np.isfinite(slope).all()


def test_frequencies_of_gates_equal_the_closed_forms():
    draws = 200_000
    rng = np.random.default_rng(0)
    for log_alpha in (-2.0, 0.0, 1.5):
        u = rng.uniform(size=draws).astype("float32")
        z = exactly(l0.sampled_gate(ops.full((draws,), log_alpha), u, **GATE))
        # P(z = 0) = P(s <= -gamma / (zeta - gamma)), and likewise for 1; the bounds
        # are five standard deviations of a frequency: false alarms 6e-7 each.
        beta, gamma, zeta = GATE.values()

        def below(threshold, log_alpha=log_alpha, beta=beta):
            logit = np.log(threshold) - np.log1p(-threshold)
            return scipy.special.expit(beta * logit - log_alpha)

        zero = below(-gamma / (zeta - gamma))
        one = 1 - below((1 - gamma) / (zeta - gamma))
        for frequency, probability in ((z == 0).mean(), zero), ((z == 1).mean(), one):
            bound = 5 * np.sqrt(probability * (1 - probability) / draws)
            assert abs(frequency - probability) < bound
        expected = float(exactly(l0.expected_l0(log_alpha, **GATE)))
        bound = 5 * np.sqrt(expected * (1 - expected) / draws)
        assert abs((z != 0).mean() - expected) < bound

        # Moments of what is never negative: integrals of P(z > t) and 2 t P(z > t).
        def above(t, gamma=gamma, zeta=zeta, below=below):
            return 1 - below((t - gamma) / (zeta - gamma))

        mean, _ = scipy.integrate.quad(above, 0, 1)
        square, _ = scipy.integrate.quad(lambda t, p=above: 2 * t * p(t), 0, 1)
        assert abs(z.mean() - mean) < 5 * np.sqrt((square - mean**2) / draws)


@pytest.mark.parametrize("kind", ["linear", "cubic"])
def test_ramps_follow_their_formula(kind):
    for step in range(30):
        done = min(max((step - 5) / 20, 0), 1)
        expected = done if kind == "linear" else 1 - (1 - done) ** 3
        actual = float(exactly(ramps.ramp(kind, 5, 20, ops.convert_to_tensor(step))))
        assert actual == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("square", 0, 1), "ramp must be one of linear, cubic. Received: 'square'"),
        (("linear", -1, 1), "ramp_begin"),
        (("linear", 0, 0), "ramp_length must be at least 1. Received: 0"),
    ],
)
def test_bad_ramps_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ramps.check_ramp(*arguments)
