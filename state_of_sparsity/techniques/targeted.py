"""Base of the techniques that are given a sparsity."""

import dataclasses
import math
import operator
from typing import ClassVar, Self

from state_of_sparsity.checks import check_fraction
from state_of_sparsity.techniques.base import Technique
from state_of_sparsity.techniques.shared_threshold import SharedThreshold


@dataclasses.dataclass(frozen=True)
class TargetedTechnique(Technique):
    """Base of the techniques that have a target sparsity.

    Attributes:
      sparsity: share of the weights of each tensor that is zero in the end.
      is_global: whether one threshold over all layers decides, unless a budget is
        given.
    """

    is_global: ClassVar[bool] = False

    sparsity: float

    def __post_init__(self):
        check_fraction("sparsity", self.sparsity)

    def applies_to(self, *, depthwise):
        # As in TF-MOT: a depthwise kernel has few weights, and each of them counts.
        return not depthwise

    def with_sparsity(self, sparsity: float) -> Self:
        return dataclasses.replace(self, sparsity=sparsity)


@dataclasses.dataclass(frozen=True)
class SharingTechnique(TargetedTechnique):
    """Base of those whose layers can have one threshold.

    Attributes:
      shared_threshold: the layers with which a layer has one threshold, and the
        sparsity is that of all of them; `budgets.Global` sets it.
    """

    _: dataclasses.KW_ONLY
    shared_threshold: SharedThreshold | None = None

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.shared_threshold, dict):
            shared = SharedThreshold(**self.shared_threshold)
            object.__setattr__(self, "shared_threshold", shared)

    def units(self, shapes) -> list[tuple[int, int]]:
        """Of how many units, and weights, a sparsity says how many go.

        Args:
          shapes: of the weights that are renewed together.

        Returns:
          A pair for each weight, or one for all of them if they share a threshold.
        """
        units = [self.units_of(tuple(shape)) for shape in shapes]
        if self.shared_threshold is not None:
            # Each keeps a unit.
            prices = self.prices(shapes)
            return [(sum(map(operator.mul, units, prices)), sum(prices))]
        return [(number, 1) for number in units]

    def units_of(self, shape: tuple[int, ...]) -> int:
        """How many units, which go as a whole, a weight has."""
        return math.prod(shape)

    def prices(self, shapes) -> list[int]:
        """What a unit of each weight counts where they share a threshold."""
        return [1 for _ in shapes]

    def sharing(self, shared):
        return dataclasses.replace(self, shared_threshold=shared)

    def get_config(self):
        config = super().get_config()
        if self.shared_threshold is not None:
            config["shared_threshold"] = dataclasses.asdict(self.shared_threshold)
        return config
