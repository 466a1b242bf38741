"""Learned techniques find the weights that matter."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras, tf

INPUTS, TRUE_INPUTS, EXAMPLES, STEPS = 200, 20, 1000, 4000
BENCHMARK = pathlib.Path(__file__).parents[2] / "benchmarks" / "learned_sparsity.py"


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


@pytest.mark.slow
def test_on_digits_learned_sparsity_keeps_the_accuracy_of_the_dense_network(tmp_path):
    path = tmp_path / "figures.json"
    command = [
        *(sys.executable, BENCHMARK, "--seeds=0", f"--json={path}"),
        "--techniques=dense,variational_dropout,l0_regularization",
    ]
    subprocess.run(command, check=True, capture_output=True)
    found = {
        (figure["case"], figure["quantity"]): figure["value"]
        for figure in json.loads(path.read_text("utf-8"))
    }
    dense = found["dense", "accuracy, %"]
    for name, sparsity in (("variational_dropout", 95), ("l0_regularization", 80)):
        assert found[name, "accuracy, %"] >= dense - 1.5
        assert found[name, "sparsity, %"] >= sparsity
