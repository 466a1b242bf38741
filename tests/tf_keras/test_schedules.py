"""Schedules in the graph against those in Python."""

import numpy as np
import pytest

from state_of_sparsity import schedules
from state_of_sparsity.engines.tf_keras.backend import tf
from state_of_sparsity.engines.tf_keras.schedules import Schedule, is_due


@pytest.mark.parametrize(
    ("begin", "end", "frequency", "initial"),
    [
        (0, 10, 3, 0.4),
        (7, 100, 9, 0.0),
        (5, 5, 1, 0.4),
        (0, 0, 1, 0.0),
        (3, 4000, 1, 0.0),
    ],
)
def test_the_graph_has_the_renewals_and_the_sparsity_since_the_last(
    begin, end, frequency, initial
):
    schedule = schedules.CubicSchedule(0.9, begin, end, frequency, initial)
    steps = tf.range(1, end + 20, dtype=tf.int64)
    due, sparsities = tf.map_fn(
        tf.function(Schedule(schedule)),
        steps,
        fn_output_signature=(tf.bool, tf.float32),
    )
    renewals = schedule.renewals()
    np.testing.assert_array_equal(steps[due], renewals)
    # What the masks have, which is none before the first.
    held = [0.0, *map(schedule.sparsity, renewals)]
    expected = [held[n] for n in np.searchsorted(renewals, steps, side="right")]
    np.testing.assert_array_equal(sparsities, np.float32(expected))


def test_renewals_that_go_on_are_due_after_the_ramp():
    schedule = schedules.CubicSchedule(0.9, 2, 7, 3, goes_on=True)
    due = [bool(is_due(schedule, tf.constant(step, tf.int64))) for step in range(15)]
    assert [step for step in range(15) if due[step]] == [2, 5, 7, 10, 13]
