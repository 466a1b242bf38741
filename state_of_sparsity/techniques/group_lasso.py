"""Group lasso: a penalty on norms takes whole groups of weights to zero."""

import dataclasses

from keras import ops

from state_of_sparsity import structures
from state_of_sparsity.checks import check_number
from state_of_sparsity.techniques.structured import StructuredTechnique


@dataclasses.dataclass(frozen=True)
class GroupLasso(StructuredTechnique):
    """`lasso_weight Σ sqrt(|g|) ‖w_g‖₂` joins the loss, and small groups go.

    The sum is over the groups g of `|g|` weights that the structure makes (Yuan & Lin
    2006; of neural networks Scardapane et al. 2017, arXiv 1607.00485). An optimizer
    takes no group to zero exactly: deployed, one is zero if its root mean square is not
    above a threshold. In training it goes on learning.

    Attributes:
      lasso_weight: of the penalty in the loss.
      threshold: highest root mean square of a group that goes.

    Raises:
      TypeError, ValueError: for a bad value, naming it.
    """

    lasso_weight: float
    threshold: float = 1e-3
    _: dataclasses.KW_ONLY
    structure: structures.Slices | str = "inputs"

    def __post_init__(self):
        check_number("lasso_weight", self.lasso_weight, minimum=0.0)
        check_number("threshold", self.threshold, minimum=0.0)
        self.check_structure()

    def applies_to(self, *, depthwise):
        return not depthwise

    def state(self, place):
        del place
        return {}

    def training_weight(self, theta, state, step, noise):
        del state, step, noise
        return theta

    def _mean_square(self, theta):
        return self.pattern.unit_scores(ops.square(theta))

    def keeps(self, theta, state):
        del state
        kept = self._mean_square(theta) > self.threshold**2
        return ops.broadcast_to(kept, ops.shape(theta))

    def deployed_weight(self, theta, state):
        return ops.where(self.keeps(theta, state), theta, 0.0)

    def penalty(self, theta, state):
        del state
        # The root has no finite slope at 0. A norm is `sqrt(|g|)` times what it gives.
        sizes = ops.sqrt(ops.maximum(self._mean_square(theta), 1e-24))
        weight = self.lasso_weight * self.pattern.price(tuple(theta.shape))
        return weight * ops.sum(sizes)
