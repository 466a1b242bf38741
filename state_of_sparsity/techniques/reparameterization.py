"""The reparameterization family: weights that are functions of parameters and noise.

A technique of the family is a file with a dataclass that says what a weight is in
training, what it is when it is deployed, and what it costs.
"""

import abc
import dataclasses

from keras import ops

from state_of_sparsity.fusion import weighted
from state_of_sparsity.ramps import check_ramp, ramp
from state_of_sparsity.techniques.base import Technique


@dataclasses.dataclass(frozen=True)
class ReparameterizationTechnique(Technique):
    """Base of the techniques that learn which weights go.

    Beside `theta`, each weight has a trainable parameter of the same shape.

    Attributes:
      ramp: linear or cubic: how the weight of the penalty grows from 0.
      ramp_begin: training step at which it begins to grow.
      ramp_length: training steps in which it grows.
    """

    draws_noise = True

    def __post_init__(self):
        check_ramp(self.ramp, self.ramp_begin, self.ramp_length)

    @property
    @abc.abstractmethod
    def penalty_weight(self) -> float:
        """What the penalty is multiplied with once the ramp is over."""

    @property
    def settled_step(self):
        return self.ramp_begin + self.ramp_length

    def current_penalty_weight(self, state, step):
        del state
        share = ramp(self.ramp, self.ramp_begin, self.ramp_length, step)
        return self.penalty_weight * share

    def weighted_penalty(self, theta, state, step):
        weight = self.current_penalty_weight(state, step)
        # It is not computed where the weight is 0.
        if self.penalty_weight == 0.0:
            return ops.zeros_like(weight)
        names = sorted(state)

        def penalty(theta, *values):
            return self.penalty(theta, dict(zip(names, values, strict=True)))

        return weighted(penalty, weight, theta, *(state[name] for name in names))
