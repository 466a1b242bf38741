"""Magnitude pruning: the weights nearest to zero go first."""

import dataclasses

from keras import ops

from state_of_sparsity.techniques.pruning import PruningTechnique


@dataclasses.dataclass(frozen=True)
class MagnitudePruning(PruningTechnique):
    """The score of a weight is its magnitude (Zhu & Gupta 2017, arXiv 1710.01878).

    The runs of Gale et al. 2019 are those with `masked_weights="return"`: there, a
    masked weight keeps the value that it had, and comes back if the threshold falls
    below it. Their code renews masks as `last_renewal="multiple"` does.
    """

    # Not only by its name, as in the family.
    initial_sparsity: float = 0.0

    def score(self, weight, state, stream):
        del state, stream
        return ops.abs(weight)
