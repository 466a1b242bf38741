"""The cubic schedule against its formula in Python's float64."""

import pytest

from state_of_sparsity.backend import tf
from state_of_sparsity.schedules import CubicSchedule


def formula(t, sparsity, begin, end, initial):
    if t >= end:
        return sparsity
    if t <= begin:
        return initial
    return sparsity + (initial - sparsity) * (1 - (t - begin) / (end - begin)) ** 3


@pytest.mark.parametrize("initial", [0.0, 0.4])
@pytest.mark.parametrize(("begin", "end"), [(0, 10), (7, 100), (5, 5)])
def test_sparsity_is_that_of_zhu_and_gupta(begin, end, initial):
    schedule = CubicSchedule(0.9, begin, end, 3, initial)
    for t in range(0, end + 20):
        sparsity = float(schedule(tf.constant(t, tf.int64))[1])
        assert sparsity == pytest.approx(
            formula(t, 0.9, begin, end, initial), abs=1e-12
        )


def test_final_sparsity_is_exact():
    schedule = CubicSchedule(0.7, 0, 1000, 3)
    assert float(schedule(tf.constant(1000, tf.int64))[1]) == 0.7


@pytest.mark.parametrize(
    ("begin", "end", "frequency"), [(4, 20, 5), (0, 9, 3), (3, 3, 7)]
)
def test_masks_are_renewed_every_frequency_steps_and_at_the_end(begin, end, frequency):
    schedule = CubicSchedule(0.9, begin, end, frequency)
    due = [t for t in range(40) if schedule(tf.constant(t, tf.int64))[0]]
    assert due == sorted({*range(begin, end + 1, frequency), end})


def test_configuration_describes_the_schedule():
    config = CubicSchedule(0.9, 1, 20, 3, 0.1).get_config()["config"]
    assert CubicSchedule.from_config(config).get_config()["config"] == config
