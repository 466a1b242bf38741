"""Spartan: soft masks that harden, of which the forward pass sees the largest."""

import dataclasses
import functools
import math

from keras import ops

from state_of_sparsity import masks, schedules
from state_of_sparsity.checks import check_integer, check_number
from state_of_sparsity.techniques.pruning import zeros_at
from state_of_sparsity.techniques.state import State
from state_of_sparsity.techniques.targeted import SharingTechnique

_PASSES = 8
_LEAST = 1e-6


@dataclasses.dataclass(frozen=True)
class Annealing(schedules.Schedule):
    """At every step up to one, with a sparsity that grows linearly.

    Attributes:
      final_sparsity: from `end_step` on.
      end_step: of the ramp, which begins at 0.
      last: step of the last renewal.
    """

    final_sparsity: float
    end_step: int
    last: int

    def renewals(self):
        return list(range(1, self.last + 1))

    def find(self, step):
        return step <= self.last, ops.maximum(ops.minimum(step, self.last) - 1, 0)

    def is_due(self, step):
        return step <= self.last

    def sparsity(self, step):
        return self.final_sparsity * min(step / max(self.end_step, 1), 1.0)


@dataclasses.dataclass(frozen=True)
class Spartan(SharingTechnique):
    """Weights `w m` where they are the largest of the model, with soft masks m.

    `m = sigmoid(beta (|w| - mu))`, with mu such that the masks sum up to the number of
    weights that are to stay. The gradient passes to all weights, through m, mu being
    held: `g (m + beta |w| m (1 - m))`. beta and the sparsity grow linearly; from
    `fixed_step` on the masks stay, with the values that they have (Tai et al. 2022,
    arXiv 2205.14107, algorithm 1). Published with an end_step of 0.2 and a fixed_step
    of 0.8 of the training steps.

    Attributes:
      end_step: training step from which on the sparsity is the final one.
      fixed_step: training step from which on the masks stay.
      initial_beta: sharpness of the masks at the beginning.
      final_beta: sharpness of the masks in the end.

    Raises:
      TypeError, ValueError: for a bad value, naming it.
    """

    is_global = True

    end_step: int
    fixed_step: int
    initial_beta: float = 1.0
    final_beta: float = 20.0

    def __post_init__(self):
        super().__post_init__()
        check_integer("end_step", self.end_step, minimum=0)
        check_integer("fixed_step", self.fixed_step, minimum=1)
        check_number("initial_beta", self.initial_beta, above=0.0)
        check_number("final_beta", self.final_beta, above=0.0)
        if self.fixed_step < self.end_step:
            raise ValueError(
                "fixed_step must not be before end_step, or the masks never become as "
                f"sparse. Received: end_step={self.end_step}, "
                f"fixed_step={self.fixed_step}"
            )

    @property
    def settled_step(self):
        return self.fixed_step

    def schedule(self):
        return Annealing(self.sparsity, self.end_step, self.fixed_step)

    def state(self, place):
        del place
        return {"mask": State(1.0), "mu": State(shape=())}

    def _beta(self, step):
        share = ops.minimum(ops.cast(step, "float32") / self.fixed_step, 1.0)
        return self.initial_beta + (self.final_beta - self.initial_beta) * share

    def renewed(self, weights, index):
        sizes = [ops.abs(theta) for theta, _, _ in weights]
        groups = [sizes] if self.shared_threshold else [[tensor] for tensor in sizes]
        beta, found = self._beta(index + 1), []
        for group, zeros in zip(groups, zeros_at(self, weights, index), strict=True):
            mu = soft_threshold(group, zeros, beta)
            threshold = masks.threshold(group, zeros)
            for size in group:
                soft = ops.sigmoid(beta * (size - mu))
                mask = ops.where(size > threshold, soft, 0.0)
                found.append({"mask": mask, "mu": mu})
        return found

    def training_weight(self, theta, state, step, noise):
        del step, noise
        return self.deployed_weight(theta, state)

    def deployed_weight(self, theta, state):
        return theta * ops.cast(state["mask"], theta.dtype)

    def keeps(self, theta, state):
        del theta
        return state["mask"] > 0.0

    def backward(self, theta, state, gradient, step):
        size, beta = ops.abs(theta), self._beta(step)
        soft = ops.sigmoid(beta * (size - state["mu"]))
        slope = soft + beta * size * soft * (1.0 - soft)
        return gradient * ops.where(step <= self.fixed_step, slope, state["mask"]), {}


def soft_threshold(values, zeros, beta):
    """`mu` so that the sum of `sigmoid(beta (v - mu))` is the number that stays.

    By Newton's method within bounds that close in, to the precision of a float32 sum.

    Args:
      values: a list of tensors.
      zeros: int32 scalar, how many of all their elements do not stay.
      beta: positive scalar.
    """
    size = sum(math.prod(value.shape) for value in values)
    density = 1.0 - ops.cast(zeros, "float32") / size
    density = ops.clip(density, _LEAST, 1.0 - _LEAST)
    shift = (ops.log(density) - ops.log(1.0 - density)) / beta
    low = functools.reduce(ops.minimum, map(ops.min, values)) - shift
    high = functools.reduce(ops.maximum, map(ops.max, values)) - shift

    def closer(_, bounds):
        low, high, mu = bounds
        gates = [ops.sigmoid(beta * (value - mu)) for value in values]
        excess = sum(map(ops.sum, gates)) - density * size
        slope = beta * sum(ops.sum(gate * (1.0 - gate)) for gate in gates)
        low = ops.where(excess > 0.0, mu, low)
        high = ops.where(excess > 0.0, high, mu)
        new = mu + excess / ops.maximum(slope, _LEAST)
        outside = ops.logical_or(new < low, new > high)
        return low, high, ops.where(outside, (low + high) / 2.0, new)

    return ops.fori_loop(0, _PASSES, closer, (low, high, (low + high) / 2.0))[2]
