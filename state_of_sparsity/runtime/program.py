"""Programs for the kernels, and the memory that they work on."""

import dataclasses

import numpy as np

from state_of_sparsity.runtime import kernels, layouts, vectors
from state_of_sparsity.runtime.layouts import Form, Grid
from state_of_sparsity.runtime.lookups import Lookup
from state_of_sparsity.runtime.products import Product

# What tiles read beyond the last position that means something.
SLACK = vectors.LANES * (max(vectors.WIDTHS) + 1)
_LINE = 64
# How many tasks there are for each thread, so that none waits long for another.
_TASKS = 8
# Channels that are one task of a change of layout.
_CHANNELS = 16
# Ids that are one task of a lookup, at least.
_IDS = 16


def aligned(size: int) -> np.ndarray:
    """Zeros of float32 that begin with a line of the cache."""
    memory = np.zeros(size + _LINE // 4, np.float32)
    begin = -memory.ctypes.data % _LINE // 4
    return memory[begin : begin + size]


@dataclasses.dataclass(eq=False)
class Buffer:
    """Numbers that operations work on, for as long as they do.

    Args:
      size: how many float32; for other types, as many bytes as theirs.
      memory: once there is any.
    """

    size: int
    memory: np.ndarray | None = None

    @property
    def address(self) -> int:
        return self.memory.ctypes.data


@dataclasses.dataclass
class Operation:
    """One operation, before it is a row of words.

    Args:
      words: by the number of the field; a `Buffer` stands for its address, an array for
        its place in the program.
      reads, writes: the buffers, among the words or not.
      keep: arrays whose addresses are among the words.
    """

    words: dict[int, object]
    reads: list[Buffer]
    writes: list[Buffer]
    keep: list[np.ndarray] = dataclasses.field(default_factory=list)

    def describe(self) -> str:
        """The tiles of a product, for people."""
        tiles = self.words[kernels.TILES]
        most = tiles[:, 1].max(initial=0)
        blocks = self.words[kernels.BLOCKS]
        text = f"{len(tiles)} tiles of {vectors.LANES * most} positions"
        return text if blocks == 1 else f"{text}, {blocks} blocks of channels"


class Program:
    """Operations as the kernels take them.

    Args:
      operations: whose buffers have memory, but those that `address` is called for.
      threads: that share in it.
    """

    def __init__(self, operations: list[Operation], threads: int):
        # A row of those that are done, and one for each thread of those it has begun.
        counts = np.zeros((1 + threads, len(operations)), np.int64)
        self._keep = [counts, *[operation.keep for operation in operations]]
        rows = np.zeros((len(operations), kernels.FIELDS), np.int64)
        tables, place = [], kernels.HEADER + rows.size
        self._late = {}
        for number, operation in enumerate(operations):
            for field, word in operation.words.items():
                if isinstance(word, np.ndarray):
                    tables.append(np.asarray(word, np.int64).reshape(-1))
                    word, place = place, place + tables[-1].size
                elif isinstance(word, Buffer):
                    at = kernels.HEADER + number * kernels.FIELDS + field
                    self._late.setdefault(word, []).append(at)
                    word = word.address if word.memory is not None else 0
                rows[number, field] = word
        header = np.zeros(kernels.HEADER, np.int64)
        header[kernels.OPERATIONS] = len(operations)
        header[kernels.MEMBERS] = threads
        header[kernels.COUNTS] = counts.ctypes.data
        self.words = np.concatenate([header, rows.reshape(-1), *tables])

    @property
    def address(self) -> int:
        return self.words.ctypes.data

    def place(self, buffer: Buffer, address: int) -> None:
        """Says where a buffer is, for the next run."""
        for at in self._late.get(buffer, ()):
            self.words[at] = address


def change(source: Buffer, target: Buffer, form: Form, pack: bool) -> Operation:
    """The operation that packs a plain tensor, or makes a packed one plain."""
    words = {
        kernels.KIND: kernels.PACK if pack else kernels.UNPACK,
        kernels.TASKS: -(-form.channels // _CHANNELS) if form.positions else 0,
        kernels.SOURCE: source,
        kernels.TARGET: target,
        kernels.CHANNELS: form.channels,
        kernels.IMAGES: form.images,
        kernels.CHANNEL_STRIDE: form.channel_stride,
        kernels.IMAGE_STRIDE: form.image_stride,
        kernels.STRIDE: form.stride,
        kernels.POSITIONS: form.positions,
        kernels.POSITION_STRIDE: form.position_stride,
    }
    return Operation(words, [source], [target])


def packed_size(form: Form) -> int:
    """Numbers of a packed tensor, with what tiles read and write beyond."""
    return form.channels * form.stride + SLACK


def grid_size(channels: int, grid: Grid) -> int:
    """Numbers of a grid, with what tiles read beyond."""
    return channels * len(grid.phases) * grid.stride + grid.reach + SLACK


def fill_grid(
    source: Buffer, target: Buffer, form: Form, grid: Grid, packed: bool
) -> Operation:
    """The operation that puts zeros around positions, of a plain or packed source."""
    words = {
        kernels.KIND: kernels.GRID,
        kernels.TASKS: form.channels,
        kernels.SOURCE: source,
        kernels.TARGET: target,
        kernels.CHANNELS: form.channels,
        kernels.IMAGES: form.images,
        kernels.CHANNEL_STRIDE: form.stride if packed else form.channel_stride,
        kernels.IMAGE_STRIDE: form.positions if packed else form.image_stride,
        kernels.STRIDE: grid.stride,
        kernels.PHASES: len(grid.phases),
        kernels.PHASE_TABLE: np.array(grid.phases, np.int64),
    }
    for field, sizes in (
        (kernels.SIZES, grid.sizes),
        (kernels.PADS, grid.pads),
        (kernels.STRIDES, grid.strides),
        (kernels.GRID_SIZES, grid.cells),
    ):
        words.update({field + axis: size for axis, size in enumerate(sizes)})
    return Operation(words, [source], [target])


def multiply(
    product: Product,
    source: Buffer,
    target: Buffer,
    residual: Buffer | None,
    source_form: Form,
    target_form: Form,
    grid: Grid | None,
    tiling: layouts.Tiling,
    threads: int,
) -> Operation:
    """The operation of a product.

    Args:
      product: what to compute.
      source: its input, packed, or in a grid.
      target: its output, packed.
      residual: what is added, packed as the target is, or None.
      source_form, target_form: of the input and the output.
      grid: of the input, or None where it is packed.
      tiling: how to go through it.
      threads: that share in it.
    """
    if grid is None:
        positions = source_form.images * source_form.positions
        rows = layouts.rows_of(product, [(0, 0)], 1, source_form.stride, tiling.blocks)
        places = 0
    else:
        positions = grid.positions
        rows = layouts.rows_of(
            product, grid.taps, len(grid.phases), grid.stride, tiling.blocks
        )
        places = layouts.output_places(grid)
    tiles = layouts.tiles_of(positions, tiling.width)
    parts = 1 if threads == 1 else -(-_TASKS * threads // max(1, len(tiles)))
    chunk = -(-product.rows // parts)
    bias = np.ascontiguousarray(product.bias, np.float32)
    limits = np.array([product.low, product.high], np.float32)
    words = {
        kernels.KIND: kernels.PRODUCT,
        kernels.TASKS: len(tiles) * -(-product.rows // chunk),
        kernels.X: source,
        kernels.Y: target,
        kernels.RESIDUAL: residual or 0,
        kernels.OFFSETS: rows.offsets.ctypes.data,
        kernels.VALUES: rows.values.ctypes.data,
        kernels.BIAS: bias.ctypes.data,
        kernels.LIMITS: limits.ctypes.data,
        kernels.ROWS: product.rows,
        kernels.CHUNK: chunk,
        kernels.Y_STRIDE: target_form.stride,
        kernels.RESIDUAL_STRIDE: target_form.stride,
        kernels.TILES: tiles,
        kernels.STARTS: rows.starts,
        kernels.PLACES: places,
        kernels.BLOCKS: tiling.blocks,
    }
    written = [target]
    if tiling.blocks > 1:
        # Outputs that are not all of the positions have other places than sums.
        stride = target_form.stride if grid is None else layouts.stride_of(positions)
        sums = target if grid is None else Buffer(product.rows * stride)
        words |= {kernels.SUMS: sums, kernels.SUMS_STRIDE: stride}
        written.append(sums)
    read = [source, residual] if residual else [source]
    return Operation(words, read, written, [rows.offsets, rows.values, bias, limits])


def look_up(
    lookup: Lookup, count: int, source: Buffer, target: Buffer, threads: int
) -> tuple[Operation, np.ndarray]:
    """The operation of a lookup, and where it says what is wrong with ids.

    Args:
      lookup: what to compute.
      count: how many ids there are.
      source, target: the ids and their rows, plain.
      threads: that share in it.

    Returns:
      The operation, and int64 of shape (2,): 1 once an id was of no row, and that id.
    """
    table, fault = lookup.table, np.zeros(2, np.int64)
    height, width = table.shape
    share = max(_IDS, -(-count // (_TASKS * threads)))
    words = {
        kernels.KIND: kernels.LOOKUP,
        kernels.TASKS: -(-count // share),
        kernels.IDS: source,
        kernels.FOUND: target,
        kernels.ROW_STARTS: table.starts.ctypes.data,
        kernels.COLUMNS: table.columns.ctypes.data,
        kernels.NUMBERS: table.values.ctypes.data,
        kernels.FAULT: fault.ctypes.data,
        kernels.HEIGHT: height,
        kernels.WIDTH: width,
        kernels.COUNT: count,
        kernels.ID_BYTES: lookup.id_bytes,
        kernels.SHARE: share,
    }
    keep = [table.starts, table.columns, table.values, fault]
    return Operation(words, [source], [target], keep), fault


def give_memory(operations: list[Operation], outside: set[Buffer]) -> int:
    """Gives buffers memory, and what is read no more to those that come later.

    Args:
      operations: in their order, with all that read and write.
      outside: buffers that have memory of their own.

    Returns:
      Bytes of all memory.
    """
    last = {}
    for number, operation in enumerate(operations):
        for buffer in (*operation.reads, *operation.writes):
            last[buffer] = number
    free, given = [], 0
    for number, operation in enumerate(operations):
        for buffer in operation.writes:
            if buffer.memory is None and buffer not in outside:
                fitting = [m for m in free if m.size >= buffer.size]
                best = min(fitting, key=lambda m: m.size, default=None)
                if best is None:
                    best = aligned(buffer.size)
                    given += best.nbytes
                else:
                    free = [m for m in free if m is not best]
                buffer.memory = best
        used = dict.fromkeys((*operation.reads, *operation.writes))
        for buffer in used:
            if last[buffer] == number and buffer not in outside:
                free.append(buffer.memory)
    return given
