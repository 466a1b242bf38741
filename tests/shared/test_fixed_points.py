"""What techniques leave as it was: dense training, and that of earlier versions."""

import numpy as np
import pytest

from tests.flavour import (
    FLAVOUR,
    begin_training,
    compiled,
    from_logits,
    sgd,
    sos,
    to_numpy,
)
from tests.shared import zoo

STEPS = 6
RAMP = (0.0, 2, 5, 2)
AS_DENSE = [
    sos.MagnitudePruning(*RAMP),
    sos.MagnitudePruning(*RAMP, masked_weights="return"),
    sos.RandomPruning(*RAMP),
    sos.SaliencyPruning(*RAMP),
    sos.MovementPruning(*RAMP),
    sos.FisherPruning(*RAMP),
    sos.FisherPruning(*RAMP, block_size=7),
    sos.SET(0.0, 5, 2),
    sos.RigL(0.0, 5, 2),
    sos.GraNet(0.0, 5, 2),
    sos.Feather(0.0, 2, 5),
    # The sigmoid of -200 is 0 in float32.
    sos.STR(-200.0, weight_decay=0.0),
    sos.ACDC(0.0, 2, (3, 4)),
    sos.Powerpropagation(1.0, sos.MagnitudePruning(*RAMP)),
]
# Those whose weights differ from theta at any sparsity, and by how much in the end.
NEARLY = [
    # c is 1.01 / (1 + 0.01), as float32 has it.
    (sos.ST3(0.0, 2, 5), 1e-5),
    # Masks sum up to 1 - 1e-6 of all weights at most, and their slopes are no 1.
    (sos.Spartan(0.0, 2, 5, initial_beta=20.0), 1e-3),
]


def batches():
    rng = np.random.default_rng(5)
    inputs = rng.normal(size=(STEPS, 8, zoo.FEATURES)).astype("float32")
    return zip(inputs, rng.integers(0, 3, (STEPS, 8)), strict=True)


def trained(technique):
    """Weights after a few steps, and the losses of these."""
    model = zoo.perceptron()
    rng = np.random.default_rng(6)
    model.set_weights([rng.normal(size=w.shape) * 0.5 for w in model.get_weights()])
    if technique is not None:
        model = sos.sparsify(model, technique)
    compiled(model, sgd(0.1, momentum=0.9), from_logits())
    if technique is not None:
        begin_training(model)
    losses = []
    for inputs, labels in batches():
        model.reset_metrics()
        losses.append(float(model.train_on_batch(inputs, labels)))
    plain = model if technique is None else sos.strip(model)
    return [to_numpy(w) for w in plain.get_weights()], losses


@pytest.fixture(scope="module")
def dense():
    return trained(None)


@pytest.mark.any_backend
@pytest.mark.parametrize("technique", AS_DENSE, ids=lambda t: t.technique_name())
def test_at_sparsity_0_training_is_that_of_the_dense_model_to_the_bit(technique, dense):
    weights, losses = trained(technique)
    assert losses == dense[1]
    for found, expected in zip(weights, dense[0], strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.any_backend
@pytest.mark.parametrize(("technique", "atol"), NEARLY)
def test_at_sparsity_0_others_are_near_the_dense_model(technique, atol, dense):
    for found, expected in zip(trained(technique)[0], dense[0], strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


LEARNED = {
    "variational": sos.VariationalDropout(
        0.01, ramp_begin=1, ramp_length=3, initial_log_sigma2=-2.0
    ),
    "l0": sos.L0Regularization(0.01, "cubic", 1, 3),
}
# The losses that version 0.3 came to, whose noise is that of the backend.
BEFORE = {
    "keras-torch": {
        "variational": [1.9238, 1.9812, 1.28544, 1.99233, 2.25478, 1.90297],
        "l0": [1.41799, 1.6714, 1.62675, 2.35045, 2.11491, 1.91246],
    },
    "keras-jax": {
        "variational": [1.16248, 1.74315, 1.33185, 2.38798, 1.89717, 1.91587],
        "l0": [1.59629, 1.56702, 1.72024, 2.13669, 2.0505, 1.80827],
    },
    "keras-tensorflow": {
        "variational": [1.16248, 1.74315, 1.33185, 2.38798, 1.89717, 1.91587],
        "l0": [1.5959, 1.57042, 1.72108, 2.13505, 2.05022, 1.80791],
    },
    "tf_keras": {
        "variational": [2.44804, 2.1352, 1.5395, 2.00331, 1.4916, 1.81288],
        "l0": [1.55289, 1.89326, 1.71099, 2.29263, 1.90048, 1.8626],
    },
}


@pytest.mark.parametrize("name", LEARNED)
def test_losses_of_learned_techniques_are_what_they_were(name):
    """Those of magnitude and random pruning are checked in `test_same_results`."""
    _, losses = trained(LEARNED[name])
    assert losses == pytest.approx(BEFORE[FLAVOUR][name], abs=1e-4)
