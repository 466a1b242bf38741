"""What layers that are linear maps have in common in both Kerases."""

from keras import ops

from state_of_sparsity.engines.equations import Equation
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
    inputs, kernel, outputs = Equation.of(equation).of_rank(rank)
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
    parts = Equation.of(equation)
    return parts.summed[-1] - len(parts.kernel) if parts.summed else -2


def unit_axes(layer) -> dict[str, tuple[int, ...]]:
    """The axes of a layer's kernel on which an input, a channel, a head has one place.

    Counted from the end, by the names of `structures.Slices`; what is not known is left
    out. Of a separable convolution, they are those of the part that sums over channels.
    """
    if is_kind(layer, "EinsumDense"):
        return _unit_axes_of_einsum(layer.equation)
    if is_kind(layer, "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"):
        return {"inputs": (-1,), "channels": (-2,)}
    if is_kind(layer, "DepthwiseConv1D", "DepthwiseConv2D"):
        return {"inputs": (-2,), "channels": (-2, -1)}
    convolutions = ("Conv1D", "Conv2D", "Conv3D", "SeparableConv1D", "SeparableConv2D")
    if not is_kind(layer, "Dense", *convolutions):
        return {}
    # In groups, an input of the kernel is several of the layer.
    inputs = {"inputs": (-2,)} if getattr(layer, "groups", 1) == 1 else {}
    return inputs | {"channels": (-1,)}


def _unit_axes_of_einsum(equation):
    parts = Equation.of(equation)
    rank = len(parts.kernel)
    summed, free = (tuple(a - rank for a in x) for x in (parts.summed, parts.free))
    if len(summed) + len(free) < rank or not (summed and free):
        return {}
    # Of (features, heads, size), and of (heads, size, features).
    heads = {"heads": max(summed, free, key=len)[:1]} if rank == 3 else {}
    return heads | {"inputs": summed, "channels": free}
