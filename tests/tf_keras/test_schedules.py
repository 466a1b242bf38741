"""Schedules in the graph against those in Python."""

import numpy as np
import pytest

from state_of_sparsity import masks, schedules
from state_of_sparsity.engines.tf_keras.backend import tf
from state_of_sparsity.engines.tf_keras.schedules import Schedule, zero_count


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
def test_the_graph_has_the_renewals_and_the_sparsity_of_the_schedule(
    begin, end, frequency, initial
):
    schedule = schedules.CubicSchedule(0.9, begin, end, frequency, initial)
    steps = tf.range(1, end + 20, dtype=tf.int64)
    due, sparsities = tf.map_fn(
        tf.function(Schedule(schedule)),
        steps,
        fn_output_signature=(tf.bool, tf.float64),
    )
    np.testing.assert_array_equal(steps[due], schedule.renewals())
    expected = [schedule.sparsity(step) for step in steps.numpy().tolist()]
    # TensorFlow multiplies with a reciprocal where the schedule divides.
    np.testing.assert_allclose(sparsities, expected, rtol=0, atol=1e-15)
    np.testing.assert_array_equal(sparsities[-20:], expected[-20:])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 10, 1000])
def test_zeros_in_the_graph_are_those_of_the_decimal_sparsity(size):
    for sparsity in (0.0, 0.1, 0.5, 0.7, 0.9, 0.98, 0.999):
        count = zero_count(tf.constant(sparsity, tf.float64), size)
        assert int(count) == masks.zero_count(sparsity, size)
        count = zero_count(tf.constant(sparsity, tf.float64), 3 * size, 3)
        assert int(count) == masks.zero_count(sparsity, 3 * size, 3)
