"""Fisher pruning: the weights whose loss costs least to second order go first."""

import dataclasses

from keras import ops

from state_of_sparsity.checks import check_integer, check_number
from state_of_sparsity.techniques import fisher_blocks
from state_of_sparsity.techniques.accumulated import AccumulatingPruning
from state_of_sparsity.techniques.state import BACKWARD, State


@dataclasses.dataclass(frozen=True)
class FisherPruning(AccumulatingPruning):
    """The score of a weight is `w^2` over the diagonal of the inverse Fisher.

    It is what the loss rises by without the weight, to second order, with the empirical
    Fisher information for the Hessian: the mean of the outer products of the gradients
    since the last renewal. Without blocks, that is `w^2 E[g^2]` (Theis et al. 2018,
    arXiv 1801.05787). In blocks of its diagonal, what stays also makes up for what
    goes, by an offset that is kept beside the weight (Singh & Alistarh 2020, arXiv
    2004.14340; Kurtic et al. 2022, arXiv 2203.07259).

    Attributes:
      block_size: weights in a block, 50 in the former paper; None for none. A block
        takes so many numbers per weight. (A pattern of blocks is a `structure`.)
      damping: added to the diagonal of a block, as a share of the mean of the squared
        gradients of the first step that counts.
    """

    _: dataclasses.KW_ONLY
    # Not a pattern, as in the family.
    block_size: int | None = None
    damping: float = 0.01

    pairs = ("sparsity_m_by_n",)

    def __post_init__(self):
        super().__post_init__()
        check_number("damping", self.damping, above=0.0)
        if isinstance(self.block_size, tuple | list) and len(self.block_size) == 1:
            # As a command line has it.
            object.__setattr__(self, "block_size", self.block_size[0])
        if self.block_size is not None:
            check_integer("block_size", self.block_size, minimum=1)
            if self.masked_weights != "stay":
                raise ValueError(
                    "masked_weights must be 'stay' with a block_size, since the others "
                    f"make up for what goes. Received: {self.masked_weights!r}"
                )

    def state(self, place):
        if self.block_size is None:
            return super().state(place)
        first = fisher_blocks.first_inverse(place.shape, self.block_size, self.damping)
        inverse = State(first, shape=first.shape, changed_by=BACKWARD)
        mask = {"mask": super().state(place)["mask"]}
        return mask | {"statistic": inverse, "offset": State()}

    def deployed_weight(self, theta, state):
        return super().deployed_weight(theta + state.get("offset", 0.0), state)

    def first_statistic(self, statistic, gradient):
        if self.block_size is None:
            return super().first_statistic(statistic, gradient)
        # In float32, an inverse of far less is none.
        damping = self.damping * ops.mean(ops.square(gradient)) + 1e-12
        return ops.eye(self.block_size) / damping + ops.zeros_like(statistic)

    def added(self, statistic, theta, weight, gradient):
        del theta, weight
        if self.block_size is None:
            return statistic + ops.square(gradient)
        return fisher_blocks.updated(statistic, gradient, self.frequency)

    def score(self, weight, state, stream):
        del stream
        if self.block_size is None:
            return state["statistic"] * ops.square(weight)
        return fisher_blocks.cost(state["statistic"], weight)

    def renewed(self, weights, index):
        new = super().renewed(weights, index)
        if self.block_size is None:
            return new
        for found, (theta, state, _) in zip(new, weights, strict=True):
            used = self.deployed_weight(theta, state)
            found["offset"] = state["offset"] + fisher_blocks.correction(
                state["statistic"], used, found["mask"]
            )
        return new
