"""The interface of translation datasets, and batches of tokens made out of them.

For training, sentences are packed into rows of equal length, as they were for the
Transformer runs of Gale, Elsen & Hooker 2019 (arXiv 1902.09574). Which lengths go
together is decided once for the dataset; which sentences of those lengths, is drawn
anew in each epoch. So all epochs have the same number of rows, and a run that resumes
goes to its batch directly.
"""

import abc
import functools
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from state_of_sparsity.models.translation.special_ids import PADDING_ID
from state_of_sparsity.models.translation.transformer import INPUT_NAMES

SPLITS = ("train", "validation", "test")
# Sentences that are encoded at a time.
CHUNK = 4096
PREFETCHED_BATCHES = 4
# Ways of filling a row, of which the best is taken.
ATTEMPTS = 32


class TranslationDataset(abc.ABC):
    """Pairs of an English source and a German target sentence, in three splits."""

    name: str
    training_examples: int
    # How sacreBLEU cuts sentences into words.
    bleu_tokenizer: str = "13a"
    # From how many pairs a vocabulary is learned; SentencePiece takes its time.
    vocabulary_pairs: int = 1_000_000

    @abc.abstractmethod
    def sentences(self, split: str) -> tf.data.Dataset:
        """Each `(source, target)` of a split once, in a fixed order: scalar strings.

        Raises:
          ValueError: if `split` is not one of "train", "validation" and "test".
        """

    def damage(self) -> str | None:
        """Which record on disk is the first that cannot be read; None if all can."""
        return None

    @staticmethod
    def check_split(split: str) -> None:
        """Raises a ValueError unless there is such a split."""
        if split not in SPLITS:
            raise ValueError(f"`split` must be one of {SPLITS}. Received: {split!r}")


def training_text(
    dataset: TranslationDataset, pairs: int | None = None
) -> Iterator[bytes]:
    """The sentences of both languages, to learn a shared vocabulary from.

    Args:
      dataset: what to read.
      pairs: how many of the first pairs of the training split; by default all.

    Yields:
      Source and target sentences by turns, in UTF-8.
    """
    sentences = dataset.sentences("train").take(-1 if pairs is None else pairs)
    for sources, targets in sentences.batch(CHUNK).as_numpy_iterator():
        for pair in zip(sources, targets, strict=True):
            yield from pair


