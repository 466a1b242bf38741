"""What techniques that depend on gradients need of an optimizer."""

import numpy as np
import pytest

from tests.flavour import BACKEND, compiled, fit, sgd, sos
from tests.shared import zoo

RIGL = sos.RigL(0.5, end_step=8, frequency=2)
# Where Keras itself fails with variables that are overwritten with their gradient.
REFUSED = {
    "tensorflow": {"use_ema": True},
    "jax": {"use_ema": True, "ema_overwrite_frequency": 2},
}


def sparse_model(**optimizer):
    sparse = sos.sparsify(zoo.perceptron(), RIGL)
    return compiled(sparse, sgd(0.1, **optimizer))


def test_accumulated_gradients_are_refused(rng):
    sparse = sparse_model(gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match=r"gradient_accumulation_steps .*Received: 2"):
        fit(sparse, *zoo.data(rng))


@pytest.mark.skipif(BACKEND not in REFUSED, reason="Keras does it right there")
def test_a_moving_average_is_refused_where_keras_has_none(rng):
    sparse = sparse_model(**REFUSED.get(BACKEND, {}))
    with pytest.raises(ValueError, match=r"is overwritten .* no moving average"):
        fit(sparse, *zoo.data(rng))


@pytest.mark.skipif(BACKEND == "tensorflow", reason="Keras fails there")
def test_a_moving_average_of_weights_leaves_what_gradients_say(rng):
    data = zoo.data(rng)
    plain, averaged = sparse_model(), sparse_model(use_ema=True, ema_momentum=0.5)
    averaged.set_weights(plain.get_weights())
    np.testing.assert_allclose(fit(averaged, *data), fit(plain, *data), rtol=1e-6)
    for name, mask in sos.weight_masks(averaged).items():
        np.testing.assert_array_equal(mask, sos.weight_masks(plain)[name])


def test_another_optimizer_fails_at_the_first_renewal(rng):
    inputs, targets = zoo.data(rng)
    sparse = sparse_model()
    step = STEPS[BACKEND](sparse, inputs, targets)
    for _ in range(RIGL.frequency - 1):
        step()
    with pytest.raises(Exception, match="which an optimizer of Keras hands over"):
        step()


def steps_on_torch(model, inputs, targets):
    import torch

    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def step():
        optimizer.zero_grad()
        loss = (model(inputs, training=True) - torch.tensor(targets)).square().mean()
        loss.backward()
        optimizer.step()

    return step


def steps_on_tensorflow(model, inputs, targets):
    import tensorflow as tf

    def step():
        with tf.GradientTape() as tape:
            outputs = model(inputs, training=True)
            loss = tf.reduce_mean(tf.square(outputs - targets))
        weights = [v.value for v in model.trainable_variables]
        for weight, gradient in zip(weights, tape.gradient(loss, weights), strict=True):
            weight.assign_sub(0.1 * gradient)

    return step


def steps_on_jax(model, inputs, targets):
    import jax

    state = (
        [v.value for v in model.trainable_variables],
        [v.value for v in model.non_trainable_variables],
    )

    def loss_of(trained, other):
        outputs, other = model.stateless_call(trained, other, inputs, training=True)
        return ((outputs - targets) ** 2).mean(), other

    @jax.jit
    def updated(trained, other):
        slopes, other = jax.grad(loss_of, has_aux=True)(trained, other)
        return [v - 0.1 * g for v, g in zip(trained, slopes, strict=True)], other

    def step():
        nonlocal state
        state = updated(*state)
        jax.effects_barrier()

    return step


STEPS = {
    "torch": steps_on_torch,
    "tensorflow": steps_on_tensorflow,
    "jax": steps_on_jax,
}
