"""What becomes of records that are damaged, or cannot be decoded.

Failures are dropped by `tf.data`, which costs nothing where there are none. What was
dropped shows as a gap in the positions of what is left.
"""

import threading
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from state_of_sparsity.models.training.records import DAMAGED, Records

PLACES_AT_A_TIME = 1024
# Examples are loaded in parallel, hence not quite in the order of their positions.
BATCHES_OF_PLACES = 2

Load = Callable[[tf.Tensor, tf.Tensor], object]


class Places:
    """The records of a pipeline by the positions of their examples.

    Args:
      records: that are read.
      positioned: `(position, place)` in the order in which the examples are read. It
        is read up to the position that is asked for: a million in seconds.
    """

    def __init__(self, records: Records, positioned: tf.data.Dataset):
        self._records = records
        self._all = positioned.batch(PLACES_AT_A_TIME)
        self._left = iter(())
        self._batches: list = []
        self._lock = threading.Lock()

    def note(self, position: int) -> None:
        """Says of a record that it is left out, see `Records.note`."""
        self._records.note(self._place(position))

    def salvaged(self, position: int) -> bytes:
        """A record of a file that is damaged, see `Records.salvaged`."""
        return self._records.salvaged(self._place(position))

    def _place(self, position):
        with self._lock:
            if not self._batches or position < self._batches[0][0][0]:
                self._left, self._batches = self._all.as_numpy_iterator(), []
            while not self._batches or position > self._batches[-1][0][-1]:
                self._batches.append(next(self._left))
                del self._batches[:-BATCHES_OF_PLACES]
            for positions, (files, numbers) in self._batches:
                if positions[0] <= position <= positions[-1]:
                    at = position - positions[0]
                    return int(files[at]), int(numbers[at])
        raise AssertionError("positions are without gaps")


def filled(
    positioned: tf.data.Dataset, load: Load, start: int, places: Places
) -> tf.data.Dataset:
    """Examples without end; the next one takes the place of one that is damaged.

    So the example at a position is the same, wherever reading begins.

    Args:
      positioned: `(position, record)`, with positions from `start` on, one by one.
      load: `load(position, record)` makes the example, or fails.
      start: the first position.
      places: of the same positions.
    """

    def note(first, end):
        for position in range(first, end):
            places.note(position)
        return end - first

    def count(state, element):
        expected, missing = state
        position, is_readable, example = element
        # The position itself is one of those, unless there is an example.
        end = tf.where(is_readable, position, position + 1)
        missing += tf.cond(
            end > expected,
            lambda: tf.ensure_shape(
                tf.numpy_function(note, [expected, end], tf.int64), []
            ),
            lambda: none,
        )
        times = tf.where(is_readable, 1 + missing, none)
        return (position + 1, tf.where(is_readable, none, missing)), (times, example)

    none = tf.constant(0, tf.int64)
    counted = _loaded(positioned, load, places).scan(
        (tf.constant(start, tf.int64), none), count
    )
    examples = counted.flat_map(
        lambda times, example: tf.data.Dataset.from_tensors(example).repeat(times)
    )
    without_end = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    return examples.apply(without_end)


def readable(records: Records, load: Load, batch_size: int) -> tf.data.Dataset:
    """Each example once, in a fixed order, other than those that are damaged.

    Args:
      records: to read.
      load: as of `filled`.
      batch_size: of the batches. Where some are damaged, it has fewer.
    """
    places = Places(records, records.places().enumerate())
    loaded = _loaded(records.read().enumerate(), load, places)
    last = tf.constant(records.count, tf.int64)
    # What comes after the last record shows what is missing before it.
    ended = loaded.concatenate(
        tf.data.Dataset.from_tensors((last, False, _nothing(loaded.element_spec[2])))
    )

    def note(expected, positions, are_readable):
        there = set(positions[are_readable])
        for position in range(expected, min(positions[-1] + 1, records.count)):
            if position not in there:
                places.note(position)
        return np.array(len(there))

    def keep(expected, batch):
        positions, are_readable, examples = batch
        after = positions[-1] + 1
        is_whole = tf.cast(after - expected, tf.int32) == tf.size(positions)
        is_whole &= tf.reduce_all(are_readable)

        def some():
            count = tf.numpy_function(
                note, [expected, positions, are_readable], tf.int64
            )
            kept = tf.nest.map_structure(
                lambda values: tf.boolean_mask(values, are_readable), examples
            )
            return tf.ensure_shape(count, []), kept

        return after, tf.cond(
            is_whole, lambda: (tf.size(positions, tf.int64), examples), some
        )

    kept = ended.batch(batch_size).scan(tf.constant(0, tf.int64), keep)
    return kept.filter(lambda count, _: count > 0).map(lambda _, examples: examples)


def _loaded(positioned, load, places):
    """`(position, whether there is an example, example)`, or nothing where it fails."""
    spec = positioned.map(load).element_spec

    def salvage(position):
        record = tf.numpy_function(places.salvaged, [position], tf.string)
        record = tf.ensure_shape(record, [])
        is_readable = record != DAMAGED
        return is_readable, tf.cond(
            is_readable, lambda: load(position, record), lambda: _nothing(spec)
        )

    def load_or_salvage(position, record):
        return position, *tf.cond(
            record != DAMAGED,
            lambda: (tf.constant(True), load(position, record)),
            lambda: salvage(position),
        )

    loaded = positioned.map(load_or_salvage, tf.data.AUTOTUNE, deterministic=True)
    return loaded.ignore_errors()


def _nothing(spec):
    return tf.nest.map_structure(lambda s: tf.zeros(s.shape, s.dtype), spec)
