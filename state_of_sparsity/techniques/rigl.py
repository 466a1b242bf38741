"""RigL: what grows is where the loss would fall fastest."""

import dataclasses

from keras import ops

from state_of_sparsity.techniques.regrowing import RegrowingTechnique


@dataclasses.dataclass(frozen=True)
class RigL(RegrowingTechnique):
    """Weights grow where `|g|` is largest (Evci et al. 2020, arXiv 1911.11134).

    `g` is the gradient of the step with respect to each weight, masked ones included.
    Published with the budget `sos.ERK()`, drop_fraction 0.3 and frequency 100.
    """

    def growth(self, gradient, state, step):
        del state, step
        return ops.abs(gradient)
