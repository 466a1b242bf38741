"""Learned techniques find the weights that matter."""

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras, tf

INPUTS, TRUE_INPUTS, EXAMPLES, STEPS = 200, 20, 1000, 4000


def linear_teacher(rng):
    """Inputs, noisy outputs, and which inputs the outputs depend on."""
    support = np.zeros(INPUTS, bool)
    support[rng.choice(INPUTS, TRUE_INPUTS, replace=False)] = True
    weights = support * rng.uniform(0.5, 1.5, INPUTS) * rng.choice([-1, 1], INPUTS)
    inputs = rng.normal(size=(EXAMPLES, INPUTS))
    outputs = inputs @ weights + rng.normal(0, 0.1, EXAMPLES)
    return inputs.astype("float32"), outputs.astype("float32")[:, None], support


@pytest.mark.slow
@pytest.mark.parametrize(
    "technique",
    [
        sos.VariationalDropout(1e-3, ramp_length=STEPS // 2),
        sos.L0Regularization(3e-2, ramp_length=STEPS // 4),
    ],
    ids=lambda t: t.technique_name(),
)
def test_the_support_of_a_linear_teacher_is_found(technique, rng):
    inputs, outputs, support = linear_teacher(rng)
    student = sos.sparsify(
        keras.Sequential([keras.layers.Dense(1, input_shape=(INPUTS,))]), technique
    )
    # While steps are large, weights without a use do not come to rest at zero.
    rate = keras.optimizers.schedules.CosineDecay(0.01, STEPS)
    student.compile(keras.optimizers.Adam(rate), "mse")
    batches = tf.data.Dataset.from_tensors((inputs, outputs)).repeat(STEPS)
    student.fit(batches, verbose=0, callbacks=sos.callbacks(student))
    (mask,) = sos.weight_masks(student).values()
    found = mask[:, 0]
    assert found[support].all()
    assert np.count_nonzero(found & ~support) <= 2
