"""Every Keras and backend trains to the results of a reference in NumPy's float64.

So all of them train to the same. The reference masks at the start of a step, as both
engines do: tf_keras sets masked weights to zero there, and Keras 3 multiplies with the
mask, which with plain SGD is the same.
"""

import numpy as np
import pytest

from tests.flavour import (
    begin_training,
    compiled,
    from_logits,
    outputs_of,
    sgd,
    sos,
    sparse_layers,
    to_numpy,
)
from tests.shared import reference, zoo

STEPS, BATCH, LEARNING_RATE = 20, 8, 0.2
# Renewals at 2, 5, 8, 11, 14 and, where the ramp ends, 15.
SCHEDULE = (0.75, 2, 15, 3)
STAY = sos.MagnitudePruning(*SCHEDULE)
RETURN = sos.MagnitudePruning(*SCHEDULE, masked_weights="return")
RANDOM = sos.RandomPruning(*SCHEDULE, seed=7)

pytestmark = pytest.mark.feature("same masks and losses in both Kerases, all backends")


@pytest.fixture
def batches():
    rng = np.random.default_rng(5)
    inputs = rng.normal(size=(STEPS, BATCH, zoo.FEATURES)).astype("float32")
    return list(zip(inputs, rng.integers(0, 3, (STEPS, BATCH)), strict=True))


def start():
    """The weights that all begin with, in the second layer ten times the first's."""
    rng = np.random.default_rng(6)
    scales = {(zoo.FEATURES, 8): 0.1, (8,): 0.5, (8, 3): 1.0, (3,): 0.5}
    return [(s * rng.normal(size=n)).astype("float32") for n, s in scales.items()]


def sparse_perceptron(technique, budget=None):
    model = zoo.perceptron()
    model.set_weights(start())
    sparse = sos.sparsify(model, technique, budget=budget)
    compiled(sparse, sgd(LEARNING_RATE), from_logits(), run_eagerly=False)
    begin_training(sparse)
    return sparse


def loss_of_step(model, inputs, labels):
    model.reset_metrics()
    return float(model.train_on_batch(inputs, labels))


@pytest.mark.parametrize(
    ("budget", "network"),
    [
        (None, reference.Perceptron),
        pytest.param(
            sos.Global(),
            reference.OneThreshold,
            marks=pytest.mark.feature("budgets: one threshold over all layers"),
        ),
    ],
    ids=["each", "global"],
)
@pytest.mark.parametrize(
    ("technique", "scores"),
    [
        pytest.param(STAY, reference.staying, id="magnitude"),
        pytest.param(
            RETURN,
            reference.returning,
            id="magnitude-return",
            marks=pytest.mark.feature("masked weights may return"),
        ),
        pytest.param(RANDOM, reference.at_random(seed=7), id="random"),
    ],
)
def test_losses_masks_and_outputs_are_those_of_the_reference(
    technique, scores, budget, network, batches
):
    sparse = sparse_perceptron(technique, budget)
    expected = network(start(), scores, SCHEDULE, LEARNING_RATE)
    for step, (inputs, labels) in enumerate(batches, 1):
        expected_loss = expected.train(inputs, labels)
        loss = loss_of_step(sparse, inputs, labels)
        assert loss == pytest.approx(expected_loss, abs=1e-4), step
        masks = sos.weight_masks(sparse)
        for name, mask in zip(("hidden", "logits"), expected.masks, strict=True):
            np.testing.assert_array_equal(
                masks[f"{name}/kernel"], mask != 0, f"step {step}"
            )
    if budget and technique is STAY:
        first, second = (1 - mask.mean() for mask in expected.masks)
        assert first > second + 0.3
    inputs = np.concatenate([x for x, _ in batches])
    logits = expected.logits(inputs.astype("float64"))
    for model in (sparse, sos.strip(sparse)):
        np.testing.assert_allclose(
            outputs_of(model, inputs), logits, rtol=0, atol=1e-5 * np.abs(logits).max()
        )


def test_the_reference_tells_staying_from_returning(batches):
    """Or else it would show nothing that both agree with one of them."""
    masks = []
    for scores in (reference.staying, reference.returning):
        model = reference.Perceptron(start(), scores, SCHEDULE, LEARNING_RATE)
        for inputs, labels in batches:
            model.train(inputs, labels)
        masks.append(model.masks[0])
    assert np.any(masks[0] != masks[1])


@pytest.mark.feature("penalties equal in both Kerases, all backends")
@pytest.mark.parametrize(
    ("technique", "extra"),
    [
        (sos.VariationalDropout(0.03, ramp_begin=1, ramp_length=6), "log_sigma2"),
        (sos.L0Regularization(0.03, "cubic", 1, 6), "log_alpha"),
    ],
    ids=["variational", "l0"],
)
def test_penalties_are_those_of_the_formulas_in_float64(technique, extra, batches, rng):
    sparse = sparse_perceptron(technique)
    for inputs, labels in batches[:4]:
        loss_of_step(sparse, inputs, labels)
    expected = 0.0
    for layer in sparse_layers(sparse):
        spread = rng.normal(-3, 5, size=tuple(layer.kernel.shape))
        getattr(layer, extra).assign(spread)
        theta, value = (
            to_numpy(v).astype("float64") for v in (layer.kernel, getattr(layer, extra))
        )
        expected += (
            reference.kl_divergence(theta, value)
            if extra == "log_sigma2"
            else reference.expected_l0(value)
        )
    # The last of four steps has number 3, from 0.
    done = (3 - 1) / 6
    weight = 0.03 * (done if extra == "log_sigma2" else 1 - (1 - done) ** 3)
    losses = [to_numpy(loss).astype("float64") for loss in sparse.losses]
    np.testing.assert_allclose(sum(losses), weight * expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.feature("penalties equal in both Kerases, all backends")
def test_the_loss_of_a_step_has_the_penalty_in_it(batches):
    """Under next to no noise the data's loss does not depend on the penalty."""
    inputs, labels = batches[0]
    losses = []
    for weight in (0.0, 0.01):
        technique = sos.VariationalDropout(
            weight, initial_log_sigma2=-30.0, clip_log_alpha=20.0
        )
        sparse = sparse_perceptron(technique)
        # In the first step, the ramp has not begun.
        loss_of_step(sparse, inputs, labels)
        losses.append(loss_of_step(sparse, inputs, labels))
    model = sparse_perceptron(technique)
    loss_of_step(model, inputs, labels)
    expected = 0.01 * sum(
        reference.kl_divergence(
            *(to_numpy(v).astype("float64") for v in (layer.kernel, layer.log_sigma2)),
            clip=20.0,
        )
        for layer in sparse_layers(model)
    )
    assert losses[1] - losses[0] == pytest.approx(expected, rel=1e-4)
