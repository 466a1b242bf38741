"""Powerpropagation: large weights learn faster, small ones stay small."""

import dataclasses

from keras import ops

from state_of_sparsity.checks import check_number
from state_of_sparsity.techniques.base import Technique
from state_of_sparsity.techniques.saving import restored_technique, saved_technique


@dataclasses.dataclass(frozen=True)
class Powerpropagation(Technique):
    """Another technique whose weights are `theta |theta|^(alpha - 1)`.

    The gradient of theta is that of the weight times `alpha |theta|^(alpha - 1)`, so
    that training leaves many weights near zero, which the technique can do without
    (Schwarz et al. 2021, arXiv 2110.00296, equation 2). Theta begins so that the
    weights are what they were. A regularizer of the layer is one of theta.

    Attributes:
      alpha: at least 1, which changes nothing; the paper has 1.5 to 4.
      base: the technique that masks the weights.

    Raises:
      TypeError, ValueError: for a bad value, naming it.
    """

    alpha: float
    base: Technique

    def __post_init__(self):
        check_number("alpha", self.alpha, minimum=1.0)
        if isinstance(self.base, dict):
            object.__setattr__(self, "base", restored_technique(self.base))
        if not isinstance(self.base, Technique):
            raise TypeError(f"base must be a technique. Received: {self.base!r}")
        if self.base.draws_noise or self.base.has_own("penalty"):
            raise ValueError(
                "base must be a technique that prunes, since it is on weights that "
                f"learning sparsity depends. Received: {self.base!r}"
            )
        if self.base.has_own("projected"):
            raise ValueError(
                "base must not be a technique whose weights start again from zero, "
                "where theta has no gradient: they would stay there. Received: "
                f"{self.base!r}"
            )

    def weight(self, theta):
        """`theta |theta|^(alpha - 1)`."""
        # Where it is 0, a power has no finite slope.
        magnitude = ops.where(theta == 0.0, 1.0, ops.abs(theta))
        return ops.where(theta == 0.0, 0.0, theta * magnitude ** (self.alpha - 1.0))

    def initial_theta(self, weight):
        return ops.sign(weight) * ops.abs(weight) ** (1.0 / self.alpha)

    def has_own(self, method):
        return method == "initial_theta" or self.base.has_own(method)

    def training_weight(self, theta, state, step, noise):
        return self.base.training_weight(self.weight(theta), state, step, noise)

    def deployed_weight(self, theta, state):
        return self.base.deployed_weight(self.weight(theta), state)

    def keeps(self, theta, state):
        return self.base.keeps(self.weight(theta), state)

    def backward(self, theta, state, gradient, step):
        slope, new = self.base.backward(self.weight(theta), state, gradient, step)
        return slope * self.alpha * ops.abs(theta) ** (self.alpha - 1.0), new

    def regularized_weight(self, theta, state):
        seen = self.base.regularized_weight(self.weight(theta), state)
        return ops.where(seen == 0.0, 0.0, theta)

    def renewed(self, weights, index):
        return self.base.renewed(
            [(self.weight(theta), state, stream) for theta, state, stream in weights],
            index,
        )

    # The rest is that of the base.

    @property
    def sparsity(self):
        """That of the base."""
        return self.base.sparsity

    @property
    def is_global(self):
        """That of the base."""
        return getattr(self.base, "is_global", False)

    @property
    def shared_threshold(self):
        """That of the base."""
        return getattr(self.base, "shared_threshold", None)

    @property
    def companions(self):
        """Those of the base."""
        return getattr(self.base, "companions", None)

    @property
    def couples(self):
        """Whether the base does."""
        return self.base.couples

    @property
    def pattern(self):
        """That of the base."""
        return self.base.pattern

    @property
    def settled_step(self):
        return self.base.settled_step

    def state(self, place):
        return self.base.state(place)

    def schedule(self):
        return self.base.schedule()

    def applies_to(self, *, depthwise):
        return self.base.applies_to(depthwise=depthwise)

    def refusal(self, shape):
        return self.base.refusal(shape)

    def kept_weights(self, mask, steps):
        return self.base.kept_weights(mask, steps)

    def check_sites(self, sites):
        self.base.check_sites(sites)

    def for_site(self, site):
        return self._of(self.base.for_site(site))

    def with_sparsity(self, sparsity):
        return self._of(self.base.with_sparsity(sparsity))

    def sharing(self, shared):
        return self._of(self.base.sharing(shared))

    def with_structure(self, structure):
        return self._of(self.base.with_structure(structure))

    def _of(self, base):
        if base is None or base is self.base:
            return base and self
        return dataclasses.replace(self, base=base)

    def get_config(self):
        return {"alpha": self.alpha, "base": saved_technique(self.base)}
