"""Base of the techniques that mask weights once, by what the inputs of a layer are."""

import abc
import dataclasses
from typing import ClassVar

import numpy as np

from state_of_sparsity import structures
from state_of_sparsity.techniques.masked import MaskingTechnique
from state_of_sparsity.techniques.patterned import PatternedTechnique
from state_of_sparsity.techniques.targeted import SharingTechnique


@dataclasses.dataclass(frozen=True)
class CalibratedTechnique(MaskingTechnique, PatternedTechnique, SharingTechnique):
    """Base of those that prune a linear map once, knowing examples of its inputs.

    `sos.one_shot` has them, not `sos.sparsify`. They see a linear map as a matrix of
    inputs x outputs, and its inputs by their Gram matrix, the mean of `x xᵀ` over what
    the map was given; both in float64.

    Attributes:
      needs_gram: whether the strengths of the inputs, its diagonal, are not enough.
    """

    pairs: ClassVar[tuple[str, ...]] = ("sparsity_m_by_n",)
    needs_gram: ClassVar[bool] = True

    @abc.abstractmethod
    def scores(self, matrix: np.ndarray, given: np.ndarray) -> np.ndarray:
        """What each weight is worth, of the shape of the matrix.

        Args:
          matrix: of inputs x outputs.
          given: the upper triangular R of the Gram matrix, damped, `R Rᵀ`; or, if not
            `needs_gram`, its diagonal.
        """

    @abc.abstractmethod
    def pruned(
        self, matrix: np.ndarray, given: np.ndarray, zeros: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The weights that are left, and a boolean mask, true where one stays.

        Args:
          matrix: as of `scores`.
          given: likewise.
          zeros: how many weights go, unless m of each n do.
        """

    def state(self, place):
        raise TypeError(
            f"{type(self).__name__} prunes once, by the inputs of each layer: call "
            "sos.one_shot with data instead of sos.sparsify."
        )

    @property
    def goes_by_units(self) -> bool:
        """Whether units of a pattern go as a whole, by `scores` alone."""
        is_single = type(self.pattern) is structures.SingleWeights
        return not (self.sparsity_m_by_n or is_single)


def lowest_of_groups(scores: np.ndarray, m: int, n: int) -> np.ndarray:
    """Marks the m lowest of each n consecutive scores of each column."""
    grouped = scores.reshape(-1, n, scores.shape[1])
    ranks = grouped.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    return (ranks < m).reshape(scores.shape)
