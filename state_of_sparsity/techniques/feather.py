"""Feather: a threshold that is nearly hard, and yet continuous."""

import dataclasses

from keras import ops

from state_of_sparsity.checks import check_number
from state_of_sparsity.techniques.thresholded import ThresholdTechnique


@dataclasses.dataclass(frozen=True)
class Feather(ThresholdTechnique):
    """Weights `sign(w) (|w|^3 - t^3)^(1/3)` above a threshold t of the whole model.

    Straight through: the gradient passes as it is, times `masked_gradient` where a
    weight is masked (Glentis Georgoulakis, Retsinas & Maragos 2023, arXiv 2310.02448).
    Deployed, a weight above the threshold is `w`. Published with `end_step` half of the
    training steps.

    Attributes:
      masked_gradient: by default 1, or 0.5 if the sparsity is above 0.95.
    """

    masked_gradient: float | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.masked_gradient is not None:
            check_number("masked_gradient", self.masked_gradient, minimum=0.0)

    def training_weight(self, theta, state, step, noise):
        del step, noise
        magnitude = ops.abs(theta)
        share = ops.maximum(state["threshold"], 0.0) / ops.maximum(magnitude, 1e-38)
        # Of the weight itself, since the cubes of small ones are none.
        left = magnitude * ops.cbrt(ops.maximum(1.0 - share * share * share, 0.0))
        return ops.where(self.keeps(theta, state), ops.sign(theta) * left, 0.0)

    def deployed_weight(self, theta, state):
        return ops.where(self.keeps(theta, state), theta, 0.0)

    def backward(self, theta, state, gradient, step):
        del step
        scale = self.masked_gradient
        if scale is None:
            scale = 0.5 if self.sparsity > 0.95 else 1.0
        if scale == 1.0:
            return gradient, {}
        return ops.where(self.keeps(theta, state), gradient, scale * gradient), {}
