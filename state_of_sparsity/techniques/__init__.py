"""The techniques, one file each, and their names."""

from state_of_sparsity.techniques.base import Technique
from state_of_sparsity.techniques.magnitude import MagnitudePruning
from state_of_sparsity.techniques.random import RandomPruning

TECHNIQUES: dict[str, type[Technique]] = {
    cls.technique_name(): cls for cls in (MagnitudePruning, RandomPruning)
}

__all__ = ["TECHNIQUES", "MagnitudePruning", "RandomPruning", "Technique"]
