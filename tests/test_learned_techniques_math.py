"""The mathematics of variational dropout and L0 gates against NumPy in float64."""

import numpy as np
import pytest
import scipy.integrate
import scipy.special

from state_of_sparsity import ramps
from state_of_sparsity.backend import tf
from state_of_sparsity.techniques import l0, variational_dropout

GATE = {"beta": 2 / 3, "gamma": -0.1, "zeta": 1.1}
DTYPES = [tf.float32, tf.float16, tf.bfloat16]


def reference_kl(log_alpha):
    k1, k2, k3 = 0.63576, 1.8732, 1.48695
    sigmoid = scipy.special.expit(k2 + k3 * log_alpha)
    return -(k1 * sigmoid - 0.5 * np.logaddexp(0, -log_alpha) - k1)


def reference_gate(log_alpha, u, beta, gamma, zeta):
    s = scipy.special.expit((np.log(u) - np.log1p(-u) + log_alpha) / beta)
    return np.clip(s * (zeta - gamma) + gamma, 0, 1)


def gradient(function, *arguments):
    """Of the sum of a function, by each of its arguments."""
    arguments = [tf.constant(a) for a in arguments]
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        value = tf.reduce_sum(function(*arguments))
    return [g.numpy() for g in tape.gradient(value, arguments)]


def numeric_gradient(function, x, step=1e-6):
    return (function(x + step) - function(x - step)) / (2 * step)


def close(actual, expected, dtype):
    tolerance = 1e-5 if dtype == np.float32 else 1e-6
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * 1e-2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
class TestAgainstNumpy:
    def test_log_alpha_and_its_inverse(self, rng, dtype):
        theta = rng.normal(size=100).astype(dtype)
        log_sigma2 = rng.uniform(-15, 3, 100).astype(dtype)
        expected = log_sigma2.astype("float64") - np.log(
            theta.astype("float64") ** 2 + 1e-8
        )
        log_alpha = variational_dropout.log_alpha(theta, log_sigma2)
        close(log_alpha, expected, dtype)
        close(variational_dropout.log_sigma2(theta, log_alpha), log_sigma2, dtype)

    def test_clipping_changes_only_what_is_outside(self, rng, dtype):
        theta = rng.normal(size=100).astype(dtype)
        log_sigma2 = rng.uniform(-30, 20, 100).astype(dtype)
        clipped = variational_dropout.clipped_log_sigma2(theta, log_sigma2, 8.0)
        log_theta2 = np.log(theta.astype("float64") ** 2 + 1e-8)
        expected = np.clip(log_sigma2 - log_theta2, -8, 8) + log_theta2
        close(clipped, expected, dtype)

    def test_kl_divergence_and_its_gradient(self, dtype):
        log_alpha = np.linspace(-10, 10, 101)
        x = log_alpha.astype(dtype)
        close(variational_dropout.kl_divergence(x), reference_kl(log_alpha), dtype)
        (slope,) = gradient(variational_dropout.kl_divergence, x)
        np.testing.assert_allclose(
            slope, numeric_gradient(reference_kl, log_alpha), rtol=1e-5, atol=1e-8
        )

    def test_noisy_output(self, rng, dtype):
        mean, noise = rng.normal(size=(2, 50)).astype(dtype)
        variance = rng.uniform(0, 4, 50).astype(dtype)
        expected = mean + np.sqrt(variance.astype("float64") + 1e-8) * noise
        actual = variational_dropout.noisy_output(mean, variance, noise)
        # The deviation is float32 whatever the rest is.
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)

    def test_gates_and_their_gradients(self, rng, dtype):
        log_alpha = rng.normal(0, 2, 200)
        u = rng.uniform(0.01, 0.99, 200)
        x, uniform = log_alpha.astype(dtype), u.astype(dtype)
        expected = reference_gate(log_alpha, u, **GATE)
        actual = l0.sampled_gate(x, uniform, **GATE)
        np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-6)
        (slope,) = gradient(lambda a: l0.sampled_gate(a, uniform, **GATE), x)
        numeric = numeric_gradient(lambda a: reference_gate(a, u, **GATE), log_alpha)
        np.testing.assert_allclose(slope, numeric, rtol=1e-4, atol=1e-5)

    def test_deployed_gate_and_expected_l0(self, dtype):
        log_alpha = np.linspace(-8, 8, 101)
        x = log_alpha.astype(dtype)
        sigmoid = scipy.special.expit
        close(
            l0.deployed_gate(x, -0.1, 1.1),
            np.clip(sigmoid(log_alpha) * 1.2 - 0.1, 0, 1),
            dtype,
        )
        close(
            l0.expected_l0(x, **GATE),
            sigmoid(log_alpha - 2 / 3 * np.log(0.1 / 1.1)),
            dtype,
        )


