"""Profile of where the time of a session goes, and what it could be at best."""

import dataclasses
import math
import statistics
import time
import timeit

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from state_of_sparsity.runtime import layouts, program
from state_of_sparsity.runtime.chains import Chain
from state_of_sparsity.runtime.graph import start
from state_of_sparsity.runtime.lookups import Lookup
from state_of_sparsity.runtime.products import Product
from state_of_sparsity.runtime.program import Buffer, Program

_ROUNDS = 7
# Sides of the matrices whose product shows how fast one can be.
_SIDE = 768
_LEAST_BYTES = 2**20


@dataclasses.dataclass(frozen=True)
class Line:
    """One product, lookup, change of layout, or part of ONNX Runtime's.

    Args:
      name: of what it computes.
      kernel: what computes it.
      milliseconds: median.
      density: of a product or table, the part of the weights that is not zero.
      megabytes: that it has to read and write at least, weights among them; of a table,
        of as many rows as there are ids, of the usual number of non-zeros.
      multiply_adds: in millions; of ONNX Runtime's parts, those of the products.
      bound: milliseconds that megabytes or multiply-adds take at least, whichever is
        longer.
    """

    name: str
    kernel: str
    milliseconds: float
    density: float | None
    megabytes: float
    multiply_adds: float
    bound: float


@dataclasses.dataclass(frozen=True)
class Profile:
    """A table, which prints as one.

    Args:
      lines: list of `Line`, in the order of the computation.
      bandwidth: GB/s of copying in as much memory as the session works on.
      peak: thousand million multiply-adds per second, of a product of dense matrices.
      threads: that compute.
    """

    lines: list[Line]
    bandwidth: float
    peak: float
    threads: int

    def __str__(self) -> str:
        wide = max(len(line.name) for line in self.lines)
        head = (
            f"{'':<{wide}}  {'ms':>8}  {'bound':>8}  density       MB     MMAC  kernel"
        )
        rows = [head]
        for line in self.lines:
            density = "" if line.density is None else f"{line.density:.3f}"
            rows.append(
                f"{line.name:<{wide}}  {line.milliseconds:8.3f}  {line.bound:8.3f}  "
                f"{density:>7}  {line.megabytes:7.2f}  {line.multiply_adds:7.1f}  "
                f"{line.kernel}"
            )
        total = sum(line.milliseconds for line in self.lines)
        bound = sum(line.bound for line in self.lines)
        rows.append(f"{'together':<{wide}}  {total:8.3f}  {bound:8.3f}")
        rows.append(
            f"{self.threads} threads; {self.bandwidth:.1f} GB/s, {self.peak:.1f} "
            "thousand million multiply-adds per second"
        )
        return "\n".join(rows)


def profile(plan, found, shapes, graph) -> Profile:
    """Times all that a plan does.

    Args:
      plan: whose inputs are placed.
      found: all products of the graph.
      shapes: by the name of a value.
      graph: the graph.
    """
    team = plan.team
    rounds = [_times(plan.steps, team) for _ in range(_ROUNDS + 1)][1:]
    times = [1e3 * statistics.median(values) for values in zip(*rounds, strict=True)]
    nonzero = 8 * sum(np.count_nonzero(product.weights) for product in found)
    speeds = _bandwidth(plan.memory + nonzero, team), _peak(team.threads)
    lines, times = [], iter(times)
    for step in plan.steps:
        if isinstance(step, Chain):
            for operation, (name, unit) in zip(
                step.operations, step.names, strict=True
            ):
                facts = _facts(step, operation, name, unit, shapes)
                lines.append(_line(facts, next(times), speeds))
        else:
            facts = _facts_of_part(step.part, found, shapes, graph)
            lines.append(_line(facts, next(times), speeds))
    return Profile(lines, *speeds, team.threads)


def _times(steps, team) -> list[float]:
    found = []
    for step in steps:
        if isinstance(step, Chain):
            found += step.run_each(team)
        else:
            begin = time.perf_counter()
            step.run_step(team)
            found.append(time.perf_counter() - begin)
    return found


def _line(facts, milliseconds: float, speeds) -> Line:
    name, kernel, density, size, multiply_adds = facts
    bandwidth, peak = speeds
    # Megabytes over GB/s, and millions over thousands of millions, are milliseconds.
    bound = max(size / 1e6 / bandwidth, multiply_adds / 1e6 / peak)
    return Line(
        name, kernel, milliseconds, density, size / 1e6, multiply_adds / 1e6, bound
    )


