"""Training loops of one's own, as each backend writes them."""

import numpy as np
import pytest

from tests.flavour import (
    BACKEND,
    begin_training,
    compiled,
    fit,
    from_logits,
    keras,
    sgd,
    sos,
    steps_of,
)
from tests.shared import zoo

MAGNITUDE = sos.MagnitudePruning(0.75, 1, 4, 1)
STEPS = 5


def data():
    inputs, _ = zoo.data(np.random.default_rng(0), 16)
    return inputs, np.arange(16) % zoo.CLASSES


def loss_of(targets, outputs, losses):
    return from_logits()(targets, outputs) + sum(losses)


def jax_loop(model):
    import jax

    inputs, targets = data()
    optimizer = sgd(0.1, momentum=0.9)
    optimizer.build(model.trainable_variables)

    def objective(trainable, non_trainable):
        outputs, non_trainable, losses = model.stateless_call(
            trainable, non_trainable, inputs, training=True, return_losses=True
        )
        return loss_of(targets, outputs, losses), non_trainable

    @jax.jit
    def step(trainable, non_trainable, state):
        gradient = jax.value_and_grad(objective, has_aux=True)
        (loss, non_trainable), grads = gradient(trainable, non_trainable)
        trainable, state = optimizer.stateless_apply(state, grads, trainable)
        return loss, trainable, non_trainable, state

    trainable = [v.value for v in model.trainable_variables]
    non_trainable = [v.value for v in model.non_trainable_variables]
    state = [v.value for v in optimizer.variables]
    losses = []
    for _ in range(STEPS):
        loss, trainable, non_trainable, state = step(trainable, non_trainable, state)
        losses.append(float(loss))
    for variables, values in (
        (model.trainable_variables, trainable),
        (model.non_trainable_variables, non_trainable),
    ):
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
    return losses


def tensorflow_loop(model):
    import tensorflow as tf

    inputs, targets = data()
    optimizer = sgd(0.1, momentum=0.9)
    begin_training(model)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            outputs = model(inputs, training=True)
            loss = loss_of(targets, outputs, model.losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(
            zip(gradients, model.trainable_variables, strict=True)
        )
        return loss

    return [float(step()) for _ in range(STEPS)]


def torch_loop(model):
    import torch

    inputs, targets = data()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(targets, model(inputs, training=True), model.losses)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


LOOPS = {"jax": jax_loop, "tensorflow": tensorflow_loop, "torch": torch_loop}


@pytest.mark.feature("custom training loops")
@pytest.mark.parametrize(
    ("technique", "budget"),
    [
        (MAGNITUDE, None),
        (sos.VariationalDropout(1e-4), None),
        (MAGNITUDE, sos.Global()),
    ],
    ids=["magnitude", "variational", "global"],
)
def test_a_loop_of_ones_own_trains_as_fit_does(technique, budget):
    keras.utils.set_random_seed(3)
    plain = zoo.perceptron()
    keras.utils.set_random_seed(4)
    looped = sos.sparsify(plain, technique, budget=budget)
    keras.utils.set_random_seed(4)
    fitted = sos.sparsify(plain, technique, budget=budget)
    losses = LOOPS[BACKEND](looped)
    compiled(fitted, sgd(0.1, momentum=0.9), from_logits())
    expected = fit(fitted, *data(), batch_size=16, epochs=STEPS)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert steps_of(looped) == steps_of(fitted) == {STEPS}
    masks, expected = sos.weight_masks(looped), sos.weight_masks(fitted)
    for name in masks:
        np.testing.assert_array_equal(masks[name], expected[name])
