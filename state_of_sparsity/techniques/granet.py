"""GraNet: RigL on a ramp."""

import dataclasses

from state_of_sparsity.checks import check_fraction
from state_of_sparsity.techniques.rigl import RigL


@dataclasses.dataclass(frozen=True)
class GraNet(RigL):
    """RigL whose masks become sparser along a cubic ramp, up to `end_step`.

    At an update, the smallest active weights are dropped until the ramp's sparsity is
    reached, and a share of the others is dropped and grown as by RigL (Liu et al. 2021,
    arXiv 2106.10404).

    Attributes:
      initial_sparsity: sparsity at which training begins, if it is below the target.
    """

    initial_sparsity: float = 0.5

    @classmethod
    def technique_name(cls):
        return "granet"

    def __post_init__(self):
        super().__post_init__()
        check_fraction("initial_sparsity", self.initial_sparsity)

    @property
    def first_sparsity(self):
        return min(self.initial_sparsity, self.sparsity)