def _facts(chain: Chain, operation, name: str, unit, shapes):
    if isinstance(unit, Lookup):
        return _facts_of_lookup(unit, shapes)
    if unit is None:
        moved = sum(buffer.size for buffer in (*operation.reads, *operation.writes))
        return name, "layout", None, 4 * moved * chain.repeats, 0
    return _facts_of_product(chain, operation, unit, shapes)


def _facts_of_lookup(lookup: Lookup, shapes):
    table, ids = lookup.table, math.prod(shapes[lookup.source])
    rows = table.shape[0]
    of_a_row = len(table.values) / rows
    size = 8 * of_a_row * min(ids, rows) + lookup.id_bytes * ids
    size += _bytes([lookup.target], shapes)
    kernel = f"sparse, {ids} rows of {of_a_row:.0f} non-zeros"
    return lookup.name, kernel, table.density, size, 0


def _facts_of_product(chain: Chain, operation, product: Product, shapes):
    count = np.count_nonzero(product.weights)
    size = 8 * count + _bytes([*product.reads, product.target], shapes)
    kernel = f"sparse, {operation.describe()}"
    if chain.repeats > 1:
        kernel += f", batch in {chain.repeats}"
    work = count * positions_of(product, shapes)
    return product.name, kernel, product.density, size, work


def _facts_of_part(part, found, shapes, graph):
    inside = _products_of(part, found)
    size, work = work_of(part, found, shapes, graph)
    operators = [graph.nodes[number].op_type for number in part.nodes]
    listed = ", ".join(dict.fromkeys(operators[:4]))
    kernel = f"ONNX Runtime, {len(operators)} nodes: {listed}"
    density = None
    if inside:
        weight = sum(p.weights.size for p in inside)
        density = sum(np.count_nonzero(p.weights) for p in inside) / weight
    return part.outputs[0], kernel, density, size, work


def _products_of(part, found) -> list[Product]:
    return [product for product in found if product.nodes[0] in part.nodes]


def work_of(part, found, shapes, graph) -> tuple[int, int]:
    """Bytes that a part of ONNX Runtime's has to move, and multiply-adds of products.

    Args:
      part: the nodes.
      found: all products of the graph.
      shapes: by the name of a value.
      graph: the graph.
    """
    weights = {
        n for i in part.nodes for n in graph.nodes[i].input if n in graph.weights
    }
    size = sum(graph.weights[name].nbytes for name in weights)
    size += _bytes([*part.inputs, *part.outputs], shapes)
    inside = _products_of(part, found)
    return size, sum(p.weights.size * positions_of(p, shapes) for p in inside)


def _bytes(names, shapes) -> int:
    return 4 * sum(math.prod(shapes[name]) for name in dict.fromkeys(names))


def positions_of(product: Product, shapes) -> int:
    """How many positions the output of a product has, of all images."""
    form = layouts.form_of(shapes[product.target], product.axis, product.rows)
    return form.images * form.positions


def _bandwidth(size: int, team) -> float:
    """GB/s of copying, reading and writing counted, within `size` bytes."""
    positions = 1024
    channels = max(size, _LEAST_BYTES) // (8 * positions)
    form = layouts.Form(channels, 1, positions, positions, 0, 1)
    source, target = (Buffer(program.packed_size(form)) for _ in range(2))
    source.memory = program.aligned(source.size)
    target.memory = program.aligned(target.size)
    copy = Program([program.change(source, target, form, True)], team.threads)
    best = _best(lambda: team.run(copy.address))
    return 8 * channels * positions / best / 1e9


def _peak(threads: int) -> float:
    """Thousand million multiply-adds per second of ONNX Runtime's product."""
    sides = [_SIDE, _SIDE]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, sides) for name in "xyz"
    ]
    node = helper.make_node("MatMul", ["x", "y"], ["z"])
    graph = helper.make_graph([node], "peak", values[:2], values[2:])
    opsets = [helper.make_opsetid("", 17)]
    model: onnx.ModelProto = helper.make_model(
        graph, opset_imports=opsets, ir_version=9
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = start(model, options)
    inputs = {name: np.ones(sides, np.float32) for name in "xy"}
    best = _best(lambda: session.run(None, inputs))
    return _SIDE**3 / best / 1e9


def _best(job) -> float:
    return min(timeit.repeat(job, number=1, repeat=5))
