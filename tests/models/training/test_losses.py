"""The loss, against NumPy in float64."""

import numpy as np
import pytest
import scipy.special

from state_of_sparsity.engines.tf_keras.backend import keras, tf
from state_of_sparsity.models.training.loop.losses import SmoothedCrossEntropy
from state_of_sparsity.models.translation.task import weighted_by_token


def reference(labels, logits, smoothing):
    """The loss of each label."""
    logits = logits.astype("float64")
    classes = logits.shape[-1]
    q = np.eye(classes)[labels] * (1 - smoothing) + smoothing / classes
    return -(q * scipy.special.log_softmax(logits, axis=-1)).sum(axis=-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(6,), (6, 1), (3, 4)])
def test_loss_is_the_smoothed_cross_entropy(shape, smoothing, rng):
    labels = rng.integers(0, 5, shape)
    outputs = shape[:1] if shape[-1] == 1 else shape
    logits = (10 * rng.normal(size=(*outputs, 5))).astype("float32")
    loss = SmoothedCrossEntropy(smoothing, reduction="none")
    expected = reference(labels.reshape(outputs), logits, smoothing)
    np.testing.assert_allclose(loss(labels, logits), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradient_is_that_of_the_formula(smoothing, rng):
    labels, logits = rng.integers(0, 5, 4), tf.constant(rng.normal(size=(4, 5)))
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = SmoothedCrossEntropy(smoothing, reduction="sum")(labels, logits)
    q = np.eye(5)[labels] * (1 - smoothing) + smoothing / 5
    expected = scipy.special.softmax(logits.numpy(), axis=-1) - q
    np.testing.assert_allclose(tape.gradient(loss, logits), expected, atol=1e-6)


class Logits(keras.Model):
    """A table of logits: a language model that does not look at its input."""

    def __init__(self, logits):
        super().__init__()
        self.table = self.add_weight(
            "table", logits.shape, initializer=keras.initializers.Constant(logits)
        )

    def call(self, inputs):
        return tf.gather(self.table, inputs)


@pytest.mark.parametrize("replicas", [1, 2])
def test_training_loss_is_the_mean_over_target_tokens_of_all_replicas(
    replicas, rng, mirrored
):
    table = rng.normal(size=(7, 5)).astype("float32")
    ids, labels = rng.integers(0, 7, (4, 6)), rng.integers(0, 5, (4, 6))
    # The rows of the replicas hold different numbers of tokens.
    tokens = np.arange(6) < np.array([6, 5, 1, 2])[:, None]
    batch = tf.data.Dataset.from_tensors((ids, labels, tokens.astype("float32")))
    strategy = mirrored if replicas == 2 else tf.distribute.get_strategy()
    with strategy.scope():
        model = Logits(table)
        model.compile(
            keras.optimizers.SGD(1.0), SmoothedCrossEntropy(0.1, reduction="sum")
        )
    model.fit(batch.map(weighted_by_token), verbose=0)
    q = np.eye(5)[labels] * 0.9 + 0.1 / 5
    slope = (scipy.special.softmax(table[ids], axis=-1) - q) * tokens[..., None]
    expected = table.copy()
    np.subtract.at(expected, ids, slope / tokens.sum())
    np.testing.assert_allclose(model.table, expected, rtol=1e-5, atol=1e-6)
