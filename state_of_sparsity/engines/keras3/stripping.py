"""Plain layers with the deployed weights of sparse ones."""

import keras
from keras import ops

from state_of_sparsity.engines.keras3 import adapters, private
from state_of_sparsity.engines.keras3.layers import OF_LAYERS, Sparse


def make_plain(layer: Sparse, copies: dict) -> None:
    """Has the plain copy of a sparse layer hold the deployed weights, and them alone.

    Args:
      layer: the sparse layer, which stays as it is.
      copies: by the `id` of the layer and of its weights, their copies; that of the
        layer is of the plain class.
    """
    plain = copies[id(layer)]
    for weight in layer.sparse_weights:
        theta = copies[id(weight.theta)]
        used = layer.technique.deployed_weight(*weight.values())
        # Without the sign of -0: files with one kind of zeros are smaller.
        theta.assign(ops.where(ops.equal(used, 0.0), ops.zeros_like(used), used))
        theta.regularizer, theta.constraint = weight.regularizer, weight.constraint
        if adapters.variables_of(layer):
            adapters.merged(plain, theta)
    private.remove_variables(plain, added_variables(layer))
    private.refresh_signature(plain)


def added_variables(layer: Sparse) -> dict[str, keras.Variable]:
    """The variables that a technique adds to a layer, and LoRA, by attribute."""
    held = {id(v): (name, v) for name, v in vars(layer).items() if _is_variable(v)}
    added = [v for weight in layer.sparse_weights for v in weight.state.values()]
    added += [vars(layer)[name] for name in OF_LAYERS if name in vars(layer)]
    added += adapters.variables_of(layer)
    return dict(held[id(variable)] for variable in added)


def _is_variable(value):
    return isinstance(value, keras.Variable)
