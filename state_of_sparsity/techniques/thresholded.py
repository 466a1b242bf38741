"""Soft thresholds: weights below one, of the whole model, are zero; it is no parameter.

A technique of the family says what is left of the weights above it.
"""

import dataclasses
from typing import ClassVar

from keras import ops

from state_of_sparsity import masks, schedules
from state_of_sparsity.techniques.pruning import check_ramp, zeros_at
from state_of_sparsity.techniques.state import State
from state_of_sparsity.techniques.targeted import SharingTechnique


@dataclasses.dataclass(frozen=True)
class ThresholdTechnique(SharingTechnique):
    """Base of the techniques with a threshold that is set anew at every step.

    It is the quantile of the scores of all weights at the sparsity of the step, which
    grows by the cubic ramp of Zhu & Gupta. A masked weight goes on learning, and comes
    back above the threshold. Deployed, it is that of the last step: weights that the
    update then moves across it, or an average of weights does, make the sparsity differ
    by as much.

    Attributes:
      begin_step: training step at which the sparsity begins to grow.
      end_step: training step from which on it is the final one.

    Raises:
      TypeError, ValueError: for a bad value, naming it.
    """

    is_global: ClassVar[bool] = True

    begin_step: int
    end_step: int

    def __post_init__(self):
        super().__post_init__()
        check_ramp(self.begin_step, self.end_step)

    @property
    def settled_step(self):
        return self.end_step

    def schedule(self):
        return schedules.CubicSchedule(
            self.sparsity, self.begin_step, self.end_step, 1, goes_on=True
        )

    def state(self, place):
        del place
        # Below all scores.
        return {"threshold": State(-1.0, shape=())}

    def score(self, theta):
        """What each weight is compared with the threshold by; not negative."""
        return ops.abs(theta)

    def renewed(self, weights, index):
        scores = [self.score(theta) for theta, _, _ in weights]
        groups = [scores] if self.shared_threshold else [[tensor] for tensor in scores]
        guesses = [state["threshold"] for _, state, _ in weights]
        found = [
            masks.threshold(group, count, guess)
            for group, count, guess in zip(
                groups, zeros_at(self, weights, index), guesses, strict=False
            )
        ]
        return [{"threshold": found[i % len(found)]} for i in range(len(weights))]

    def keeps(self, theta, state):
        return self.score(theta) > state["threshold"]

    def kept_weights(self, mask, steps):
        lengths, sparsities = schedules.sparsities(self.schedule(), steps)
        last = sparsities[-1] if sparsities.any() else 1.0
        shares = sparsities / last * (1.0 - mask.mean())
        return mask.size * steps - round(float(lengths @ (shares * mask.size)))
