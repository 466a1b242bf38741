"""What layers that are linear maps have in common in both Kerases."""

from keras import ops

from state_of_sparsity.engines.recording import is_kind


def finished(layer, outputs):
    """What a linear map gives, with the bias and the activation of a layer."""
    bias = getattr(layer, "bias", None)
    if bias is not None:
        bias = ops.cast(bias, outputs.dtype)
        if getattr(layer, "data_format", None) == "channels_first":
            bias = ops.reshape(bias, (-1, *[1] * layer.rank))
        outputs += bias
    return outputs if layer.activation is None else layer.activation(outputs)


def positions_axes(layer, rank: int) -> tuple[int, ...]:
    """Axes of the outputs of a layer along which it maps the positions of a sequence.

    Args:
      layer: of any kind; only dense maps have such axes.
      rank: of its inputs.
    """
    if is_kind(layer, "EinsumDense"):
        return sequence_axes(layer.equation, rank)
    return sequence_axes("...a,ab->...b", rank) if is_kind(layer, "Dense") else ()


def sequence_axes(equation: str, rank: int) -> tuple[int, ...]:
    """Axes of the outputs of a dense map that are the positions of a sequence.

    There is one, or none: a single vector has no positions, and the rows and columns of
    an image are no sequence.

    Args:
      equation: of the map, as `EinsumDense` writes it.
      rank: of its inputs.
    """
    inputs, kernel, outputs = equation.replace("->", ",").split(",")
    further = "0123456789"[: rank - len(inputs.replace("...", ""))]
    inputs, outputs = (side.replace("...", further) for side in (inputs, outputs))
    # Where the kernel is used again, but for the next example.
    again = set(inputs[1:]) - set(kernel)
    axes = tuple(axis for axis, letter in enumerate(outputs) if letter in again)
    return axes if len(axes) == 1 else ()


def summed_axis(equation: str) -> int:
    """The axis of a kernel that an equation of `einsum` sums over, from its end.

    The last of them, if it is several: "abcd,cde->abe" has -2.

    Args:
      equation: of EinsumDense.
    """
    operands, _, outputs = equation.replace(" ", "").partition("->")
    inputs, _, kernel = operands.partition(",")
    summed = [
        axis - len(kernel)
        for axis, letter in enumerate(kernel)
        if letter in inputs and letter not in outputs
    ]
    return summed[-1] if summed else -2
