"""ST-3: a soft threshold, straight through, with outputs scaled back."""

import dataclasses
import math

from keras import ops

from state_of_sparsity.checks import check_boolean
from state_of_sparsity.techniques.thresholded import ThresholdTechnique


@dataclasses.dataclass(frozen=True)
class ST3(ThresholdTechnique):
    """Weights `c sign(w) max(|w| - t, 0)`, with a threshold t of the whole model.

    For each place on the last axis, which is that of the outputs of all but transposed
    convolutions, `c = 1.01 / (r + 0.01)`, where r is the share of the magnitudes that
    stays: `r = (mean(|w| m) + 1e-6) / (mean(|w|) + 1e-6)`, with m the mask. The
    gradient passes to all weights as it is (Vanderschueren & De Vleeschouwer 2023,
    arXiv 2212.01076).

    Attributes:
      by_fan: whether the threshold is on `|w| sqrt(sum of the kernel's dimensions)`,
        which leaves fewer operations: ST-3 sigma.
    """

    by_fan: bool = False

    def __post_init__(self):
        super().__post_init__()
        check_boolean("by_fan", self.by_fan)

    def score(self, theta):
        return ops.abs(theta) * self._scale(theta)

    def _scale(self, theta):
        return math.sqrt(sum(theta.shape)) if self.by_fan else 1.0

    def training_weight(self, theta, state, step, noise):
        del step, noise
        return self.deployed_weight(theta, state)

    def deployed_weight(self, theta, state):
        magnitude, axes = ops.abs(theta), tuple(range(len(theta.shape) - 1))
        mask = self.keeps(theta, state)
        kept = ops.mean(ops.where(mask, magnitude, 0.0), axes, keepdims=True) + 1e-6
        share = kept / (ops.mean(magnitude, axes, keepdims=True) + 1e-6)
        threshold = ops.maximum(state["threshold"], 0.0) / self._scale(theta)
        left = ops.where(mask, ops.sign(theta) * (magnitude - threshold), 0.0)
        return left * (1.01 / (share + 0.01))

    def backward(self, theta, state, gradient, step):
        del theta, state, step
        return gradient, {}
