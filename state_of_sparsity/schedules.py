"""Schedules of when masks are renewed, and how sparse they are then."""

import dataclasses
import functools

import numpy as np


def cubic(done, initial, final):
    """`s_f + (s_i - s_f) * (1 - done) ** 3` (Zhu & Gupta 2017, equation 1).

    Args:
      done: share of the ramp that is done, in [0, 1]: a number or a tensor.
      initial: sparsity at which the ramp begins.
      final: sparsity at which it ends.
    """
    left = 1.0 - done
    return final + (initial - final) * left * left * left


@dataclasses.dataclass(frozen=True)
class CubicSchedule:
    """The gradual schedule of Zhu & Gupta 2017 (arXiv 1710.01878, equation 1).

    `s(t) = s_f + (s_i - s_f) * (1 - (t - begin) / (end - begin)) ** 3`

    for `begin <= t <= end`. Masks are renewed at `begin`, every `frequency` steps
    after it, and at `end`, also where the ramp is no multiple of `frequency`, so
    that the final sparsity is always reached. Steps count from one: what is due at 0
    is not done, and a ramp that ends at 0 is taken at the first step.

    Another schedule has the same two methods.

    Attributes:
      final_sparsity: at the end of the ramp.
      begin_step: at which it begins.
      end_step: at which it ends.
      frequency: steps from one renewal to the next.
      initial_sparsity: at the beginning of the ramp.
    """

    final_sparsity: float
    begin_step: int
    end_step: int
    frequency: int
    initial_sparsity: float = 0.0

    def renewals(self) -> list[int]:
        """The training steps at which masks are renewed, in ascending order."""
        last = max(self.end_step, 1)
        steps = range(self.begin_step, last + 1, self.frequency)
        return sorted({*steps, last} - {0})

    def sparsity(self, step: int) -> float:
        """The sparsity at a training step, in float64."""
        return cubic(self.done(step), self.initial_sparsity, self.final_sparsity)

    def done(self, step: int) -> float:
        """The share of the ramp that is done at a training step."""
        # A ramp without length is done when it begins.
        length = max(self.end_step - self.begin_step, 1)
        return min(max((step - self.end_step) / length + 1.0, 0.0), 1.0)


@dataclasses.dataclass(frozen=True)
class Never:
    """Masks are never renewed."""

    def renewals(self) -> list[int]:
        return []

    def sparsity(self, step: int) -> float:
        del step
        return 0.0


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
