"""Products that follow one another, on packed activations; and lookups."""

import dataclasses
import math
import time

from state_of_sparsity.runtime import layouts, program
from state_of_sparsity.runtime.lookups import Lookup
from state_of_sparsity.runtime.products import SECOND, Product
from state_of_sparsity.runtime.program import Buffer, Operation, Program

# Numbers of an activation that stay in the second cache, more or less.
_CACHED = 2**20


@dataclasses.dataclass
class Chain:
    """A step of a plan: operations, run once for each of some parts of the batch.

    Args:
      operations: in their order.
      names: of what each of them does, for people, and its product or lookup, or None.
      repeats: how many parts the batch has.
      moves: buffers that have the whole batch, and how many bytes of it a part has.
      threads: that share in it.
      program: once the buffers have memory.
    """

    operations: list[Operation]
    names: list[tuple[str, Product | Lookup | None]]
    repeats: int
    moves: dict[Buffer, int]
    threads: int
    program: Program | None = None
    _places: dict[Buffer, int] = dataclasses.field(default_factory=dict)

    def prepare(self) -> None:
        """Writes the program, once the buffers have memory."""
        self.program = Program(self.operations, self.threads)
        self._places = {b: b.address for b in self.moves if b.memory is not None}

    def place(self, buffer: Buffer, address: int) -> None:
        """Says where a buffer is, for the next run."""
        self._places[buffer] = address
        self.program.place(buffer, address)

    def run_step(self, team) -> None:
        """Runs all parts of the batch, with the threads of a `threads.Team`."""
        if self.repeats == 1:
            team.run(self.program.address)
            return
        for part in range(self.repeats):
            self._move(self.program, part)
            team.run(self.program.address)

    def run_each(self, team) -> list[float]:
        """As `run_step`, and returns the seconds of each operation."""
        alone = [Program([operation], self.threads) for operation in self.operations]
        for buffer, address in self._places.items():
            for single in alone:
                single.place(buffer, address)
        seconds = [0.0] * len(alone)
        for part in range(self.repeats):
            for number, single in enumerate(alone):
                if self.repeats > 1:
                    self._move(single, part)
                begin = time.perf_counter()
                team.run(single.address)
                seconds[number] += time.perf_counter() - begin
        return seconds

    def _move(self, moved: Program, part: int) -> None:
        for buffer, size in self.moves.items():
            moved.place(buffer, self._places[buffer] + part * size)


class LookupChain(Chain):
    """Lookups side by side.

    Args:
      lookups: that do not read one another's outputs.
      shapes: by the name of a value.
      plain: function of a name that gives the buffer of the plain tensor.
      threads: that share in it.
    """

    def __init__(self, lookups: list[Lookup], shapes, plain, threads: int):
        names = [(lookup.name, lookup) for lookup in lookups]
        super().__init__([], names, 1, {}, threads)
        self._faults = []
        for lookup in lookups:
            count = math.prod(shapes[lookup.source])
            buffers = plain(lookup.source), plain(lookup.target)
            operation, fault = program.look_up(lookup, count, *buffers, threads)
            self.operations.append(operation)
            self._faults.append(fault)

    def run_step(self, team) -> None:
        """As of any chain.

        Raises:
          ValueError: for an id of no row.
        """
        super().run_step(team)
        for (_, lookup), fault in zip(self.names, self._faults, strict=True):
            if fault[0]:
                fault[0], rows = 0, lookup.table.shape[0]
                raise ValueError(
                    f"Ids in {lookup.source!r} have to be from {-rows} to {rows - 1}, "
                    f"for a table of {rows} rows. Received: {fault[1]}"
                )


