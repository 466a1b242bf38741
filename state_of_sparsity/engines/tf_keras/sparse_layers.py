"""The sparse layer that stands for a dense one: TF-MOT's wrapper, or one of ours."""

from state_of_sparsity.engines.tf_keras.backend import keras
from state_of_sparsity.engines.tf_keras.layers.reparameterized import (
    reparameterized_layer,
)
from state_of_sparsity.engines.tf_keras.pruning import pruned_layer
from state_of_sparsity.techniques.base import Technique
from state_of_sparsity.techniques.fixed_mask import FixedMask
from state_of_sparsity.techniques.masked import MaskingTechnique

# What the wrapper knows nothing of.
_OF_ONES_OWN = ("backward", "initial_theta", "penalty", "projected", "training_output")
# What it does by itself.
_OF_MASKS = ("training_weight", "deployed_weight", "keeps", "regularized_weight")


def is_wrapped(technique: Technique) -> bool:
    """Whether TF-MOT's wrapper serves a technique.

    It keeps a mask for each weight, and sets what that masks to zero, for good.
    """
    if not isinstance(technique, MaskingTechnique):
        return False
    cls = type(technique)
    has_mask_alone = cls.state in (MaskingTechnique.state, FixedMask.state)
    return (
        has_mask_alone
        and technique.masked_weights == "stay"
        and not any(map(technique.has_own, _OF_ONES_OWN))
        and all(getattr(cls, n) is getattr(MaskingTechnique, n) for n in _OF_MASKS)
    )


def sparse_layer(
    technique: Technique, layer: keras.layers.Layer, copy, index: int
) -> keras.layers.Layer:
    """The layer that stands in the sparse model for a dense layer.

    Args:
      technique: that makes it sparse.
      layer: the dense layer. The sparse one is built if it is.
      copy: `copy(layer, cls=None, without=())` makes a copy of a layer with
        variables of its own, of another class if given, without the attributes
        named.
      index: of the layer among those of the model that could be made sparse.

    Raises:
      ValueError: if nothing is known of how its kind computes.
    """
    make = pruned_layer if is_wrapped(technique) else reparameterized_layer
    return make(technique, layer, copy, index)
