"""How much a model computes, dense and with its zeros skipped."""

import dataclasses
import math

import numpy as np

from state_of_sparsity.engines import engine_of


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


def count_flops(model) -> Flops:
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
    engine = engine_of(model)
    dense = sparse = 0
    for layer, shapes in engine.uses(model):
        uses = 0
        for shape in shapes:
            if None in shape[1:]:
                raise ValueError(
                    f"The output of layer {layer.name!r} has no fixed size: {shape}. "
                    "Build the model for inputs of a fixed size."
                )
            uses += math.prod(shape[1:])
        for weight in engine.deployed_weights(layer):
            dense += 2 * uses * weight.value.size
            sparse += 2 * uses * int(np.count_nonzero(weight.value))
    return Flops(dense, sparse)
