"""L0 regularization: a gate per weight that learns to close.

Louizos, Welling & Kingma 2018 (arXiv 1712.01312). A gate `z` has the hard concrete
distribution: a stretched, then clipped sigmoid of logistic noise, which is exactly 0
and exactly 1 with positive probability, and which has a gradient in between.
"""

import dataclasses
import math

from keras import ops

from state_of_sparsity.checks import check_number
from state_of_sparsity.fusion import fused
from state_of_sparsity.numerics import at_least_float32
from state_of_sparsity.techniques.grouped import GroupedTechnique
from state_of_sparsity.techniques.state import OPTIMIZER, State

# Standard deviation of the initial log alpha, which breaks ties between gates.
INITIAL_DEVIATION = 0.01


def stretch(s, gamma: float, zeta: float):
    """`min(1, max(0, s (zeta - gamma) + gamma))` (equations 11 and 12)."""
    return ops.clip(s * (zeta - gamma) + gamma, 0.0, 1.0)


def sampled_gate(log_alpha, uniform, beta: float, gamma: float, zeta: float):
    """A hard concrete gate (equations 10 to 12).

    `stretch(sigmoid((log u - log(1 - u) + log alpha) / beta))`

    Args:
      log_alpha: location of each gate.
      uniform: noise in [0, 1], of the same shape; its ends are moved into (0, 1).
      beta: temperature.
      gamma: lower end of the stretched interval, negative.
      zeta: upper end of the stretched interval, above 1.
    """
    tiny = 1e-7
    log_alpha = at_least_float32(log_alpha)
    uniform = ops.clip(at_least_float32(uniform), tiny, 1.0 - tiny)
    logistic = ops.log(uniform / (1.0 - uniform))
    return stretch(ops.sigmoid((logistic + log_alpha) / beta), gamma, zeta)


def deployed_gate(log_alpha, gamma: float, zeta: float):
    """`stretch(sigmoid(log alpha))`: the gate without noise (equation 13)."""
    return stretch(ops.sigmoid(at_least_float32(log_alpha)), gamma, zeta)


def expected_l0(log_alpha, beta: float, gamma: float, zeta: float):
    """Probability that a gate is not 0: `sigmoid(log alpha - beta log(-gamma / zeta))`.

    Its sum over all gates is the expected number of non-zero weights.
    """
    return ops.sigmoid(at_least_float32(log_alpha) - beta * math.log(-gamma / zeta))


def _gated(theta, log_alpha, uniform, beta, gamma, zeta):
    return theta * sampled_gate(log_alpha, uniform, beta, gamma, zeta)


@dataclasses.dataclass(frozen=True)
class L0Regularization(GroupedTechnique):
    """Weights are multiplied with gates, whose expected number open is penalized.

    In training the weight is `theta z` with a hard concrete gate `z` drawn once per
    weight and step; deployed, with the gate without noise (Louizos et al. 2018). With a
    structure, all weights of an input, a channel or a head have one gate, which counts
    for all of them in the penalty (there, "group sparsity under an L0 norm").

    Attributes:
      l0_weight: of the expected number of non-zero weights in the loss.
      beta: temperature of the gates.
      gamma: lower end of the interval that gates are stretched to, below 0.
      zeta: upper end of the interval that gates are stretched to, above 1.
      initial_log_alpha: mean log alpha of the gates at the beginning.

    Raises:
      TypeError, ValueError: for a bad value, naming it.
    """

    penalty_weight = "l0_weight"

    l0_weight: float | None = None
    ramp: str = "linear"
    ramp_begin: int = 0
    ramp_length: int = 1
    beta: float = 2 / 3
    gamma: float = -0.1
    zeta: float = 1.1
    initial_log_alpha: float = 2.197

    def __post_init__(self):
        super().__post_init__()
        check_number("beta", self.beta, above=0.0)
        check_number("gamma", self.gamma, below=0.0)
        check_number("zeta", self.zeta, above=1.0)
        check_number("initial_log_alpha", self.initial_log_alpha)

    def parameter(self):
        initial, deviation = self.initial_log_alpha, INITIAL_DEVIATION
        return {"log_alpha": State(initial, deviation, changed_by=OPTIMIZER)}

    def training_weight(self, theta, state, step, noise):
        del step
        if self.is_grouped:
            gate = fused(sampled_gate, self._gate, "uniform")
            return theta * gate(state["log_alpha"], noise=noise)
        gated = fused(_gated, self._gate, "uniform")
        return gated(theta, state["log_alpha"], noise=noise)

    def deployed_weight(self, theta, state):
        return theta * deployed_gate(state["log_alpha"], self.gamma, self.zeta)

    def margin(self, theta, state):
        del theta
        # The gate is 0 from `sigmoid(log alpha) = -gamma / (zeta - gamma)` down.
        return state["log_alpha"] - math.log(-self.gamma / self.zeta)

    def keeps(self, theta, state):
        gate = deployed_gate(state["log_alpha"], self.gamma, self.zeta)
        # So turned, what is NaN is no zero.
        return self.of_weights(ops.logical_not(gate <= 0.0), theta)

    def penalty(self, theta, state):
        number = ops.sum(fused(expected_l0, self._gate)(state["log_alpha"]))
        return self.pattern.price(tuple(theta.shape)) * number

    @property
    def _gate(self):
        return self.beta, self.gamma, self.zeta
