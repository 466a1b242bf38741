"""How much a model computes, dense and with its zeros skipped."""

import dataclasses
import math

import numpy as np

from state_of_sparsity.backend import child_layers, is_functional, keras
from state_of_sparsity.weights import deployed_weights, is_sparse, plain_layer_of

_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
# To Keras, these are kinds of convolutions.
_NOT_CONVOLUTIONS = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)


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
    for layer, calls in _layers_with_calls(model, 1):
        uses = calls * _positions(layer)
        for weight in deployed_weights(layer):
            dense += 2 * uses * weight.value.size
            sparse += 2 * uses * int(np.count_nonzero(weight.value))
    return Flops(dense, sparse)


def _layers_with_calls(model, calls):
    """The layers with weights to count, and how often their model is called."""
    for layer in child_layers(model):
        if is_functional(layer):
            yield from _layers_with_calls(layer, calls * len(layer.inbound_nodes))
        elif is_sparse(layer) or any(len(w.shape) > 1 for w in layer.trainable_weights):
            yield layer, calls


def _positions(layer):
    """For how many positions of its outputs a layer uses each of its weights."""
    plain = plain_layer_of(layer)
    counted = isinstance(plain, (keras.layers.Dense, *_CONVOLUTIONS))
    if not counted or isinstance(plain, _NOT_CONVOLUTIONS):
        raise ValueError(
            f"No rule to count the operations of layer {layer.name!r} of kind "
            f"{type(plain).__name__}: there are some for Dense and convolutions."
        )
    channels_first = getattr(plain, "data_format", None) == "channels_first"
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
