"""Weights of a graph, some of them without their zeros."""

import collections.abc
from typing import NamedTuple

import numpy as np


class Table(NamedTuple):
    """The non-zeros of a float32 matrix, row by row.

    Args:
      shape: rows and columns.
      starts: int64, where each row begins, and where the last one ends.
      columns: int32.
      values: float32.
    """

    shape: tuple[int, int]
    starts: np.ndarray
    columns: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, matrix: np.ndarray) -> "Table":
        """The non-zeros of a matrix, whose zeros lose their signs."""
        rows, columns = np.nonzero(matrix)
        starts = np.zeros(len(matrix) + 1, np.int64)
        np.cumsum(np.bincount(rows, minlength=len(matrix)), out=starts[1:])
        values = matrix[rows, columns]
        return cls(matrix.shape, starts, columns.astype(np.int32), values)

    @property
    def density(self) -> float:
        """The part of the matrix that is not zero."""
        return len(self.values) / (self.shape[0] * self.shape[1])

    def dense(self) -> np.ndarray:
        """The matrix, made anew."""
        matrix = np.zeros(self.shape, np.float32)
        rows = np.repeat(np.arange(len(matrix)), np.diff(self.starts))
        matrix[rows, self.columns] = self.values
        return matrix


class Weights(collections.abc.Mapping):
    """Arrays by name, as of a dictionary.

    Args:
      arrays: by name.
    """

    def __init__(self, arrays: dict[str, np.ndarray]):
        self._kept = dict(arrays)

    def __getitem__(self, name: str) -> np.ndarray:
        kept = self._kept[name]
        return kept.dense() if isinstance(kept, Table) else kept

    def __contains__(self, name) -> bool:
        # What is inherited would make it dense.
        return name in self._kept

    def __iter__(self):
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def pack(self, name: str, table: Table) -> None:
        """Keeps a matrix as its non-zeros, from which it is made when asked for."""
        self._kept[name] = table

    def is_packed(self, name: str) -> bool:
        """Whether a matrix is kept as its non-zeros."""
        return isinstance(self._kept.get(name), Table)
