"""Sparse training: masks of the budget from the first step, whose places change.

A technique of the family says which weights grow, and how many there are when.
"""

import abc
import dataclasses
import functools
import math

import numpy as np
from keras import ops

from state_of_sparsity import masks, schedules
from state_of_sparsity.checks import check_fraction, check_integer
from state_of_sparsity.techniques.masked import MaskingTechnique
from state_of_sparsity.techniques.state import BACKWARD, State
from state_of_sparsity.techniques.structured import StructuredTechnique
from state_of_sparsity.techniques.targeted import TargetedTechnique


@dataclasses.dataclass(frozen=True)
class Updates(schedules.Schedule):
    """At every `frequency` steps, from the second step on, and at the last one.

    Attributes:
      ramp: says how sparse a weight is when.
      last: step.
      frequency: steps from one update to the next.
    """

    ramp: schedules.CubicSchedule
    last: int
    frequency: int

    def renewals(self):
        # Before the first step, there is no gradient.
        steps = {*range(self.frequency, self.last + 1, self.frequency), self.last}
        return sorted(steps - {0, 1})

    def find(self, step):
        is_regular = ops.logical_or(step % self.frequency == 0, step == self.last)
        due = ops.logical_and(is_regular, ops.logical_and(step > 1, step <= self.last))
        index = (step + self.frequency - 1) // self.frequency - 1
        return due, index - int(self.frequency == 1)

    def is_due(self, step):
        is_regular = step % self.frequency == 0 or step == self.last
        return is_regular and 1 < step <= self.last

    def sparsity(self, step):
        return self.ramp.sparsity(step)


@dataclasses.dataclass(frozen=True)
class RegrowingTechnique(MaskingTechnique, StructuredTechnique, TargetedTechnique):
    """Base of the techniques that drop weights and grow as many elsewhere.

    Training begins with a random mask. At an update, the `f nnz` smallest of the active
    weights are dropped, and as many are grown among all that are not kept, with
    `f(t) = drop_fraction / 2 (1 + cos(pi t / end_step))`, rounded down. Masked weights
    are zero after each update of the optimizer, and what grows starts from there. A
    momentum of what was dropped decays; the second moments of Adam do so in a thousand
    steps.

    Attributes:
      end_step: training step from which on the mask stays as it is.
      frequency: training steps from one update of the mask to the next.
      drop_fraction: share of the active weights that is dropped at the first update.
      seed: of the first mask, and of what grows at random.

    Raises:
      TypeError, ValueError: for a bad value, naming it.
    """

    end_step: int
    frequency: int
    drop_fraction: float = 0.3
    seed: int = 0

    def __post_init__(self):
        super().__post_init__()
        self.check_structure()
        check_integer("end_step", self.end_step, minimum=0)
        check_integer("frequency", self.frequency, minimum=1)
        check_fraction("drop_fraction", self.drop_fraction)
        check_integer("seed", self.seed, minimum=0)
        if self.frequency > self.end_step:
            raise ValueError(
                "frequency must not be above end_step, or the mask never changes. "
                f"Received: frequency={self.frequency}, end_step={self.end_step}"
            )

    @abc.abstractmethod
    def growth(self, gradient, state, step):
        """What is grown first: that of the highest values of a float tensor.

        Args:
          gradient: of the loss with respect to each weight, masked ones included.
          state: tensors by name.
          step: int32 scalar.
        """

    @property
    def first_sparsity(self) -> float:
        """Sparsity of the mask with which training begins."""
        return self.sparsity

    @property
    def settled_step(self):
        return self.end_step

    def schedule(self):
        ramp = schedules.CubicSchedule(
            self.sparsity, 0, self.end_step, self.frequency, self.first_sparsity
        )
        return Updates(ramp, self.end_step, self.frequency)

    def state(self, place):
        units = self.units_of(place.shape)
        zeros = masks.zero_count(self.first_sparsity, units)
        order = np.random.default_rng([self.seed, *place.stream]).permutation(units)
        kept = (order >= zeros).reshape(self.pattern.unit_shape(place.shape))
        mask = np.broadcast_to(kept, place.shape).astype("float32")
        return {"mask": State(mask, changed_by=BACKWARD)}

    def backward(self, theta, state, gradient, step):
        active = self.keeps(theta, state)
        mask = ops.cast(active, gradient.dtype)
        due, index = self.schedule().find(step)
        pattern, shape = self.pattern, tuple(theta.shape)

        def updated():
            left, grows = (
                ops.take(counts, index)
                for counts in _counts(self, pattern.units(shape))
            )
            # Of what there is: an update of the optimizer may have been left out.
            present = ops.sum(ops.cast(active, "int32")) // pattern.price(shape)
            drops = ops.maximum(present - left + grows, 0)
            grows = left - present + drops
            size = ops.where(active, ops.abs(theta), float("inf"))
            kept = ops.logical_and(active, pattern.mask(size, drops))
            growth = self.growth(gradient, state, step)
            left_out = pattern.mask(ops.where(kept, float("inf"), -growth), grows)
            mask_now = ops.logical_or(kept, ops.logical_not(left_out))
            return ops.cast(mask_now, mask.dtype)

        return gradient * mask, {"mask": ops.cond(due, updated, lambda: mask)}

    def projected(self, theta, state):
        return self.deployed_weight(theta, state)

    def kept_weights(self, mask, steps):
        lengths, sparsities = schedules.sparsities(self.schedule(), steps)
        before = steps - int(lengths.sum())
        units = self.units_of(mask.shape)
        kept = [units - masks.zero_count(s, units) for s in sparsities]
        first = units - masks.zero_count(self.first_sparsity, units)
        return (before * first + int(np.dot(lengths, kept))) * (mask.size // units)


@functools.cache
def _counts(technique, size):
    """How many of a weight are active after each update, and grown: int32 vectors."""
    # In Python: a cosine in float32 is off by what makes one of a floor.
    schedule = technique.schedule()
    left, grows = [], []
    for step in schedule.renewals():
        share = technique.drop_fraction / 2
        share *= 1.0 + math.cos(math.pi * step / technique.end_step)
        left.append(size - masks.zero_count(schedule.sparsity(step), size))
        grows.append(math.floor(share * left[-1] + 1e-9))
    return np.asarray(left, "int32"), np.asarray(grows, "int32")
