"""The records of a prepared dataset, of which a damaged one keeps its place.

TensorFlow's reader ends a file at its first damaged record, and `tf.data` can only drop
what fails: the examples that follow would all move, and the batch of a step would not
be a function of seed and step any more. Here each file gives as many records as it had
when it was written, and what was dropped later is seen by its position.
"""

import contextlib
import os
import re
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging

from state_of_sparsity.models.training.salvage import read_record

# In place of a damaged record. None is empty, since each has features.
DAMAGED = b""
# As TensorFlow Datasets reads: so many files by turns, so many records each.
CYCLE_LENGTH = BLOCK_LENGTH = 16
# Of which one at least has to be what is expected.
CHECKED = 64


class DamagedDataError(Exception):
    """A record of the data is damaged; the message names its file and its number."""


@contextlib.contextmanager
def naming_damage():
    """Raises DamagedDataError where TensorFlow raises one of its own for it."""
    try:
        yield
    except tf.errors.OpError as error:
        found = re.search(rf"{DamagedDataError.__name__}: (.*)", error.message)
        if found is None:
            raise
        raise DamagedDataError(found[1]) from error


class Records:
    """The serialized examples of a split, in the order of TensorFlow Datasets.

    Args:
      builder: of the dataset, with TFRecord files.
      split: name of the split, with a slice if need be.
      strict: whether a damaged record is an error.

    Attributes:
      count: how many there are, damaged ones included.
      skipped: paths and numbers of those that were left out so far.
    """

    def __init__(
        self, builder: tfds.core.DatasetBuilder, split: str, strict: bool = False
    ):
        info = builder.info.splits[split]
        self._files = info.file_instructions
        self._title = f"{builder.info.full_name}, split {split}"
        self._folder = builder.data_path
        self._strict = strict
        self._cycle = 1 if builder.info.disable_shuffling else CYCLE_LENGTH
        self.count = info.num_examples
        self.skipped: set[tuple[str, int]] = set()

    def read(self, file_seed=None) -> tf.data.Dataset:
        """The serialized examples; in a file, `DAMAGED` from the first damaged one on.

        Args:
          file_seed: of the order of files, which are not shuffled if it is None.
        """
        return self._of_files(_records_of_file, file_seed)

    def places(self, file_seed=None) -> tf.data.Dataset:
        """The file and the number in it of each example, in the order of `read`."""
        return self._of_files(_places_in_file, file_seed)

    def _of_files(self, of_file, file_seed):
        columns = (
            np.arange(len(self._files)),
            [os.fspath(file.filename) for file in self._files],
            *(
                np.array([getattr(file, name) for file in self._files], np.int64)
                for name in ("skip", "take", "examples_in_shard")
            ),
        )
        files = tf.data.Dataset.from_tensor_slices(columns)
        if file_seed is not None:
            files = files.shuffle(len(self._files), file_seed, False)
        return files.interleave(
            of_file,
            self._cycle,
            BLOCK_LENGTH,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )

    def check(self, load: Callable[[tf.Tensor], object]) -> None:
        """Raises DamagedDataError if not one of the first examples can be decoded.

        Otherwise reading without end would go on without end, and without a word.

        Args:
          load: makes an example of a record, or fails.
        """
        first = self.read().take(CHECKED).filter(lambda record: record != DAMAGED)
        if not any(True for _ in first):
            # All are lost, of which each will be said.
            return
        if not any(True for _ in first.map(load).ignore_errors().take(1)):
            raise DamagedDataError(
                f"{self._title}: none of the first {min(CHECKED, self.count)} examples "
                f"can be decoded. Prepare the dataset in {self._folder} again."
            )

    def salvaged(self, place: tuple[int, int]) -> bytes:
        """The record at one of `places`; `DAMAGED` if it cannot be read."""
        file = self._files[place[0]]
        path, count = os.fspath(file.filename), file.examples_in_shard
        try:
            return read_record(path, place[1], count) or DAMAGED
        except (OSError, tf.errors.OpError):
            # What is raised in a pipeline that drops failures is not seen. `note`,
            # which comes after it, meets the same error.
            return DAMAGED

    def note(self, place: tuple[int, int]) -> None:
        """Says once of a record that it is left out.

        Args:
          place: of `places`.

        Raises:
          DamagedDataError: if that is an error.
          OSError: if the file cannot be read at all.
        """
        file = self._files[place[0]]
        path, number = os.fspath(file.filename), place[1]
        if (path, number) in self.skipped:
            return
        lost = read_record(path, number, file.examples_in_shard) is None
        text = f"{path}: record {number} " + (
            "is damaged" if lost else "is no example that can be decoded"
        )
        if self._strict:
            raise DamagedDataError(
                f"{text}. Prepare the dataset again, or leave out --strict_data to "
                "train without it."
            )
        self.skipped.add((path, number))
        logging.warning(
            "%s, and left out (%d of %d of %s).",
            text,
            len(self.skipped),
            self.count,
            self._title,
        )


def _records_of_file(_, path, skip, take, count):
    # A file that cannot be opened would be tried again and again.
    paths = tf.numpy_function(_readable, [path], tf.string)
    read = tf.data.TFRecordDataset(tf.ensure_shape(paths, [None])).ignore_errors()
    lost = tf.data.Dataset.from_tensors(DAMAGED).repeat()
    return read.concatenate(lost).take(count).skip(skip).take(take)


def _readable(path):
    return np.array([path] if os.path.exists(path) or b"://" in path else [], "S")


def _places_in_file(index, path, skip, take, count):
    del path, count
    numbers = tf.data.Dataset.range(skip, skip + take)
    return numbers.map(lambda number: (index, number))
