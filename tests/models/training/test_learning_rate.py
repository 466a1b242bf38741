"""The learning-rate schedule, against its description computed with NumPy."""

import numpy as np
import pytest

from state_of_sparsity.engines.tf_keras.backend import keras, tf
from state_of_sparsity.models.training.loop.learning_rate import (
    InverseSquareRoot,
    WarmupThenCosine,
    WarmupThenSteps,
)


def described(step, peak, warmup_steps, boundaries):
    rate = np.float64(peak)
    if step + 1 < warmup_steps:
        rate *= (step + 1) / warmup_steps
    for boundary in boundaries:
        if step >= boundary:
            rate /= 10
    return rate


@pytest.mark.parametrize(
    ("peak", "warmup_steps", "boundaries"),
    [
        # The published run: 0.4 at batch 1024, 1251 steps an epoch.
        (0.4, 6256, [37534, 75068, 100091]),
        (0.05, 0, [10]),
        (1.0, 3, []),
        # Boundaries within the warm-up.
        (0.2, 50, [10, 20]),
    ],
)
def test_rate_at_every_kind_of_step(peak, warmup_steps, boundaries):
    schedule = WarmupThenSteps(peak, warmup_steps, boundaries)
    turns = [0, warmup_steps, *boundaries, 128_000]
    steps = {max(0, turn + offset) for turn in turns for offset in (-2, -1, 0, 1, 2)}
    for step in steps | {7, 31_000}:
        rate = float(schedule(tf.constant(step, tf.int64)))
        expected = described(step, peak, warmup_steps, boundaries)
        assert rate == pytest.approx(expected, rel=1e-6), step


@pytest.mark.parametrize("warmup_steps", [0, 40])
def test_half_a_cosine_follows_the_warm_up(warmup_steps):
    schedule = WarmupThenCosine(0.256, warmup_steps, 100)
    for step in (0, 1, 39, 40, 41, 70, 99, 100, 200):
        share = min(max(step - warmup_steps, 0) / (100 - warmup_steps), 1)
        expected = 0.256 * (1 + np.cos(np.pi * share)) / 2
        if step < warmup_steps:
            expected = 0.256 * (step + 1) / warmup_steps
        found = float(schedule(tf.constant(step, tf.int64)))
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-8), step


@pytest.mark.parametrize(
    "schedule", [WarmupThenSteps(0.4, 5, [10, 20]), WarmupThenCosine(0.4, 5, 40)]
)
def test_the_schedule_comes_back_from_its_configuration(schedule):
    optimizer = keras.optimizers.SGD(schedule)
    config = keras.optimizers.serialize(optimizer)
    again = keras.optimizers.deserialize(config)._learning_rate
    for step in (0, 3, 12, 30):
        assert float(again(step)) == float(schedule(step))


def test_the_schedule_of_the_transformer_is_that_of_the_paper():
    rate = InverseSquareRoot(scale=2.0, width=512, warmup_steps=8000)
    # Steps count from one.
    for step in (1, 10, 7999, 8000, 8001, 500_000):
        expected = 2 * min(step / 8000, 1) * max(step, 8000) ** -0.5 * 512**-0.5
        np.testing.assert_allclose(rate(tf.constant(step - 1)), expected, rtol=1e-6)
    again = keras.optimizers.schedules.deserialize(
        keras.optimizers.schedules.serialize(rate)
    )
    assert again.get_config() == rate.get_config()
