"""Movement pruning: the weights that training moves towards zero go first."""

import dataclasses

from state_of_sparsity.techniques.accumulated import AccumulatingPruning


@dataclasses.dataclass(frozen=True)
class MovementPruning(AccumulatingPruning):
    """The score of a weight is `-sum of g theta` over all steps so far.

    It is high where gradient descent takes a weight away from zero (Sanh, Wolf & Rush
    2020, arXiv 2005.07683, equation 4, with the top-k mask and a straight-through
    gradient). Masked weights keep their value, and score on, and so may return.
    """

    # Not only by its name, as in the family.
    masked_weights: str = "return"

    begins_anew = False

    def added(self, statistic, theta, weight, gradient):
        del weight
        return statistic - gradient * theta

    def score(self, weight, state, stream):
        del weight, stream
        return state["statistic"]