class PackedPairs:
    """A training split in tokens, packed into rows. It is held in memory.

    A row holds whole sentences, and the translation of each at the same place among
    the target sentences. Every pair is in one row of every epoch, other than those with
    a side of more than `packed_length` tokens, which are left out.

    Args:
      dataset: a `TranslationDataset`.
      vocabulary: a `Vocabulary`.
      packed_length: of a row, in tokens, for source and target alike.

    Attributes:
      examples: number of pairs that are packed.
      left_out: number of pairs that are too long.
      length: of a row.
      rows_per_epoch: number of rows that all pairs fill.
      padding_share: share of an epoch's tokens, source and target, that are padding.

    Raises:
      ValueError: if `packed_length` is less than 1, or no pair is that short.
    """

    def __init__(self, dataset: TranslationDataset, vocabulary, packed_length: int):
        if packed_length < 1:
            raise ValueError(
                f"`packed_length` must be at least 1. Received: {packed_length}"
            )
        self.length = packed_length
        self._source, self._target, self.left_out = _read(
            dataset, vocabulary, packed_length
        )
        self.examples = len(self._source.lengths)
        if not self.examples:
            raise ValueError(
                f"{dataset.name}: no pair of sentences has at most `packed_length` "
                f"tokens on either side. Received: {packed_length}"
            )
        kinds = self._source.lengths.astype(np.int64) * (packed_length + 1)
        kinds += self._target.lengths
        self._rows = _Rows(kinds, packed_length)
        self.rows_per_epoch = len(self._rows.starts) - 1
        tokens = len(self._source.values) + len(self._target.values)
        self.padding_share = 1 - tokens / (2 * self.rows_per_epoch * packed_length)
        # A batch may run across the border of two epochs.
        self._epoch = functools.lru_cache(maxsize=2)(self._rows.epoch)

    def training(self, rows: int, seed: int, start_step: int = 0) -> tf.data.Dataset:
        """Endless batches `(inputs, labels, weights)` of shuffled rows.

        The batch of step `t` depends on `seed` and `t` only, and is found without those
        before: a run that resumes at `start_step` sees what it would have seen.

        Args:
          rows: number of rows in a batch.
          seed: at least 0; of which sentences go together and of the order of rows.
          start_step: the step of the first batch.

        Returns:
          A dataset of tuples of
          `inputs`, a dict of int32 `(rows, length)`: ids "source" and "target";
          "source_segments" and "target_segments", the number of a token's sentence in
          its row, from 1, and 0 for padding; "source_positions" and "target_positions",
          the place of a token in its sentence, from 0;
          `labels`, the same as "target";
          `weights`, float32 `(rows, length)`, 1 for target tokens and 0 for padding.

        Raises:
          ValueError: if `rows` is less than 1, or `seed` or `start_step` is negative.
        """
        if rows < 1 or seed < 0 or start_step < 0:
            raise ValueError(
                "`rows` must be at least 1, `seed` and `start_step` at least 0. "
                f"Received: rows={rows}, seed={seed}, start_step={start_step}"
            )

        @tf.autograph.experimental.do_not_convert
        def load(step):
            arrays = tf.numpy_function(
                lambda step: self._batch(step, rows, seed),
                [step],
                [tf.int32] * len(INPUT_NAMES),
                stateful=False,
            )
            for array in arrays:
                array.set_shape((rows, self.length))
            return _with_labels(dict(zip(INPUT_NAMES, arrays, strict=True)))

        batches = tf.data.Dataset.counter(start_step).map(load)
        return _shared_out_by_examples(batches.prefetch(PREFETCHED_BATCHES))

    def _batch(self, step, rows, seed):
        """The arrays of `INPUT_NAMES` at a step."""
        pairs, row = self._pairs(step * rows, rows, seed)
        first = np.flatnonzero(np.diff(row, prepend=-1))
        number = np.arange(len(row)) - np.repeat(first, np.bincount(row)) + 1
        arrays = []
        for side in (self._source, self._target):
            lengths = side.lengths[pairs].astype(np.int64)
            ends = np.cumsum(lengths)
            column = ends - lengths
            column -= np.repeat(column[first], np.bincount(row))
            places = _ranges(row * self.length + column, lengths)
            for values in (
                side.values[_ranges(side.starts[pairs], lengths)],
                np.repeat(number, lengths),
                _ranges(np.zeros_like(lengths), lengths),
            ):
                array = np.full(rows * self.length, PADDING_ID, np.int32)
                array[places] = values
                arrays.append(array.reshape(rows, self.length))
        return arrays

    def _pairs(self, begin, rows, seed):
        """Which pairs are in some rows, counted from the beginning of training.

        Returns:
          The pairs' indices, and the row of each, from 0.
        """
        epochs, places = np.divmod(np.arange(begin, begin + rows), self.rows_per_epoch)
        pairs, counts = [], []
        for epoch in np.unique(epochs):
            pair_of_slot, order = self._epoch(seed, int(epoch))
            drawn = order[places[epochs == epoch]]
            starts = self._rows.starts[drawn]
            counts.append(self._rows.starts[drawn + 1] - starts)
            pairs.append(pair_of_slot[_ranges(starts, counts[-1])])
        return np.concatenate(pairs), np.repeat(np.arange(rows), np.concatenate(counts))


class _Sentences:
    """Sentences of ids, one after the other in one array."""

    def __init__(self, values, lengths):
        self.values, self.lengths = values, lengths
        self.starts = np.cumsum(lengths, dtype=np.int64) - lengths


