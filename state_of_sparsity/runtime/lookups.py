"""Lookups of rows in constant tables of a graph, as embeddings do.

A lookup is `y[i] = table[ids[i]]` for each id; ids below zero count from the last row.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from state_of_sparsity.runtime.graph import Graph
from state_of_sparsity.runtime.graphs import attribute
from state_of_sparsity.runtime.weights import Table

# Bytes of an id, by its type.
_ID_BYTES = {"tensor(int32)": 4, "tensor(int64)": 8}


@dataclasses.dataclass(frozen=True, eq=False)
class Lookup:
    """A lookup in a constant table.

    Args:
      nodes: the number of its node.
      name: of its output in the graph, by which it is known.
      source: name of the ids.
      id_bytes: of each of them, 4 or 8.
      weights: name of the table in the graph.
      table: without its zeros.
    """

    nodes: tuple[int]
    name: str
    source: str
    id_bytes: int
    weights: str
    table: Table

    @property
    def target(self) -> str:
        """Name of the value that it computes."""
        return self.name

    @property
    def reads(self) -> list[str]:
        """Names of the values that it reads."""
        return [self.source]


def find(graph: Graph, is_worth_it: Callable[[np.ndarray], bool]) -> list[Lookup]:
    """All lookups in constant tables of float32 and two axes, in order.

    Args:
      graph: the graph.
      is_worth_it: says of a table whether it is to be without its zeros.
    """
    found, tables = [], {}
    for number, node in enumerate(graph.nodes):
        if not _is_lookup(graph, node):
            continue
        name, source = node.input
        if name not in tables:
            matrix = graph.weights[name]
            tables[name] = Table.of(matrix) if is_worth_it(matrix) else None
        if tables[name] is not None:
            size = _ID_BYTES[graph.types[source]]
            given = (node.output[0], source, size, name, tables[name])
            found.append(Lookup((number,), *given))
    return found


def _is_lookup(graph: Graph, node) -> bool:
    if node.domain not in ("", "ai.onnx") or node.op_type != "Gather":
        return False
    name, source = node.input
    # Of two axes, -2 is the first, too.
    if attribute(node, "axis", 0) not in (0, -2) or name not in graph.weights:
        return False
    matrix = graph.weights[name]
    fits = matrix.dtype == np.float32 and matrix.ndim == 2 and matrix.size > 0
    return fits and graph.types.get(source) in _ID_BYTES


def pack(graph: Graph, found: list[Lookup]) -> None:
    """Lets a graph keep tables without their zeros, where only lookups read them."""
    numbers = {number for lookup in found for number in lookup.nodes}
    for lookup in found:
        if numbers.issuperset(graph.users[lookup.weights]):
            graph.pack(lookup.weights, lookup.table)
