"""Base of the techniques that are given a sparsity."""

import dataclasses
import itertools
from typing import ClassVar, Self

from state_of_sparsity import masks, structures
from state_of_sparsity.checks import check_fraction
from state_of_sparsity.companions import Companions, SharedThreshold
from state_of_sparsity.techniques.base import Technique

# The prices of all units are summed in int32.
_MOST = 2**30


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

    @property
    def companions(self) -> Companions | None:
        """The layers whose masks are renewed together, if it is not each by itself."""
        return self.shared_threshold or self.pattern.companions

    @property
    def pattern(self) -> structures.SingleWeights:
        """In which pattern weights are masked."""
        return structures.SingleWeights()

    def units(self, shapes) -> list[tuple[int, int]]:
        """Of how many units, and weights, a sparsity says how many go.

        Args:
          shapes: of the weights that are renewed together.

        Returns:
          A pair for each pool of the pattern, or one for all of them if they share a
          threshold.
        """
        pools = self._pools(shapes)
        if self.shared_threshold is not None:
            # Each keeps a unit.
            prices = [price for _, price in pools]
            return [(sum(itertools.starmap(int.__mul__, pools)), sum(prices))]
        return [(number, 1) for number, _ in pools]

    def counts(self, scores, zeros: list) -> list:
        """How many units of each pool go, which by one threshold the scores say.

        Args:
          scores: a float tensor for each weight that is renewed with it.
          zeros: how many units go, as of `units`.
        """
        if self.shared_threshold is None:
            return zeros
        units = self.pattern.scores_of_pools(scores)
        prices = [price for _, price in self._pools([x.shape for x in scores])]
        found = masks.lowest_by_tensor(units, zeros[0], prices)
        return [found[place] for place in range(len(units))]

    def _pools(self, shapes):
        """Of each pool, its units and what one of them counts."""
        shared = self.shared_threshold
        uses = (shared and shared.uses) or [1] * len(shapes)
        pools = self.pattern.pools([tuple(shape) for shape in shapes], uses)
        scale = max(1.0, sum(itertools.starmap(int.__mul__, pools)) / _MOST)
        return [(number, max(1, round(price / scale))) for number, price in pools]

    def sharing(self, shared):
        if shared.uses and not self.couples:
            raise ValueError(
                f"{type(self).__name__} compares weights, whatever they are used for: "
                "give a budget in weights, or one that plans each layer."
            )
        return dataclasses.replace(self, shared_threshold=shared)

    def get_config(self):
        config = super().get_config()
        if self.shared_threshold is not None:
            config["shared_threshold"] = dataclasses.asdict(self.shared_threshold)
        return config
