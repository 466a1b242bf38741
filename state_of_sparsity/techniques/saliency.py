"""Saliency pruning: the weights whose loss would change the loss least go first."""

import dataclasses

from keras import ops

from state_of_sparsity.techniques.accumulated import AccumulatingPruning


@dataclasses.dataclass(frozen=True)
class SaliencyPruning(AccumulatingPruning):
    """The score of a weight is `|g w|`, averaged over the steps since the last renewal.

    To first order, that is by how much the loss of a step changes without the weight
    (Molchanov et al. 2017, arXiv 1611.06440, equation 3, of weights instead of units).
    """

    def added(self, statistic, theta, weight, gradient):
        del theta
        return statistic + ops.abs(gradient * weight)

    def score(self, weight, state, stream):
        del weight, stream
        return state["statistic"]
