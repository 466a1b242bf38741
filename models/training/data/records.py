"""Records of prepared datasets: their order in training, and which is damaged."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator

import tensorflow as tf
import tensorflow_datasets as tfds

# As TensorFlow Datasets reads: so many files by turns, so many records each.
CYCLE_LENGTH = BLOCK_LENGTH = 16
# What `tf.data` raises for records that are damaged, no examples, or missing.
_OF_DATA = (
    tf.errors.DataLossError,
    tf.errors.InvalidArgumentError,
    tf.errors.FailedPreconditionError,
)


class DamagedDataError(Exception):
    """A record of the data is damaged; the message names its file and its number."""


def shuffled_records(
    builder: tfds.core.DatasetBuilder, split: str, file_seed: tf.Tensor
) -> tf.data.Dataset:
    """The serialized examples of a split, from files in an order that a seed draws.

    TensorFlow Datasets does the same, with a seed that is no tensor.

    Args:
      builder: of the dataset, with TFRecord files.
      split: name of the split.
      file_seed: int64 scalar.
    """
    info = builder.info.splits[split]
    paths = [os.fspath(file.filename) for file in info.file_instructions]
    files = tf.data.Dataset.from_tensor_slices(paths)
    files = files.shuffle(len(paths), file_seed, reshuffle_each_iteration=False)
    records = files.interleave(
        tf.data.TFRecordDataset,
        1 if builder.info.disable_shuffling else CYCLE_LENGTH,
        BLOCK_LENGTH,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    # Records that are missing would move all that follow.
    return records.apply(tf.data.experimental.assert_cardinality(info.num_examples))


def first_damaged(
    builder: tfds.core.DatasetBuilder,
    splits: Iterable[str],
    load: Callable[[tf.Tensor], object],
) -> str | None:
    """Says which record is the first that cannot be read; None if all can.

    Args:
      builder: of the dataset.
      splits: which are read, from file to file.
      load: makes an example of a record, or fails.
    """
    for split in splits:
        for file in builder.info.splits[split].file_instructions:
            problem = _problem(file.filename, file.examples_in_shard, load)
            if problem is not None:
                return problem
    return None


def _problem(path, count, load):
    records = tf.data.TFRecordDataset(os.fspath(path))
    loaded = records.map(load, tf.data.AUTOTUNE, deterministic=True)
    number = 0
    try:
        for _ in loaded:
            number += 1
    except tf.errors.DataLossError:
        return f"{path}: record {number} is damaged"
    except tf.errors.OpError:
        return f"{path}: record {number} is no example that can be decoded"
    return f"{path}: record {number} is missing" if number < count else None


@contextlib.contextmanager
def naming_damage(find: Callable[[], str | None]) -> Iterator[None]:
    """Raises DamagedDataError where reading the data fails.

    Args:
      find: looks for the record, which TensorFlow does not name.
    """
    try:
        yield
    except _OF_DATA as error:
        found = find()
        if found is None:
            raise
        raise DamagedDataError(f"{found}. Prepare the dataset again.") from error