class _Rows:
    """Rows with slots for pairs of given lengths.

    Args:
      kinds: for each pair, its length of source times `length + 1` plus that of target.
      length: of a row.

    Attributes:
      starts: where the slots of each row begin, and where those of the last one end.
    """

    def __init__(self, kinds, length):
        kind_of_slot, slots_of_row = _plan(
            *np.unique(kinds, return_counts=True), length
        )
        self.starts = np.concatenate([[0], np.cumsum(slots_of_row)])
        # Ranks are small numbers, which NumPy sorts several times as fast.
        ranks = np.unique(kinds, return_inverse=True)[1]
        small = np.min_scalar_type(ranks.max())
        self._rank_of_pair = ranks.astype(small)
        rank_of_slot = np.unique(kind_of_slot, return_inverse=True)[1].astype(small)
        self._slots_by_kind = np.argsort(rank_of_slot, kind="stable")

    def epoch(self, seed, epoch):
        """Draws which pair goes into which slot, and the order of the rows."""
        rng = np.random.default_rng([seed, epoch])
        pairs = rng.permutation(len(self._rank_of_pair))
        by_kind = pairs[np.argsort(self._rank_of_pair[pairs], kind="stable")]
        pair_of_slot = np.empty_like(pairs)
        pair_of_slot[self._slots_by_kind] = by_kind
        return pair_of_slot, rng.permutation(len(self.starts) - 1)


