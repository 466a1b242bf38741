"""SparseGPT: what goes is made up for by what stays."""

import dataclasses

import numpy as np

from state_of_sparsity.checks import check_integer
from state_of_sparsity.techniques.calibrated import (
    CalibratedTechnique,
    lowest_of_groups,
)


@dataclasses.dataclass(frozen=True)
class SparseGPT(CalibratedTechnique):
    """Input by input, weights go, and those of later inputs are corrected for it.

    Frantar & Alistarh 2023, arXiv 2301.00774, algorithm 1. With `H = R Rᵀ` the Gram
    matrix of the inputs, damped, and `R` upper triangular, the score of a weight of
    input i is `w² R_ii²`. What inputs have lost, `d`, is least for the outputs if later
    ones, block by block, get `R_bb⁻ᵀ R_ibᵀ d_i` each: the same as by the factor `R⁻¹`
    of `H⁻¹`, which is nowhere formed. Which weights go is chosen for a block of inputs
    at a time, over all outputs, or of each m of n.

    Attributes:
      damping: what is added to the diagonal of the Gram matrix, as a share of its mean.
      block_size: inputs in a block.
    """

    damping: float = 0.01
    block_size: int = 128

    def __post_init__(self):
        super().__post_init__()
        check_integer("block_size", self.block_size, minimum=1)
        if not self.damping > 0:
            raise ValueError(f"damping must be positive. Received: {self.damping!r}")

    def refusal(self, shape):
        if self.goes_by_units:
            return "it makes up for each weight by others of its output; Wanda does not"
        return super().refusal(shape)

    def scores(self, matrix, factor):
        return np.square(matrix * np.diag(factor)[:, None])

    def pruned(self, matrix, factor, zeros):
        found, mask = np.empty_like(matrix), np.ones(matrix.shape, bool)
        lost = np.empty_like(matrix)
        inputs, size = len(matrix), self._inputs_of_a_block()
        for begin in range(0, inputs, size):
            end = min(begin + size, inputs)
            block = slice(begin, end)
            upper = np.linalg.inv(factor[block, block])
            owed = factor[:begin, block].T @ lost[:begin]
            found[block] = matrix[block] + upper.T @ owed
            count = round(zeros * end / inputs) - round(zeros * begin / inputs)
            self._prune_block(found[block], mask[block], upper, count)
            found[block] *= mask[block]
            lost[block] = matrix[block] - found[block]
        return found, mask

    def _inputs_of_a_block(self):
        _, n = self.sparsity_m_by_n or (0, 1)
        return -(-self.block_size // n) * n

    def _prune_block(self, matrix, mask, upper, count):
        """Prunes the inputs of a block, in place."""
        scale = np.square(np.diag(upper))[:, None]
        if not self.sparsity_m_by_n:
            scores = np.square(matrix) / scale
            lowest = scores.argpartition(count - 1, axis=None)[:count]
            np.put(mask, lowest, False)
        for i in range(len(matrix)):
            if self.sparsity_m_by_n and i % self.sparsity_m_by_n[1] == 0:
                group = slice(i, i + self.sparsity_m_by_n[1])
                scores = np.square(matrix[group]) / scale[group]
                mask[group] = ~lowest_of_groups(scores, *self.sparsity_m_by_n)
            error = np.where(mask[i], 0.0, matrix[i]) / upper[i, i]
            matrix[i:] -= np.outer(upper[i, i:], error)