def parts_of(products: list[Product], shapes) -> int:
    """Into how many parts to cut a batch so that activations stay in the cache.

    Convolutions treat images alone, whatever the rest of the graph does.
    """
    names = _names(products)
    images = {shapes[name][0] for name in names}
    if len(images) > 1 or any(product.axis != SECOND for product in products):
        return 1
    (batch,) = images
    largest = max(math.prod(shapes[name][1:]) for name in names)
    for parts in range(1, batch + 1):
        if batch % parts == 0 and largest * (batch // parts) <= _CACHED:
            return parts
    return max(1, batch)


class ChainBuilder:
    """Makes a chain of products.

    Args:
      products: in an order in which each reads what is computed before it.
      shapes: by the name of a value.
      needed: names of values that are needed as plain tensors when the chain ends.
      plain: function of a name that gives the buffer of the plain tensor.
      outside: buffers whose memory changes from call to call, and ends where they do.
      tilings: `layouts.Tiling` by the name of a product.
      threads: that share in it.

    Attributes:
      chain: that is made.
    """

    def __init__(self, products, shapes, needed, plain, outside, tilings, threads):
        self._needed, self._plain, self._outside = needed, plain, outside
        self._tilings, self._threads = tilings, threads
        self._parts = parts_of(products, shapes)
        self._shapes = dict(shapes)
        if self._parts > 1:
            for name in _names(products):
                batch, *rest = shapes[name]
                self._shapes[name] = (batch // self._parts, *rest)
        self._computed, self._packed, self._grids = {}, {}, {}
        self.chain = Chain([], [], self._parts, {}, threads)
        for product in products:
            self._multiply(product)

    def _add(self, name: str, operation: Operation, product=None) -> None:
        self.chain.operations.append(operation)
        self.chain.names.append((name, product))

    def _whole(self, name: str) -> Buffer:
        """The plain tensor of the whole batch, of which each part is some bytes."""
        buffer = self._plain(name)
        if self._parts > 1:
            self.chain.moves[buffer] = 4 * math.prod(self._shapes[name])
        return buffer

    def _as_plain(self, name: str) -> Buffer:
        """A value as a plain tensor."""
        form = self._computed.get(name)
        if form is None:
            return self._whole(name)
        packed = self._packed[name, form]
        if layouts.is_packed(form):
            return packed
        plain = Buffer(math.prod(self._shapes[name]) + program.SLACK)
        self._add(f"unpack {name}", program.change(packed, plain, form, False))
        return plain

    def _as_packed(self, name: str, form: layouts.Form) -> Buffer:
        """A value in a form, packed if it is not there yet."""
        if (name, form) not in self._packed:
            plain = self._as_plain(name)
            if layouts.is_packed(form) and plain not in self._outside:
                self._packed[name, form] = plain
            else:
                packed = Buffer(program.packed_size(form))
                self._add(f"pack {name}", program.change(plain, packed, form, True))
                self._packed[name, form] = packed
        return self._packed[name, form]

    def _gridded(self, name: str, form: layouts.Form, grid) -> Buffer:
        """A convolution's input with zeros around."""
        key = (name, form, grid.pads, grid.strides, grid.cells, tuple(grid.phases))
        if key not in self._grids:
            packed = (name, form) in self._packed
            source = self._packed[name, form] if packed else self._as_plain(name)
            target = Buffer(program.grid_size(form.channels, grid))
            operation = program.fill_grid(source, target, form, grid, packed)
            self._add(f"pad {name}", operation)
            self._grids[key] = target
        return self._grids[key]

    def _multiply(self, product: Product) -> None:
        source_shape = self._shapes[product.source]
        form = layouts.form_of(source_shape, product.axis, product.channels)
        target_form = layouts.form_of(
            self._shapes[product.target], product.axis, product.rows
        )
        grid = None
        if product.kind == "Conv":
            grid = layouts.grid_of(product, source_shape)
        if grid is None:
            source = self._as_packed(product.source, form)
        else:
            source = self._gridded(product.source, form, grid)
        residual = None
        if product.residual:
            residual = self._as_packed(product.residual, target_form)
        target, unpack = self._target(product.target, target_form)
        operation = program.multiply(
            product,
            source,
            target,
            residual,
            form,
            target_form,
            grid,
            self._tilings[product.name],
            self._threads,
        )
        self._add(product.name, operation, product)
        if unpack is not None:
            operation = program.change(target, unpack, target_form, False)
            self._add(f"unpack {product.target}", operation)

    def _target(self, name: str, form: layouts.Form) -> tuple[Buffer, Buffer | None]:
        """Where a product goes, and where it is unpacked to."""
        target = unpack = None
        if name in self._needed:
            unpack = self._whole(name)
            if layouts.is_packed(form) and unpack not in self._outside:
                target, unpack = unpack, None
        target = target or Buffer(program.packed_size(form))
        self._packed[name, form] = target
        self._computed[name] = None if name in self._needed else form
        return target, unpack


def _names(products) -> set[str]:
    """Names of all values that products read and compute."""
    return {name for p in products for name in (*p.reads, p.target)}