def test_kl_divergence_is_not_negative_and_tends_to_zero():
    log_alpha = np.linspace(-50, 50, 1001).astype("float32")
    values = variational_dropout.kl_divergence(log_alpha).numpy()
    assert (values >= 0).all()
    assert (np.diff(values) <= 0).all()
    assert values[-1] < 1e-20


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize("extreme", [-50.0, 0.0, 50.0])
def test_extreme_values_have_finite_values_and_gradients(dtype, extreme):
    theta = tf.cast([0.0, 1e-4, -1.0, 50.0], tf.float32)
    log_alpha = tf.fill([4], extreme)

    def variational(theta, log_alpha):
        log_sigma2 = variational_dropout.log_sigma2(theta, log_alpha)
        clipped = variational_dropout.clipped_log_sigma2(theta, log_sigma2, 8.0)
        variance = tf.exp(clipped)
        noise = tf.ones(4, dtype)
        output = variational_dropout.noisy_output(
            tf.cast(theta, dtype), variance, noise
        )
        kl = variational_dropout.kl_divergence(
            variational_dropout.log_alpha(theta, clipped)
        )
        return tf.cast(output, tf.float32) + kl

    def gated(theta, log_alpha):
        gates = [
            l0.sampled_gate(log_alpha, tf.fill([4], u), **GATE) for u in (0.0, 0.5, 1.0)
        ]
        weight = tf.cast(theta, dtype) * tf.cast(tf.add_n(gates), dtype)
        return tf.cast(weight, tf.float32) + l0.expected_l0(log_alpha, **GATE)

    for function in (variational, gated):
        assert np.isfinite(function(theta, log_alpha)).all()
        for slope in gradient(function, theta, log_alpha):
            assert np.isfinite(slope).all()


def test_frequencies_of_gates_equal_the_closed_forms():
    draws = 200_000
    rng = np.random.default_rng(0)
    for log_alpha in (-2.0, 0.0, 1.5):
        u = rng.uniform(size=draws).astype("float32")
        z = l0.sampled_gate(tf.fill([draws], log_alpha), u, **GATE).numpy()
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
        expected = float(l0.expected_l0(tf.constant(log_alpha), **GATE))
        assert abs((z != 0).mean() - expected) < 5 * np.sqrt(0.25 / draws)
        # The mean of what is never negative: the integral of P(z > t).
        ends = -gamma / (zeta - gamma), (1 - gamma) / (zeta - gamma)
        integral, _ = scipy.integrate.quad(below, *ends)
        mean = (zeta - gamma) * (ends[1] - ends[0] - integral)
        assert abs(z.mean() - mean) < 5 * np.sqrt(0.25 / draws)


@pytest.mark.parametrize("kind", ["linear", "cubic"])
def test_ramps_follow_their_formula(kind):
    for step in range(30):
        done = min(max((step - 5) / 20, 0), 1)
        expected = done if kind == "linear" else 1 - (1 - done) ** 3
        actual = float(ramps.ramp(kind, 5, 20, tf.constant(step, tf.int64)))
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
