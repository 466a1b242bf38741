"""Base of the techniques that multiply weights with a mask."""

from keras import ops

from state_of_sparsity.techniques.base import Technique


class MaskingTechnique(Technique):
    """Base of the techniques whose weights are `theta * mask`.

    Attributes:
      masked_weights: whether they stay masked, or return once a mask lets them; see
        `PruningTechnique`.
    """

    masked_weights: str = "stay"

    extra_name = "mask"
    extra_dtype = "bool"
    extra_is_trained = False
    draws_noise = False
    extra_initial = (1.0, 0.0)

    def regularized_weight(self, theta, mask):
        """What a regularizer of the weight sees."""
        stay = self.masked_weights == "stay"
        return self.deployed_weight(theta, mask) if stay else theta

    def training_weight(self, theta, extra, noise):
        del noise
        return self.deployed_weight(theta, extra)

    def deployed_weight(self, theta, extra):
        return theta * ops.cast(extra, theta.dtype)

    def keeps(self, theta, extra):
        del theta
        return ops.cast(extra, "bool")
