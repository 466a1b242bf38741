"""Schedules in the graph: functions of the step."""

from state_of_sparsity import schedules
from state_of_sparsity.engines.tf_keras.backend import tf

# So many renewals are compared with the step one by one.
_FEW = 1000


class Schedule:
    """A schedule of `state_of_sparsity.schedules`, called as a TF-MOT's is.

    TF-MOT's own wrapper does not take it.
    """

    def __init__(self, schedule: schedules.Schedule):
        self._schedule = schedule

    def __call__(self, step):
        """Whether to renew masks at the step, and the sparsity that holds from it."""
        renewals = self._schedule.renewals()
        sparsities = [0.0, *map(self._schedule.sparsity, renewals)]
        past = tf.constant(renewals, tf.int64) <= tf.cast(step, tf.int64)
        number = tf.reduce_sum(tf.cast(past, tf.int32))
        return is_due(self._schedule, step), tf.constant(sparsities)[number]


def is_due(schedule: schedules.Schedule, step: tf.Tensor) -> tf.Tensor:
    """Whether there is a renewal at a step: a Boolean scalar."""
    step = tf.cast(step, tf.int32)
    is_ramp = isinstance(schedule, schedules.CubicSchedule) and not schedule.goes_on
    if is_ramp and len(schedule.renewals()) < _FEW:
        # Every layer asks at every step, and this takes it two operations.
        return tf.reduce_any(step == tf.constant(schedule.renewals(), tf.int32))
    return schedule.find(step)[0]
