"""Schedules in the graph: functions of the step, as TF-MOT's `PruningSchedule`."""

import dataclasses

from state_of_sparsity import schedules
from state_of_sparsity.engines.tf_keras.backend import (
    PruningSchedule,
    keras,
    pruning_schedule,
    tf,
)

# So many renewals are compared with the step one by one.
_FEW = 1000


class CubicSchedule(PruningSchedule):
    """`state_of_sparsity.schedules.CubicSchedule` in the graph.

    It has the interface of a TF-MOT `PruningSchedule`. TF-MOT's own wrapper, which
    computes in float32, does not take it.
    """

    def __init__(self, schedule: schedules.CubicSchedule):
        self._schedule = schedule

    def __call__(self, step):
        """Whether to renew masks at the step (int64), and the sparsity (float64)."""
        ramp = self._schedule
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

    def get_config(self):
        config = dataclasses.asdict(self._schedule)
        config["sparsity"] = config.pop("final_sparsity")
        # The nesting is TF-MOT's.
        return {"class_name": type(self).__name__, "config": config}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        return cls(schedules.CubicSchedule(config.pop("sparsity"), **config))


class Never(PruningSchedule):
    """`state_of_sparsity.schedules.Never` in the graph."""

    def __call__(self, step):
        del step
        return tf.constant(False), tf.constant(0.0, tf.float64)

    def get_config(self):
        return {"class_name": type(self).__name__, "config": {}}


# Those that are not registered with Keras.
_SCHEDULES = {
    "ConstantSparsity": pruning_schedule.ConstantSparsity,
    "PolynomialDecay": pruning_schedule.PolynomialDecay,
    "CubicSchedule": CubicSchedule,
}


def in_graph(schedule):
    """A schedule as a function of a tensor with the step."""
    if isinstance(schedule, schedules.CubicSchedule):
        return CubicSchedule(schedule)
    if isinstance(schedule, schedules.Never):
        return Never()
    return schedule


def with_schedule(technique):
    """A technique with its schedule, if a configuration left only that of it."""
    saved = getattr(technique, "pruning_schedule", None)
    if not isinstance(saved, dict):
        return technique
    name = saved["class_name"]
    cls = keras.utils.get_registered_object(name, module_objects=_SCHEDULES)
    if cls is None:
        raise ValueError(
            f"Unknown schedule {name!r}: import the module that registers it with "
            "keras.utils.register_keras_serializable."
        )
    schedule = cls.from_config(saved["config"])
    return dataclasses.replace(technique, pruning_schedule=schedule)


def zero_count(sparsity: tf.Tensor, units: int, tensors: int = 1) -> tf.Tensor:
    """`masks.zero_count` for a sparsity in the graph: an int32 scalar.

    Args:
      sparsity: scalar in [0, 1). A float32 is read as the decimal number of at
        most seven digits that it stands for, since the float32 nearest to 0.7 is
        below 0.7 and would round 3.5 zeros of 5 down.
      units: number of weights, or of blocks of weights, at least 1 of each tensor.
      tensors: that have them together.
    """
    sparsity = tf.convert_to_tensor(sparsity)
    exact = tf.cast(sparsity, tf.float64)
    if sparsity.dtype == tf.float32:
        exact = tf.round(exact * 1e7) / 1e7
    return tf.minimum(tf.cast(tf.round(exact * units), tf.int32), units - tensors)
