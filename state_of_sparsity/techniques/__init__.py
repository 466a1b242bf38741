"""The techniques, one file each, and their names."""

from state_of_sparsity.techniques.base import Technique
from state_of_sparsity.techniques.fixed_mask import FixedMask
from state_of_sparsity.techniques.l0 import L0Regularization
from state_of_sparsity.techniques.magnitude import MagnitudePruning
from state_of_sparsity.techniques.random import RandomPruning
from state_of_sparsity.techniques.variational_dropout import VariationalDropout

# Those with a name and hyperparameters, which a command line can give.
TECHNIQUES: dict[str, type[Technique]] = {
    cls.technique_name(): cls
    for cls in (MagnitudePruning, RandomPruning, VariationalDropout, L0Regularization)
}

__all__ = [
    "TECHNIQUES",
    "FixedMask",
    "L0Regularization",
    "MagnitudePruning",
    "RandomPruning",
    "Technique",
    "VariationalDropout",
]
