"""Layouts of numbers: plain tensors, packed ones, and grids with zeros around."""

import itertools
import math
from typing import NamedTuple

import numpy as np

from state_of_sparsity.runtime.products import LAST, SECOND, Product
from state_of_sparsity.runtime.vectors import LANES, WIDTHS

# Lines of the first cache are found by so many bits of their place; channels that lie
# a multiple of them apart would share a few.
_SETS = 64


class Form(NamedTuple):
    """How a plain tensor maps to channels and positions, in numbers."""

    channels: int
    images: int
    positions: int
    channel_stride: int
    image_stride: int
    position_stride: int

    @property
    def stride(self) -> int:
        """Numbers between channels when packed."""
        return stride_of(self.images * self.positions)


def form_of(shape: tuple[int, ...], axis: str, channels: int) -> Form:
    """The form of a tensor that has its channels on an axis, see `products.py`.

    On the last ones, it may be several that are as many channels together.
    """
    if axis == LAST:
        return Form(channels, 1, math.prod(shape) // channels, 1, 0, channels)
    at = 1 if axis == SECOND else len(shape) - 2
    images, positions = math.prod(shape[:at]), math.prod(shape[at + 1 :])
    return Form(shape[at], images, positions, positions, shape[at] * positions, 1)


def stride_of(positions: int) -> int:
    """Numbers between channels, at least as many as positions."""
    lines = max(1, -(-positions // LANES))
    while math.gcd(lines, _SETS) > 4:
        lines += 1
    return LANES * lines


def is_packed(form: Form) -> bool:
    """Whether the plain tensor is as packed as it can be."""
    one_line = form.position_stride == 1 and form.images == 1
    return one_line and form.positions == form.stride


class Grid(NamedTuple):
    """Positions with zeros around, by phase of the strides.

    A convolution reads, for each place of its kernel, all positions shifted by the same
    distance, once there are zeros between lines; with strides, positions of one phase,
    those of the same remainder. One column of zeros is to the right of a line and to
    the left of the next.

    All but the phases are of three axes.
    """

    sizes: tuple[int, ...]
    pads: tuple[int, ...]
    strides: tuple[int, ...]
    cells: tuple[int, ...]
    phases: list[tuple[int, ...]]
    # Of each place of the kernel: number of its phase, and the shift.
    taps: list[tuple[int, int]]
    outputs: tuple[int, ...]
    images: int

    @property
    def reach(self) -> int:
        """How far the furthest place of the kernel is."""
        return max(shift for _, shift in self.taps)

    @property
    def positions(self) -> int:
        """From the first output to the last."""
        depth, height, width = (size - 1 for size in self.outputs)
        last = (depth * self.cells[1] + height) * self.cells[2] + width
        return (self.images - 1) * math.prod(self.cells) + last + 1

    @property
    def stride(self) -> int:
        """Numbers between phases."""
        # The zeros after the last image are read, too; cells of others may not be.
        all_cells = self.images * math.prod(self.cells)
        return stride_of(max(all_cells, self.positions + self.reach))


def grid_of(product: Product, shape: tuple[int, ...]) -> Grid | None:
    """The grid of a convolution's input, or None if it reads the positions as they are.

    Args:
      product: a convolution.
      shape: of its input.
    """

    def three(values, fill):
        return (fill,) * (3 - len(values)) + tuple(values)

    sizes, kernel = three(shape[2:], 1), three(product.kernel, 1)
    strides, dilations = three(product.strides, 1), three(product.dilations, 1)
    before, after = three(product.pads_before, 0), three(product.pads_after, 0)
    if kernel == strides == (1, 1, 1) and before == after == (0, 0, 0):
        return None
    outputs, cells, axes = [], [], []
    for axis in range(3):
        padded = sizes[axis] + before[axis] + after[axis]
        span = (kernel[axis] - 1) * dilations[axis]
        outputs.append((padded - span - 1) // strides[axis] + 1)
        shared = sizes[axis] + max(before[axis], after[axis])
        least = shared if strides[axis] == 1 else -(-padded // strides[axis])
        cells.append(max(least, outputs[-1]))
        places = (place * dilations[axis] for place in range(kernel[axis]))
        axes.append([divmod(place, strides[axis]) for place in places])
    phases, taps = {}, []
    for depth, height, width in itertools.product(*axes):
        phase = phases.setdefault((depth[1], height[1], width[1]), len(phases))
        shift = (depth[0] * cells[1] + height[0]) * cells[2] + width[0]
        taps.append((phase, shift))
    return Grid(
        sizes,
        before,
        strides,
        tuple(cells),
        list(phases),
        taps,
        tuple(outputs),
        shape[0],
    )


def output_places(grid: Grid) -> np.ndarray:
    """Of each vector of positions: which are outputs, as bits, and where they begin.

    Returns:
      int64 of shape (vectors, 2).
    """
    vectors = -(-grid.positions // LANES)
    valid = np.zeros(vectors * LANES, bool)
    position = np.arange(grid.positions)
    inside = np.ones(grid.positions, bool)
    for cells, outputs in zip(grid.cells[::-1], grid.outputs[::-1], strict=True):
        inside &= position % cells < outputs
        position = position // cells
    valid[: grid.positions] = inside
    valid = valid.reshape(vectors, LANES)
    bits = valid @ (1 << np.arange(LANES))
    counts = valid.sum(axis=1)
    return np.stack([bits, np.cumsum(counts) - counts], axis=1).astype(np.int64)


class Tiling(NamedTuple):
    """How the kernel goes through a product.

    Args:
      width: vectors of positions that a tile has at most, of `vectors.WIDTHS`.
      blocks: of channels, one after the other.
    """

    width: int
    blocks: int = 1


class Rows(NamedTuple):
    """The non-zero weights, row by row, and where what they multiply begins.

    With several blocks of channels, all rows for each of them.
    """

    starts: np.ndarray
    offsets: np.ndarray
    values: np.ndarray


def rows_of(product: Product, taps, phases: int, stride: int, blocks: int) -> Rows:
    """Non-zeros of a product.

    Args:
      product: with weights.
      taps: phase and shift for each place of the kernel.
      phases: how many there are for each channel.
      stride: numbers between phases, and between channels of one phase.
      blocks: of channels of a group.

    Raises:
      ValueError: if an offset has no place in 32 bits.
    """
    groups, rows, channels, *_ = product.weights.shape
    weights = product.weights.reshape(groups, rows, channels, -1)
    group, row, channel, tap = np.nonzero(weights)
    values = weights[group, row, channel, tap].astype(np.float32)
    row = channel * blocks // channels * product.rows + group * rows + row
    if blocks > 1:
        order = np.argsort(row, kind="stable")
        row, group, channel, tap = row[order], group[order], channel[order], tap[order]
        values = values[order]
    starts = np.zeros(blocks * product.rows + 1, np.int64)
    np.cumsum(np.bincount(row, minlength=blocks * product.rows), out=starts[1:])
    shifts = np.array([phase * stride + shift for phase, shift in taps], np.int64)
    offsets = (group * channels + channel) * (phases * stride) + shifts[tap]
    if offsets.size and offsets.max() >= 2**31:
        raise ValueError(
            f"A batch of this size is too large for the product {product.name!r}: run "
            f"smaller ones. Received: offsets up to {offsets.max()}"
        )
    return Rows(starts, offsets.astype(np.int32), values)


def tiles_of(positions: int, width: int) -> np.ndarray:
    """Vectors cut into tiles, of at most `width` vectors, as even as they can be.

    Returns:
      int64 of shape (tiles, 2): the first vector, and how many.
    """
    vectors = -(-positions // LANES)
    count = -(-vectors // width)
    sizes = [(vectors + i) // count for i in range(count)] if count else []
    if not set(sizes) <= set(WIDTHS):
        sizes, left = [], vectors
        while left:
            sizes.append(max(size for size in WIDTHS if size <= min(left, width)))
            left -= sizes[-1]
    firsts = np.cumsum([0, *sizes])[:-1]
    return np.stack([firsts, np.array(sizes, np.int64)], axis=1).astype(np.int64)
