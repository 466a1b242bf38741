"""GraSP: weights go without which the gradient keeps most of its length."""

import dataclasses

import numpy as np

from state_of_sparsity.techniques.at_initialization import InitialPruning

# Length of the step of the difference, over that of the weights.
_STEP = 1e-3


@dataclasses.dataclass(frozen=True)
class GraSP(InitialPruning):
    """The score of a weight is `w (H g)`, with the gradient g and the Hessian H.

    Wang et al. 2020, arXiv 2002.07376, equation 8, with the sign turned, since the
    highest scores stay. `H g` is a difference of gradients, `(g(w + ε g) - g(w)) / ε`.
    """

    def scores(self, weights, gradients):
        slopes = gradients(weights)
        step = _STEP * _norm(weights) / (_norm(slopes) or 1.0)
        moved = gradients({n: w + step * slopes[n] for n, w in weights.items()})
        return {n: w * (moved[n] - slopes[n]) / step for n, w in weights.items()}


def _norm(weights):
    return np.sqrt(sum(np.square(w, dtype="float64").sum() for w in weights.values()))
