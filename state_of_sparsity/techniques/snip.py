"""SNIP: weights whose loss would change the initial loss least go."""

import dataclasses

import numpy as np

from state_of_sparsity.techniques.at_initialization import InitialPruning


@dataclasses.dataclass(frozen=True)
class SNIP(InitialPruning):
    """The score of a weight is `|w ∂L/∂w|` (Lee et al. 2019, arXiv 1810.02340)."""

    def scores(self, weights, gradients):
        slopes = gradients(weights)
        return {name: np.abs(w * slopes[name]) for name, w in weights.items()}
