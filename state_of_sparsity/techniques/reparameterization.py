"""The reparameterization family: weights that are functions of parameters and noise.

A technique of the family is a file with a dataclass that says what a weight is in
training, what it is when it is deployed, and what it costs.
"""

import abc
import dataclasses
import math
from typing import ClassVar, Self

from keras import ops

from state_of_sparsity.checks import check_fraction, check_number
from state_of_sparsity.fusion import weighted
from state_of_sparsity.ramps import check_ramp, ramp
from state_of_sparsity.schedules import CubicSchedule, Never
from state_of_sparsity.techniques import controller
from state_of_sparsity.techniques.base import Technique
from state_of_sparsity.techniques.state import State

# Of what is left to go, the share that a ramp goes per share of its steps left.
SLOPES = {"linear": 1.0, "cubic": 3.0}


@dataclasses.dataclass(frozen=True)
class ReparameterizationTechnique(Technique):
    """Base of the techniques that learn which weights go.

    Beside `theta`, each weight has a trainable parameter of the same shape. The weight
    of the penalty is given, or else a sparsity, towards which a controller steers it,
    tensor by tensor: see `techniques.controller`. A budget, or a sparsity as an
    override, is for those with a sparsity.

    That is reached at the end of the ramp, and held: it takes a ramp of half of
    training or so, and a learning rate with which log alpha can go its way of several
    units in it. Adam moves it by at most about the learning rate in a step.

    Attributes:
      ramp: linear or cubic: how the weight of the penalty grows from 0, or how the
        margin of the last weight to go, in log alpha, falls to 0.
      ramp_begin: training step at which that begins.
      ramp_length: training steps in which that happens.
      sparsity: share of the weights of each tensor that is zero in the end, in place of
        the weight of the penalty.
    """

    draws_noise = True
    # Name of the hyperparameter that is the weight of the penalty once it has grown.
    penalty_weight: ClassVar[str]

    _: dataclasses.KW_ONLY
    sparsity: float | None = None

    def __post_init__(self):
        name = self.penalty_weight
        weight = getattr(self, name)
        if (weight is None) == (self.sparsity is None):
            raise TypeError(
                f"{type(self).__name__} takes either {name}, the weight of its "
                "penalty, or sparsity, to which that weight is steered. Received: "
                f"{name}={weight!r}, sparsity={self.sparsity!r}"
            )
        if weight is None:
            check_fraction("sparsity", self.sparsity)
        else:
            check_number(name, weight, minimum=0.0)
        check_ramp(self.ramp, self.ramp_begin, self.ramp_length)

    @property
    def is_steered(self) -> bool:
        """Whether there is a sparsity to which the weight of the penalty is steered."""
        return self.sparsity is not None

    @abc.abstractmethod
    def parameter(self) -> dict[str, State]:
        """The trainable parameter beside a weight, by name."""

    @abc.abstractmethod
    def margin(self, theta, state):
        """Above 0 where a weight stays: by how much its log alpha could change."""

    def with_sparsity(self, sparsity: float) -> Self:
        if not self.is_steered:
            return super().with_sparsity(sparsity)
        return dataclasses.replace(self, sparsity=sparsity)

    @property
    def settled_step(self):
        return self.ramp_begin + self.ramp_length

    def state(self, place):
        del place
        if not self.is_steered:
            return self.parameter()
        steering = {name: State(shape=()) for name in ("multiplier", "margin")}
        return self.parameter() | steering

    def schedule(self):
        if not self.is_steered:
            return Never()
        return CubicSchedule(
            self.sparsity,
            self.ramp_begin,
            self.settled_step,
            controller.FREQUENCY,
            goes_on=True,
        )

    def renewed(self, weights, index):
        # What is due at step 0 is not done.
        done = (index + int(self.ramp_begin == 0)) * controller.FREQUENCY
        left = ops.cast(self.ramp_length - done, "float32") / SLOPES[self.ramp]
        return [self._steered(theta, state, left) for theta, state, _ in weights]

    def _steered(self, theta, state, left):
        before, size = state["margin"], math.prod(theta.shape)
        now = controller.margin_at(self.margin(theta, state), self.sparsity, before)
        weight = controller.steered(state["multiplier"], before, now, left, size)
        return {"multiplier": weight, "margin": now}

    def current_penalty_weight(self, state, step):
        if self.is_steered:
            return state["multiplier"]
        share = ramp(self.ramp, self.ramp_begin, self.ramp_length, step)
        return getattr(self, self.penalty_weight) * share

    def weighted_penalty(self, theta, state, step):
        weight = self.current_penalty_weight(state, step)
        # It is not computed where the weight is 0.
        if getattr(self, self.penalty_weight) == 0.0:
            return ops.zeros_like(weight)
        names = sorted(state)

        def penalty(theta, *values):
            return self.penalty(theta, dict(zip(names, values, strict=True)))

        return weighted(penalty, weight, theta, *(state[name] for name in names))
