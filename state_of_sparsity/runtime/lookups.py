"""Lookups of rows in constant tables of a graph, as embeddings do.

A lookup is `y[i] = table[ids[i]]` for each id; ids below zero count from the last row.
The table is kept by rows of non-zeros, and the dense one is not needed.
"""

import functools
from typing import NamedTuple

import numpy as np
from onnx import helper

from state_of_sparsity.runtime.graph import Graph

# Bytes of an id, by its type.
_ID_BYTES = {"tensor(int32)": 4, "tensor(int64)": 8}


class Table(NamedTuple):
    """The non-zeros of a matrix, row by row.

    Args:
      starts: int64, where each row begins, and where the last one ends.
      columns: int32.
      values: float32.
    """

    starts: np.ndarray
    columns: np.ndarray
    values: np.ndarray


class Lookup:
    """A lookup in a constant table.

    Args:
      number: of the node.
      name: of its output in the graph, by which it is known.
      source: name of the ids.
      id_bytes: of each of them, 4 or 8.
      weights: the dense table, (rows, width).
    """

    def __init__(
        self, number: int, name: str, source: str, id_bytes: int, weights: np.ndarray
    ):
        self.nodes, self.name, self.source = (number,), name, source
        self.id_bytes, self.weights = id_bytes, weights

    @property
    def target(self) -> str:
        """Name of the value that it computes."""
        return self.name

    @property
    def reads(self) -> list[str]:
        """Names of the values that it reads."""
        return [self.source]

    @functools.cached_property
    def nonzeros(self) -> int:
        """How many numbers of the table are not zero."""
        return int(np.count_nonzero(self.weights))

    @property
    def density(self) -> float:
        """The part of the table that is not zero."""
        return self.nonzeros / self.weights.size

    @functools.cached_property
    def table(self) -> Table:
        """The table without its zeros, whatever their sign."""
        rows, columns = np.nonzero(self.weights)
        starts = np.zeros(len(self.weights) + 1, np.int64)
        np.cumsum(np.bincount(rows, minlength=len(self.weights)), out=starts[1:])
        return Table(starts, columns.astype(np.int32), self.weights[rows, columns])


def find(graph: Graph) -> list[Lookup]:
    """All lookups in constant tables of float32 and two axes, in order."""
    found = []
    for number, node in enumerate(graph.nodes):
        if node.domain not in ("", "ai.onnx") or node.op_type != "Gather":
            continue
        name, source = node.input
        table, kind = graph.weights.get(name), graph.types.get(source)
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        # Of two axes, -2 is the first, too.
        rows = given.get("axis", 0) in (0, -2)
        if table is None or table.ndim != 2 or not table.size or not rows:
            continue
        if table.dtype == np.float32 and kind in _ID_BYTES:
            found.append(Lookup(number, node.output[0], source, _ID_BYTES[kind], table))
    return found
