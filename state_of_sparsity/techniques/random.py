"""Random pruning: the baseline that every criterion has to beat."""

import dataclasses

from state_of_sparsity import masks
from state_of_sparsity.checks import check_integer
from state_of_sparsity.techniques.pruning import PruningTechnique


@dataclasses.dataclass(frozen=True)
class RandomPruning(PruningTechnique):
    """Weights go in a random order, drawn once (Gale et al. 2019, section 3.4).

    The score of a weight is a uniform random number that depends on the seed and
    on the weight's place in the model only. So pruning is cumulative: what is
    pruned at one step stays pruned at the next.

    Attributes:
      seed: of the random order.
    """

    seed: int = 0

    def __post_init__(self):
        super().__post_init__()
        check_integer("seed", self.seed, minimum=0)

    def score(self, weight, state, stream):
        del state
        return masks.random_scores(tuple(weight.shape), self.seed, *stream)