def _plan(kinds, counts, length):
    """Packs pairs of given lengths into few rows.

    Vector bin packing, greedily. As pairs of the same lengths are interchangeable, a
    row is filled once and repeated as often as there are pairs for it: the time this
    takes depends on the number of different lengths, not of pairs.

    Args:
      kinds: different lengths, as `_Rows` has them.
      counts: how many pairs there are of each.
      length: of a row.

    Returns:
      The kind of each slot, row by row, and the number of slots of each row.
    """
    rng = np.random.default_rng(0)
    counts, sizes = counts.copy(), np.stack(np.divmod(kinds, length + 1), axis=-1)
    # The side that fills more rows matters more.
    tokens = counts @ sizes
    weights = tokens / tokens.sum()
    slots, slots_of_row = [], []
    while len(kinds):
        row = _filled_row(sizes, counts, weights, length, rng)
        used, times = np.unique(row, return_counts=True)
        repeats = (counts[used] // times).min()
        slots.append(np.tile(kinds[row], repeats))
        slots_of_row.append(np.full(repeats, len(row)))
        counts[used] -= repeats * times
        left = counts > 0
        kinds, sizes, counts = kinds[left], sizes[left], counts[left]
    return np.concatenate(slots), np.concatenate(slots_of_row)


def _filled_row(sizes, counts, weights, length, rng):
    """Indices of kinds that go into a row together: the fullest of some attempts.

    An attempt begins with the longest pair. What it takes next has the largest dot
    product of its lengths with the room that is left (Panigrahy et al. 2011,
    "Heuristics for vector bin packing"), times a random factor between 1 and 2: several
    attempts find what fits to a token, where one leaves a gap in each row.

    Args:
      sizes: lengths of source and target `(kinds, 2)`.
      counts: how many pairs there are of each kind.
      weights: of source and target `(2,)`.
      length: of a row.
      rng: of the random factors.
    """
    attempts = np.arange(ATTEMPTS)
    factors = rng.uniform(1, 2, (ATTEMPTS, len(sizes)))
    room = np.full((ATTEMPTS, 2), length)
    counts = np.tile(counts, (ATTEMPTS, 1))
    chosen = np.full(ATTEMPTS, np.argmax(sizes @ weights))
    goes_on, rows = np.ones(ATTEMPTS, bool), []
    while goes_on.any():
        rows.append(np.where(goes_on, chosen, -1))
        counts[attempts[goes_on], chosen[goes_on]] -= 1
        room[goes_on] -= sizes[chosen[goes_on]]
        fits = (sizes <= room[:, None]).all(axis=-1) & (counts > 0)
        products = (weights * room) @ sizes.T * factors
        chosen = np.argmax(np.where(fits, products, -1), axis=1)
        goes_on = fits.any(axis=1)
    fullest = np.stack(rows, axis=1)[np.argmin(room @ weights)]
    return fullest[fullest >= 0]


def _read(dataset, vocabulary, length):
    """The training split as two `_Sentences`, and the number of pairs left out."""

    @tf.autograph.experimental.do_not_convert
    def encode(sources, targets):
        sides = vocabulary.encode(sources), vocabulary.encode(targets)
        lengths = [side.row_lengths() for side in sides]
        fits = tf.maximum(*lengths) <= length
        kept = [tf.ragged.boolean_mask(side, fits) for side in sides]
        return *kept, tf.math.count_nonzero(~fits)

    sentences = dataset.sentences("train").batch(CHUNK)
    parts, left_out = ([], []), 0
    # Half of the memory, where ids allow for it.
    dtype = np.min_scalar_type(vocabulary.size - 1)
    for *sides, count in sentences.map(encode, tf.data.AUTOTUNE, deterministic=True):
        for part, side in zip(parts, sides, strict=True):
            values = side.values.numpy().astype(dtype)
            part.append((values, side.row_lengths().numpy().astype(np.int32)))
        left_out += int(count)
    if left_out:
        logging.info(
            "%s: %d pairs of more than %d tokens are left out.",
            dataset.name,
            left_out,
            length,
        )
    source, target = (
        _Sentences(*map(np.concatenate, zip(*part, strict=True))) for part in parts
    )
    return source, target, left_out


def evaluation_batches(
    dataset: TranslationDataset, vocabulary, split: str, batch_size: int
) -> tf.data.Dataset:
    """Each pair of a split once, a sentence per row; sentences of like length together.

    The longest come first: if memory does not suffice, it shows at once.

    Args:
      dataset: what to read.
      vocabulary: a `Vocabulary`.
      split: "train", "validation" or "test".
      batch_size: number of rows, of which the last batch may have fewer.

    Returns:
      A dataset of `(inputs, labels, weights)` as of `PackedPairs.training`, of shape
      `(rows, longest source)` and `(rows, longest target)` of each batch.

    Raises:
      ValueError: for an unknown split.
    """
    sides, _ = _by_length(dataset, vocabulary, split)
    encoded = tuple(vocabulary.encode(side) for side in sides)

    @tf.autograph.experimental.do_not_convert
    def load(source, target):
        inputs = {}
        for name, side in (("source", source), ("target", target)):
            ids = side.to_tensor(PADDING_ID)
            is_token = tf.cast(ids != PADDING_ID, tf.int32)
            inputs[name] = ids
            inputs[f"{name}_segments"] = is_token
            inputs[f"{name}_positions"] = tf.range(tf.shape(ids)[1]) * is_token
        return _with_labels(inputs)

    batches = tf.data.Dataset.from_tensor_slices(encoded).batch(batch_size).map(load)
    return _shared_out_by_examples(batches.prefetch(PREFETCHED_BATCHES))


def evaluation_sentences(
    dataset: TranslationDataset, vocabulary, split: str
) -> tuple[list[str], list[str]]:
    """Sources and references of a split, in the order of `evaluation_batches`.

    Raises:
      ValueError: for an unknown split.
    """
    sides, _ = _by_length(dataset, vocabulary, split)
    sources, references = ([text.decode() for text in side] for side in sides)
    return sources, references


def in_order_of_evaluation(
    lines: Sequence[str], dataset: TranslationDataset, vocabulary, split: str
) -> list[str]:
    """Lines on the sentences of a split, in the order of `evaluation_sentences`.

    Args:
      lines: one for each sentence, in the order of the dataset.
      dataset: what to read.
      vocabulary: a `Vocabulary`.
      split: "train", "validation" or "test".

    Raises:
      ValueError: for another number of lines, or an unknown split.
    """
    _, order = _by_length(dataset, vocabulary, split)
    if len(lines) != len(order):
        raise ValueError(
            f"there must be a line for each of the {len(order):,} sentences of the "
            f"{split} split. Received: {len(lines):,} lines"
        )
    return [lines[place] for place in order]


def _by_length(dataset, vocabulary, split):
    """Source and target sentences as arrays of bytes, longest first; and the order."""
    pairs = list(dataset.sentences(split).batch(CHUNK).as_numpy_iterator())
    sides = [np.concatenate(side) for side in zip(*pairs, strict=True)]
    lengths = [vocabulary.encode(side).row_lengths().numpy() for side in sides]
    order = np.lexsort(lengths)[::-1]
    return [side[order] for side in sides], order


def _with_labels(inputs):
    weights = tf.cast(inputs["target_segments"] > 0, tf.float32)
    return inputs, inputs["target"], weights


def _shared_out_by_examples(batches):
    # Several workers share out the examples: there are no files to share out.
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    return batches.with_options(options)


def _ranges(starts, lengths):
    """`lengths[0]` integers from `starts[0]`, then `lengths[1]` from `starts[1]`..."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1]) + np.repeat(starts - (ends - lengths), lengths)
