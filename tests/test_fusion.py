"""What XLA computes in one pass is what the operations give one by one."""

import importlib

import keras
import numpy as np
import pytest
from keras import ops

import state_of_sparsity as sos
from state_of_sparsity import fusion
from state_of_sparsity.numerics import mixed, random_normal, random_uniform
from tests.autodiff import gradient

SHAPE = (2, fusion._WORTH_IT)
VD, L0 = sos.VariationalDropout(1e-4), sos.L0Regularization(1e-4)


class Noise:
    """The same numbers each time."""

    def keys(self):
        return ops.convert_to_tensor(12, "int32"), ops.convert_to_tensor(-7, "int32")

    def normal(self, shape):
        return random_normal(shape, *map(mixed, self.keys()))

    def uniform(self, shape):
        return random_uniform(shape, *map(mixed, self.keys()))


@pytest.fixture
def values(rng):
    """Weights, some of which are 0, and extras on both sides of where they are cut."""
    theta = rng.normal(0, 0.1, SHAPE).astype("float32")
    theta[0, :100] = 0.0
    extra = rng.normal(0, 9, SHAPE).astype("float32")
    return theta, extra


def state_of(extra):
    """The state of both techniques: each has its own name for the extra."""
    return {"log_sigma2": extra, "log_alpha": extra}


FUNCTIONS = {
    "variance": lambda theta, extra: VD.sigma2(theta, state_of(extra)),
    "KL divergence": lambda theta, extra: VD.penalty(theta, state_of(extra)),
    # Noise next to 0 differs by 2e-6, as the logarithm of a number next to 1 does.
    "noisy weight": lambda theta, extra: VD.training_weight(
        theta, state_of(0.01 * extra - 6.0), 1, Noise()
    ),
    "gated weight": lambda theta, extra: L0.training_weight(
        theta, state_of(extra), 1, Noise()
    ),
    "expected L0": lambda theta, extra: L0.penalty(theta, state_of(extra)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_fused_functions_have_the_same_values_and_gradients(name, values, monkeypatch):
    def function(theta, extra):
        # Gradients of different sizes, also of what only the other one changes.
        result = FUNCTIONS[name](theta, extra)
        weighted = result * result if len(result.shape) else 3.0 * result
        return weighted + 0.0 * ops.sum(theta)

    def computed():
        tensors = map(ops.convert_to_tensor, values)
        return ops.convert_to_numpy(function(*tensors)), gradient(function, *values)

    fused = computed()
    monkeypatch.setattr(fusion, "_WORTH_IT", float("inf"))
    plain = computed()
    np.testing.assert_allclose(fused[0], plain[0], rtol=1e-5, atol=1e-6)
    for one, other in zip(fused[1], plain[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_xla_compiles_what_is_large_and_nothing_else(values, monkeypatch):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("TensorFlow alone needs it")
    compiled = []
    original = fusion._compiled
    monkeypatch.setattr(
        fusion, "_compiled", lambda *a: compiled.append(a) or original(*a)
    )
    theta, extra = values
    small = theta[:, :100], extra[:, :100]
    FUNCTIONS["KL divergence"](*map(ops.convert_to_tensor, small))
    assert not compiled
    FUNCTIONS["KL divergence"](*map(ops.convert_to_tensor, (theta, extra)))
    assert len(compiled) == 1


def test_within_a_step_that_xla_compiles_as_well(values):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("TensorFlow alone needs it")
    tf = importlib.import_module("tensorflow")
    theta, extra = map(tf.Variable, values)

    def step():
        with tf.GradientTape() as tape:
            state = state_of(tf.identity(extra))
            penalty = VD.penalty(tf.convert_to_tensor(theta), state)
        return penalty, tape.gradient(penalty, [theta, extra])

    penalty, slopes = tf.function(step)()
    found, found_slopes = tf.function(step, jit_compile=True)()
    # XLA sums up one by one.
    np.testing.assert_allclose(found, penalty, rtol=1e-4)
    for one, other in zip(found_slopes, slopes, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("weight", [0.0, 0.25, -0.25])
@pytest.mark.parametrize("technique", [VD, L0], ids=["VD", "L0"])
def test_weighted_penalties_have_the_values_and_gradients_of_their_product(
    technique, weight, values
):
    steered = type(technique)(sparsity=0.5)

    def product(theta, extra):
        # Which has a gradient by what the penalty does not depend on as well.
        penalty = technique.penalty(theta, state_of(extra))
        return weight * penalty + 0.0 * ops.sum(theta)

    def weighted(theta, extra):
        state = state_of(extra) | {"multiplier": ops.convert_to_tensor(weight)}
        return steered.weighted_penalty(theta, state, 0) + 0.0 * ops.sum(theta)

    tensors = [ops.convert_to_tensor(value) for value in values]
    np.testing.assert_allclose(weighted(*tensors), product(*tensors), rtol=1e-6)
    slopes = gradient(weighted, *values), gradient(product, *values)
    for one, other in zip(*slopes, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-8)
