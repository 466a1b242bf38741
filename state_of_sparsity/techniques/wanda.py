"""Wanda: small weights of weak inputs go."""

import dataclasses
from typing import ClassVar

import numpy as np

from state_of_sparsity.techniques.calibrated import (
    CalibratedTechnique,
    lowest_of_groups,
)


@dataclasses.dataclass(frozen=True)
class Wanda(CalibratedTechnique):
    """The score of a weight is `|W_ij| ‖x_i‖₂`, compared within each output j.

    Sun et al. 2024, arXiv 2306.11695, equation 1. With a structure, units go whose mean
    score is lowest. The weights that stay keep their values.
    """

    needs_gram: ClassVar[bool] = False

    def scores(self, matrix, strengths):
        return np.abs(matrix) * np.sqrt(strengths)[:, None]

    def pruned(self, matrix, strengths, zeros):
        scores = self.scores(matrix, strengths)
        if self.sparsity_m_by_n:
            mask = ~lowest_of_groups(scores, *self.sparsity_m_by_n)
        else:
            ranks = scores.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
            outputs = matrix.shape[1]
            # What does not divide by the outputs goes from the first ones.
            mask = ranks >= (zeros + outputs - 1 - np.arange(outputs)) // outputs
        return matrix * mask, mask
