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

    Frantar & Alistarh 2023, arXiv 2301.00774, algorithm 1. With `H` the Gram matrix of
    the inputs, damped, and `U` the upper factor of `H⁻¹ = Uᵀ U`, the score of a weight
    of input i is `w² / U_ii²`; what an input loses, `e = w / U_ii`, the others get as
    `-e U_i`. Which weights go is chosen for a block of inputs at a time, over all
    outputs, or of each m of n.

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

    def scores(self, matrix, gram):
        return np.square(matrix) / np.square(np.diag(_upper(gram)))[:, None]

    def pruned(self, matrix, gram, zeros):
        upper = _upper(gram)
        matrix = matrix.copy()
        mask = np.ones(matrix.shape, bool)
        inputs, size = len(matrix), self._inputs_of_a_block()
        for begin in range(0, inputs, size):
            end = min(begin + size, inputs)
            count = round(zeros * end / inputs) - round(zeros * begin / inputs)
            errors = self._prune_block(
                matrix[begin:end], mask[begin:end], upper[begin:end, begin:end], count
            )
            matrix[end:] -= upper[begin:end, end:].T @ errors
        return matrix * mask, mask

    def _inputs_of_a_block(self):
        _, n = self.sparsity_m_by_n or (0, 1)
        return -(-self.block_size // n) * n

    def _prune_block(self, matrix, mask, upper, count):
        """Prunes the inputs of a block, in place; returns what they lost."""
        scale = np.square(np.diag(upper))[:, None]
        if not self.sparsity_m_by_n:
            order = (np.square(matrix) / scale).argsort(axis=None, kind="stable")
            mask.flat[order[:count]] = False
        errors = np.empty_like(matrix)
        for i in range(len(matrix)):
            if self.sparsity_m_by_n and i % self.sparsity_m_by_n[1] == 0:
                group = slice(i, i + self.sparsity_m_by_n[1])
                scores = np.square(matrix[group]) / scale[group]
                mask[group] = ~lowest_of_groups(scores, *self.sparsity_m_by_n)
            errors[i] = np.where(mask[i], 0.0, matrix[i]) / upper[i, i]
            matrix[i:] -= np.outer(upper[i, i:], errors[i])
        return errors


def _upper(gram):
    return np.linalg.cholesky(np.linalg.inv(gram)).T
