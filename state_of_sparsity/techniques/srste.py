"""SR-STE: m zeros of each n from the first step on, refined."""

import dataclasses

from keras import ops

from state_of_sparsity import structures
from state_of_sparsity.checks import check_number, check_pair
from state_of_sparsity.techniques.base import Technique


@dataclasses.dataclass(frozen=True)
class SRSTE(Technique):
    """Of each n consecutive weights, the m smallest are zero, chosen at every step.

    The gradient passes to all weights, and pulls the masked ones towards zero:
    `g + decay (1 - mask) w` (Zhou et al. 2021, arXiv 2102.04010, equation 9). Groups
    are along an axis that is summed over; see `structures.ZerosOfN`.

    Attributes:
      sparsity_m_by_n: m zeros among each n, such as 2,4.
      decay: of the masked weights.
      axis: of the groups, counted from the end of the kernel's: -1, -2, and so on; by
        default that which the layer sums over.

    Raises:
      TypeError, ValueError: for a bad value, naming it.
    """

    sparsity_m_by_n: tuple[int, int]
    decay: float = 2e-4
    axis: int | None = None

    def __post_init__(self):
        pair = check_pair("sparsity_m_by_n", self.sparsity_m_by_n)
        object.__setattr__(self, "sparsity_m_by_n", pair)
        check_number("decay", self.decay, minimum=0.0)
        if self.axis not in (None, *range(-9, 0)):
            raise ValueError(f"axis must be below 0. Received: {self.axis!r}")
        if not pair[0] < pair[1]:
            raise ValueError(f"sparsity_m_by_n must be m below n. Received: {pair}")

    @property
    def sparsity(self) -> float:
        """`m / n`."""
        m, n = self.sparsity_m_by_n
        return m / n

    def applies_to(self, *, depthwise):
        # It has no axis that is summed over.
        return not depthwise

    def refusal(self, shape):
        return self._pattern.refusal(shape)

    def for_site(self, site):
        if self.axis is not None or site.summed_axis == -2:
            return self
        return dataclasses.replace(self, axis=site.summed_axis)

    @property
    def _pattern(self):
        return structures.ZerosOfN(*self.sparsity_m_by_n, axis=self.axis)

    def state(self, place):
        del place
        return {}

    def keeps(self, theta, state):
        del state
        return self._pattern.mask(ops.abs(theta), None)

    def training_weight(self, theta, state, step, noise):
        del step, noise
        return self.deployed_weight(theta, state)

    def deployed_weight(self, theta, state):
        return ops.where(self.keeps(theta, state), theta, 0.0)

    def backward(self, theta, state, gradient, step):
        del step
        pull = ops.where(self.keeps(theta, state), 0.0, theta)
        return gradient + self.decay * pull, {}

    def kept_weights(self, mask, steps):
        return int(mask.sum()) * steps
