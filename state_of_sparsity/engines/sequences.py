"""Axes of what a dense map gives that are the positions of a sequence."""

# What `Dense` computes.
DENSE_EQUATION = "...a,ab->...b"


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
