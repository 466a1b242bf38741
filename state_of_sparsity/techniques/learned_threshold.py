"""STR: each layer learns its threshold."""

import dataclasses

from keras import ops

from state_of_sparsity.checks import check_number
from state_of_sparsity.techniques.base import Technique
from state_of_sparsity.techniques.state import OPTIMIZER, State


@dataclasses.dataclass(frozen=True)
class STR(Technique):
    """Weights `sign(w) max(|w| - sigmoid(s), 0)` with a trained scalar s per tensor.

    Soft threshold reparameterization (Kusupati et al. 2020, arXiv 2002.03231). How
    sparse a layer becomes is an outcome: of where `s` begins, and of its decay, which
    takes it towards 0, and the threshold towards 1/2. Published for 90 %: -3200 and
    2.2518e-5, which is the weight decay of all weights as well.

    Attributes:
      threshold_init: s at the beginning.
      weight_decay: of s: `weight_decay s^2 / 2` is added to the loss.

    Raises:
      TypeError, ValueError: for a bad value, naming it.
    """

    threshold_init: float
    weight_decay: float

    def __post_init__(self):
        check_number("threshold_init", self.threshold_init)
        check_number("weight_decay", self.weight_decay, minimum=0.0)

    def state(self, place):
        del place
        return {"s": State(self.threshold_init, shape=(), changed_by=OPTIMIZER)}

    def training_weight(self, theta, state, step, noise):
        del step, noise
        return self.deployed_weight(theta, state)

    def deployed_weight(self, theta, state):
        left = ops.abs(theta) - ops.sigmoid(state["s"])
        return ops.sign(theta) * ops.relu(left)

    def keeps(self, theta, state):
        return ops.abs(theta) > ops.sigmoid(state["s"])

    def penalty(self, theta, state):
        del theta
        return self.weight_decay / 2.0 * ops.square(state["s"])
