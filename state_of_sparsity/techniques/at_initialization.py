"""Base of the criteria that prune before training, by gradients."""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np

from state_of_sparsity.techniques.masked import MaskingTechnique
from state_of_sparsity.techniques.patterned import PatternedTechnique
from state_of_sparsity.techniques.targeted import SharingTechnique

# Values or gradients of the weights of a model, by name.
Weights = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class InitialPruning(MaskingTechnique, PatternedTechnique, SharingTechnique):
    """Base of those that prune the initial weights once, for `sos.one_shot`.

    One threshold decides for all layers, unless a budget is given. They stay below
    pruning in the course of training, and shuffling their masks within each layer costs
    nothing (Frankle et al. 2021, arXiv 2009.08576): they are baselines.

    Attributes:
      rounds: in how many the sparsity grows, the density geometrically.
      needs_loss: whether gradients are those of a loss on data, or of the sum of the
        outputs for inputs of ones.
    """

    is_global: ClassVar[bool] = True
    rounds: ClassVar[int] = 1
    needs_loss: ClassVar[bool] = True

    @abc.abstractmethod
    def scores(
        self, weights: Weights, gradients: Callable[[Weights], Weights]
    ) -> Weights:
        """What each weight is worth.

        Args:
          weights: as they are, zeros in place.
          gradients: of the loss with respect to each weight, where they have values.
        """

    def state(self, place):
        raise TypeError(
            f"{type(self).__name__} prunes once, before training: call sos.one_shot, "
            "and train what it gives."
        )
