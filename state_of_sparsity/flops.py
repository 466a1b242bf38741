"""How much a model computes, dense and with its zeros skipped."""

import dataclasses
import math

import numpy as np

from state_of_sparsity.backend import is_functional, keras
from state_of_sparsity.weights import plain_layer_of, sites

_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)


@dataclasses.dataclass(frozen=True)
class Flops:
    """Floating-point operations of the linear maps for one example.

    A multiplication and the addition that takes its result count as two.

    Attributes:
      dense: with every weight counted.
      sparse: with only the non-zero weights counted.
    """

    dense: int
    sparse: int


def count_flops(model: keras.Model) -> Flops:
    """Counts the operations of the Dense and convolution layers of a model.

    A weight takes part in one multiply-add for each position of the layer's output.
    Biases, normalization and activations are not counted.

    Args:
      model: a Sequential or functional model, sparse or not, whose input has a fixed
        size apart from the batch.

    Raises:
      ValueError: for another kind of model, a layer kind that it cannot count, or an
        input without a fixed size.
    """
    if not is_functional(model):
        raise ValueError(
            "Operations are counted for Sequential and functional models only. "
            f"Received: {type(model).__name__} {model.name!r}"
        )
    dense = sparse = 0
    for site in sites(model):
        uses = _positions(site.layer)
        for weight in site.deployed().values():
            dense += 2 * uses * weight.value.size
            sparse += 2 * uses * int(np.count_nonzero(weight.value))
    return Flops(dense, sparse)


def _positions(layer):
    """For how many positions of its outputs a layer uses each of its weights."""
    if not isinstance(plain_layer_of(layer), (keras.layers.Dense, *_CONVOLUTIONS)):
        raise ValueError(f"No rule to count the operations of layer {layer!r}.")
    channels_first = (
        getattr(plain_layer_of(layer), "data_format", "") == "channels_first"
    )
    count = 0
    for node in range(len(layer.inbound_nodes)):
        shape = layer.get_output_shape_at(node)
        positions = shape[2:] if channels_first else shape[1:-1]
        if None in positions:
            raise ValueError(
                f"The output of layer {layer.name!r} has no fixed size: {shape}. "
                "Build the model for inputs of a fixed size."
            )
        count += math.prod(positions)
    return count
