"""SynFlow: weights go that the least passes through, whatever the data."""

import dataclasses
from typing import ClassVar

import numpy as np

from state_of_sparsity.techniques.at_initialization import InitialPruning


@dataclasses.dataclass(frozen=True)
class SynFlow(InitialPruning):
    """The score of a weight is `|w| ∂R/∂|w|`, in 100 rounds.

    `R` is the sum of the outputs for inputs of ones, with all weights replaced by their
    magnitudes (Tanaka et al. 2020, arXiv 2006.05467, algorithm 1). No data is needed.
    """

    rounds: ClassVar[int] = 100
    needs_loss: ClassVar[bool] = False

    @classmethod
    def technique_name(cls):
        return "synflow"

    def scores(self, weights, gradients):
        magnitudes = {name: np.abs(w) for name, w in weights.items()}
        slopes = gradients(magnitudes)
        return {name: w * slopes[name] for name, w in magnitudes.items()}
