"""Base of the techniques that multiply weights with a mask."""

from keras import ops

from state_of_sparsity.techniques.base import Technique
from state_of_sparsity.techniques.state import State


class MaskingTechnique(Technique):
    """Base of the techniques whose weights are `theta * mask`.

    Attributes:
      masked_weights: whether they stay masked, or return once a mask lets them; see
        `PruningTechnique`.
    """

    masked_weights: str = "stay"

    def state(self, place):
        del place
        return {"mask": State(1.0, dtype="bool")}

    def regularized_weight(self, theta, state):
        stay = self.masked_weights == "stay"
        return self.deployed_weight(theta, state) if stay else theta

    def training_weight(self, theta, state, step, noise):
        del step, noise
        return self.deployed_weight(theta, state)

    def deployed_weight(self, theta, state):
        return theta * ops.cast(self.keeps(theta, state), theta.dtype)

    def keeps(self, theta, state):
        del theta
        # Also of a mask that is a number, to which gradients were added.
        return ops.cast(state["mask"], "bool")
