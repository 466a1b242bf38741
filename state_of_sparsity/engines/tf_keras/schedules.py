"""Schedules in the graph: functions of the step."""

from state_of_sparsity import schedules
from state_of_sparsity.engines.tf_keras.backend import tf

# So many renewals are compared with the step one by one.
_FEW = 1000


class Schedule:
    """A schedule of `state_of_sparsity.schedules` in the graph.

    It is called as a `PruningSchedule` of TF-MOT is. TF-MOT's own wrapper, which
    computes in float32, does not take it.
    """

    def __init__(self, schedule):
        self._schedule = schedule

    def __call__(self, step):
        """Whether to renew masks at the step (int64), and the sparsity (float64)."""
        ramp = self._schedule
        if isinstance(ramp, schedules.Never):
            return tf.constant(False), tf.constant(0.0, tf.float64)
        # A ramp without length is done when it begins.
        length = max(ramp.end_step - ramp.begin_step, 1)
        done = tf.cast(step - ramp.end_step, tf.float64) / length + 1.0
        done = tf.clip_by_value(done, 0.0, 1.0)
        sparsity = schedules.cubic(done, ramp.initial_sparsity, ramp.final_sparsity)
        return self._is_due(step), sparsity

    def _is_due(self, step):
        ramp = self._schedule
        if (ramp.end_step - ramp.begin_step) // ramp.frequency < _FEW:
            # Every layer asks at every step, and this takes it two operations.
            return tf.reduce_any(step == tf.constant(ramp.renewals(), step.dtype))
        since = step - ramp.begin_step
        regular = (since >= 0) & (step <= ramp.end_step) & (since % ramp.frequency == 0)
        return regular | (step == ramp.end_step)


def zero_count(sparsity: tf.Tensor, units: int, tensors: int = 1) -> tf.Tensor:
    """`masks.zero_count` for a float64 sparsity in the graph: an int32 scalar."""
    zeros = tf.cast(tf.round(sparsity * units), tf.int32)
    return tf.minimum(zeros, units - tensors)
