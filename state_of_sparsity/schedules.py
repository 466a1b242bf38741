"""Schedules of when masks are renewed, and how sparse they are then."""

import abc
import dataclasses
import functools

import numpy as np
from keras import ops


def cubic(done, initial, final):
    """`s_f + (s_i - s_f) * (1 - done) ** 3` (Zhu & Gupta 2017, equation 1).

    Args:
      done: share of the ramp that is done, in [0, 1]: a number or a tensor.
      initial: sparsity at which the ramp begins.
      final: sparsity at which it ends.
    """
    left = 1.0 - done
    return final + (initial - final) * left * left * left


class Schedule(abc.ABC):
    """When state is renewed, and how sparse a weight is then."""

    @abc.abstractmethod
    def renewals(self) -> list[int]:
        """The training steps of the renewals, in ascending order.

        Steps count from one.
        """

    @abc.abstractmethod
    def sparsity(self, step: int) -> float:
        """The sparsity at a training step, in float64."""

    def find(self, step):
        """Whether there is a renewal at a step, an int32 scalar, and which it is."""
        at_step = ops.equal(step, np.asarray(self.renewals(), "int32"))
        return ops.any(at_step), ops.argmax(ops.cast(at_step, "int32"))

    def is_due(self, step: int) -> bool:
        """Whether there is a renewal at a step, where that is a number."""
        return step in self.renewals()


class Never(Schedule):
    """There are no renewals."""

    def renewals(self):
        return []

    def sparsity(self, step):
        del step
        return 0.0


@dataclasses.dataclass(frozen=True)
class CubicSchedule(Schedule):
    """The gradual schedule of Zhu & Gupta 2017 (arXiv 1710.01878, equation 1).

    `s(t) = s_f + (s_i - s_f) * (1 - (t - begin) / (end - begin)) ** 3`

    for `begin <= t <= end`. Masks are renewed at `begin`, every `frequency` steps
    after it, and at `end`, also where the ramp is no multiple of `frequency`, so
    that the final sparsity is always reached, unless `last_renewal` says otherwise.
    Steps count from one: what is due at 0 is not done, and a ramp that ends at 0 is
    taken at the first step.

    Attributes:
      final_sparsity: at the end of the ramp.
      begin_step: at which it begins.
      end_step: at which it ends.
      frequency: steps from one renewal to the next.
      initial_sparsity: at the beginning of the ramp.
      goes_on: whether renewals go on after the ramp, every `frequency` steps, as the
        last of it.
      last_renewal: of the ramp: end_step, or multiple, the last step up to there that
        is `begin` plus a multiple of `frequency`.
    """

    final_sparsity: float
    begin_step: int
    end_step: int
    frequency: int
    initial_sparsity: float = 0.0
    goes_on: bool = False
    last_renewal: str = "end_step"

    @property
    def last(self) -> int:
        """Step of the last renewal of the ramp."""
        if self.last_renewal == "multiple":
            return self.end_step - (self.end_step - self.begin_step) % self.frequency
        return max(self.end_step, 1)

    def renewals(self):
        steps = range(self.begin_step, self.last + 1, self.frequency)
        return sorted({*steps, self.last} - {0})

    def find(self, step):
        # Every layer asks at every step, and each operation takes a compiler its time.
        within = ops.minimum(step, self.last)
        since = within - self.begin_step
        index = since
        due = since >= 0
        if self.frequency > 1:
            index = (since + self.frequency - 1) // self.frequency
            is_regular = since % self.frequency == 0
            due = ops.logical_and(due, ops.logical_or(is_regular, within == self.last))
        if not self.goes_on:
            due = ops.logical_and(due, step <= self.last)
        elif self.frequency > 1:
            due = ops.logical_and(due, (step - within) % self.frequency == 0)
        # Steps count from one.
        return due, index - int(self.begin_step == 0)

    def is_due(self, step):
        if step > self.last:
            return self.goes_on and (step - self.last) % self.frequency == 0
        since = step - self.begin_step
        return step == self.last or since >= 0 == since % self.frequency

    def sparsity(self, step):
        return cubic(self.done(step), self.initial_sparsity, self.final_sparsity)

    def done(self, step: int) -> float:
        """The share of the ramp that is done at a training step."""
        # A ramp without length is done when it begins.
        length = max(self.end_step - self.begin_step, 1)
        return min(max((step - self.end_step) / length + 1.0, 0.0), 1.0)


@functools.lru_cache
def sparsities(schedule, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """How long each sparsity holds in the first steps of training, once masks are made.

    Args:
      schedule: as of a technique.
      steps: number of training steps.

    Returns:
      Numbers of steps, and sparsities.
    """
    renewals = [step for step in schedule.renewals() if step <= steps]
    found = np.array([schedule.sparsity(step) for step in renewals])
    return np.diff([*renewals, steps + 1]), found
