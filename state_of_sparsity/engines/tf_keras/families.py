"""Functions of a layer that each family of sparse layers has its own of.

A family registers its layer class with these functions.
"""

import functools

import numpy as np

from state_of_sparsity.engines.conversion import DENSE
from state_of_sparsity.engines.inspection import DeployedWeight
from state_of_sparsity.engines.tf_keras.backend import (
    PruneLowMagnitude,
    carry_batch_shape,
    keras,
    raw_variable,
    tf,
)
from state_of_sparsity.engines.tf_keras.weights import (
    sparsifiable_weights,
    weight_variable,
    wrapped_weights,
)
from state_of_sparsity.techniques.base import Technique


@functools.singledispatch
def plain_layer(layer, copy) -> keras.layers.Layer | None:
    """A dense copy of a sparse layer with its deployed weights; None if it is dense.

    Args:
      layer: of a model.
      copy: as of `sparse_layers.sparse_layer`.
    """
    del layer, copy
    return None


def technique_name(layer) -> str:
    """Name of the technique that makes a layer sparse; of a dense one, "dense"."""
    technique = getattr(layer, "technique", None)
    if isinstance(technique, Technique):
        return technique.technique_name()
    return "prune_low_magnitude" if isinstance(layer, PruneLowMagnitude) else DENSE


@functools.singledispatch
def deployed_weights(layer) -> list[DeployedWeight]:
    """The weights of a layer that a technique can make sparse, as deployed."""
    return stored_weights(layer)


def stored_weights(layer) -> list[DeployedWeight]:
    """The weights of a layer that a technique can make sparse, as they are stored."""
    return [
        DeployedWeight(attribute, value, value != 0, False)
        for attribute in sparsifiable_weights(layer)
        for value in [raw_variable(weight_variable(layer, attribute)).numpy()]
    ]


@functools.singledispatch
def added_variables(layer) -> list[tf.Variable]:
    """The variables that a technique adds to a layer, and that are not deployed."""
    del layer
    return []


def is_sparse(layer) -> bool:
    """Whether a layer is one that a technique has made."""
    return technique_name(layer) != DENSE


def deploy(sparse: keras.layers.Layer, plain: keras.layers.Layer) -> None:
    """Gives a plain layer the deployed weights of a sparse one."""
    for weight in deployed_weights(sparse):
        # Added to 0, what is -0 has no sign: files with one kind of zeros are smaller.
        value = weight.value + weight.value.dtype.type(0)
        raw_variable(weight_variable(plain, weight.attribute)).assign(value)


@plain_layer.register
def _(layer: PruneLowMagnitude, copy):
    plain = copy(layer.layer)
    deploy(layer, plain)
    carry_batch_shape(layer, plain)
    return plain


@deployed_weights.register
def _(layer: PruneLowMagnitude) -> list[DeployedWeight]:
    names = wrapped_weights(layer.layer, getattr(layer, "technique", None))
    masked = {}
    for name, (variable, mask, _) in zip(names, layer.pruning_vars, strict=True):
        keep = raw_variable(mask).numpy()
        if not np.isin(keep, (0, 1)).all():
            raise ValueError(
                f"The mask of {layer.layer.name}/{name} has other values than 0 and 1. "
                "Where weights are averaged, average trainable_variables, and assign "
                "non_trainable_variables as they are."
            )
        keep = keep != 0
        value = np.where(keep, raw_variable(variable).numpy(), 0)
        masked[name] = DeployedWeight(name, value, keep, True)
    # Of a separable convolution, a part stays dense.
    dense = {weight.attribute: weight for weight in stored_weights(layer.layer)}
    return list((dense | masked).values())


@added_variables.register
def _(layer: PruneLowMagnitude) -> list[tf.Variable]:
    masks_and_thresholds = [
        v for variables in layer.pruning_vars for v in variables[1:]
    ]
    return [*masks_and_thresholds, layer.pruning_step]
