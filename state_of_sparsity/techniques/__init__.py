"""The techniques, one file each, and their names."""

from state_of_sparsity.techniques.acdc import ACDC
from state_of_sparsity.techniques.base import Technique
from state_of_sparsity.techniques.feather import Feather
from state_of_sparsity.techniques.fisher import FisherPruning
from state_of_sparsity.techniques.fixed_mask import FixedMask
from state_of_sparsity.techniques.granet import GraNet
from state_of_sparsity.techniques.grasp import GraSP
from state_of_sparsity.techniques.group_lasso import GroupLasso
from state_of_sparsity.techniques.l0 import L0Regularization
from state_of_sparsity.techniques.learned_threshold import STR
from state_of_sparsity.techniques.magnitude import MagnitudePruning
from state_of_sparsity.techniques.movement import MovementPruning
from state_of_sparsity.techniques.powerpropagation import Powerpropagation
from state_of_sparsity.techniques.random import RandomPruning
from state_of_sparsity.techniques.rigl import RigL
from state_of_sparsity.techniques.saliency import SaliencyPruning
from state_of_sparsity.techniques.snip import SNIP
from state_of_sparsity.techniques.sparse_evolution import SET
from state_of_sparsity.techniques.sparse_gpt import SparseGPT
from state_of_sparsity.techniques.spartan import Spartan
from state_of_sparsity.techniques.srste import SRSTE
from state_of_sparsity.techniques.st3 import ST3
from state_of_sparsity.techniques.synflow import SynFlow
from state_of_sparsity.techniques.variational_dropout import VariationalDropout
from state_of_sparsity.techniques.wanda import Wanda

# Those with a name and hyperparameters, which a command line can give.
TECHNIQUES: dict[str, type[Technique]] = {
    cls.technique_name(): cls
    for cls in (
        MagnitudePruning,
        RandomPruning,
        VariationalDropout,
        L0Regularization,
        SaliencyPruning,
        MovementPruning,
        FisherPruning,
        SET,
        RigL,
        GraNet,
        Feather,
        ST3,
        STR,
        ACDC,
        Spartan,
        SRSTE,
    )
}

__all__ = [
    "ACDC",
    "SET",
    "SNIP",
    "SRSTE",
    "ST3",
    "STR",
    "TECHNIQUES",
    "Feather",
    "FisherPruning",
    "FixedMask",
    "GraNet",
    "GraSP",
    "GroupLasso",
    "L0Regularization",
    "MagnitudePruning",
    "MovementPruning",
    "Powerpropagation",
    "RandomPruning",
    "RigL",
    "SaliencyPruning",
    "SparseGPT",
    "Spartan",
    "SynFlow",
    "Technique",
    "VariationalDropout",
    "Wanda",
]
