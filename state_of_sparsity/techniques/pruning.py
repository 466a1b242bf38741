"""The pruning family: a mask per weight, renewed on a schedule.

A technique of the family is a file with a dataclass that says what a weight is worth,
its score. When masks are renewed (`schedules`), in which pattern (`structures`), how
many weights go (`budgets`), and what holds the masks (an engine) are parts of their
own, which never know of each other.
"""

import abc
import dataclasses
import functools

import numpy as np
from keras import ops

from state_of_sparsity import masks, schedules
from state_of_sparsity.checks import check_choice, check_fraction, check_integer
from state_of_sparsity.techniques.masked import MaskingTechnique
from state_of_sparsity.techniques.patterned import PatternedTechnique
from state_of_sparsity.techniques.targeted import SharingTechnique


class ScoringTechnique(MaskingTechnique, PatternedTechnique, SharingTechnique):
    """Base of the techniques that mask the weights of the lowest scores at renewals."""

    @abc.abstractmethod
    def score(self, weight, state, stream: tuple[int, int]):
        """What each weight is worth; those with the lowest scores are masked.

        Args:
          weight: the weight tensor. Of what is masked already, and stays so, it is 0.
          state: tensors by name.
          stream: as of `Place`, for random scores.

        Returns:
          A float tensor of the same shape.
        """

    def renewed(self, weights, index):
        scores = [self._score_to_compare(*each) for each in weights]
        zeros = self.counts(scores, zeros_at(self, weights, index))
        return [{"mask": mask} for mask in self.pattern.masks(scores, zeros)]

    def _score_to_compare(self, theta, state, stream):
        score = self.score(self.regularized_weight(theta, state), state, stream)
        if self.masked_weights == "return":
            return score
        # What stays masked comes before all others: before those that score zero, too,
        # as those of a unit that nothing uses.
        return ops.where(state["mask"], score, -float("inf"))

    def kept_weights(self, mask, steps):
        lengths, sparsities = schedules.sparsities(self.schedule(), steps)
        if self.companions is None:
            shares = self.pattern.masked_share(sparsities, mask.shape)
        else:
            # Nothing has noted how many went when: as if a weight had always had the
            # same share of all zeros. Summed over the layers, that is exact, up to the
            # rounding of units.
            last = sparsities[-1] if sparsities.any() else 1.0
            shares = sparsities / last * (1.0 - mask.mean())
        # Exact, but for blocks that an edge cuts.
        return mask.size * steps - round(float(np.dot(lengths, shares * mask.size)))


@dataclasses.dataclass(frozen=True)
class PruningTechnique(ScoringTechnique):
    """Base of the techniques whose masks become sparser along a ramp.

    Attributes:
      begin_step: training step at which pruning begins.
      end_step: training step at which the final sparsity is reached.
      frequency: training steps from one renewal of the masks to the next.
      initial_sparsity: sparsity at which the ramp begins.
      masked_weights: whether they stay masked, or return once a later threshold falls
        below the value that they had: stay or return.
      last_renewal: step of the last renewal: end_step, or multiple, the last one up to
        there that is begin_step plus a multiple of frequency, at its sparsity.

    Raises:
      TypeError, ValueError: for a bad value, naming it.
    """

    begin_step: int
    end_step: int
    frequency: int
    _: dataclasses.KW_ONLY
    initial_sparsity: float = 0.0
    masked_weights: str = "stay"
    last_renewal: str = "end_step"

    def __post_init__(self):
        super().__post_init__()
        check_ramp(self.begin_step, self.end_step)
        check_integer("frequency", self.frequency, minimum=1)
        check_fraction("initial_sparsity", self.initial_sparsity)
        check_choice("masked_weights", self.masked_weights, ("stay", "return"))
        check_choice("last_renewal", self.last_renewal, ("end_step", "multiple"))
        length = self.end_step - self.begin_step
        if self.last_renewal == "multiple" and length < self.frequency:
            raise ValueError(
                "last_renewal must be 'end_step' for a ramp that is shorter than "
                "frequency, since nothing would be pruned. Received: 'multiple', "
                f"begin_step={self.begin_step}, end_step={self.end_step}, "
                f"frequency={self.frequency}"
            )

    @property
    def settled_step(self):
        return self.end_step

    def schedule(self):
        return schedules.CubicSchedule(
            self.sparsity,
            self.begin_step,
            self.end_step,
            self.frequency,
            self.initial_sparsity,
            last_renewal=self.last_renewal,
        )


def check_ramp(begin_step: int, end_step: int) -> None:
    """Raises unless a ramp ends where it begins, or later."""
    check_integer("begin_step", begin_step, minimum=0)
    check_integer("end_step", end_step, minimum=0)
    if end_step < begin_step:
        raise ValueError(
            "end_step must not be before begin_step. Received: "
            f"begin_step={begin_step}, end_step={end_step}"
        )


def zeros_at(technique: SharingTechnique, weights, index) -> list:
    """How many units go at a renewal: an int32 scalar for each pool of its pattern.

    One for all of them if they share a threshold.

    Args:
      technique: with a schedule and a pattern.
      weights, index: as of `Technique.renewed`.
    """
    shapes = tuple(tuple(theta.shape) for theta, _, _ in weights)
    return [ops.take(row, index) for row in _zeros_by_renewal(technique, shapes)]


@functools.cache
def _zeros_by_renewal(technique, shapes):
    # Counted in Python, since a float32 counts no further than 2**24.
    schedule = technique.schedule()
    sparsities = [schedule.sparsity(step) for step in schedule.renewals()]
    zeros = [
        [masks.zero_count(sparsity, *number) for sparsity in sparsities]
        for number in technique.units(shapes)
    ]
    return np.asarray(zeros, "int32")
