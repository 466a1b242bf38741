"""Batches of tokens: what is packed, in which order, and with how much padding."""

import collections
import gc
import itertools

import numpy as np
import pytest
import tensorflow as tf

from state_of_sparsity.models.translation.dataset import (
    PackedPairs,
    TranslationDataset,
    evaluation_batches,
    evaluation_sentences,
    in_order_of_evaluation,
    training_text,
)
from state_of_sparsity.models.translation.numbers_dataset import Numbers
from state_of_sparsity.models.translation.vocabulary import Vocabulary

LENGTH = 24
WORDS = ("the", "fox", "sees", "a", "cost", "and", "fuchs", "nutzen", "für", "süße")
TOO_LONG = 3


def padding_share(batches) -> float:
    """The share of source and target tokens in `(inputs, ...)` that are padding.

    Args:
      batches: a finite number of batches.
    """
    padding = tokens = 0
    for inputs, *_ in batches:
        for side in ("source", "target"):
            segments = np.asarray(inputs[f"{side}_segments"])
            padding += np.count_nonzero(segments == 0)
            tokens += segments.size
    return padding / tokens


class Sample(TranslationDataset):
    """Sentences of random words; the number in each makes it the only one."""

    name = "sample"

    def __init__(self, examples=150):
        rng = np.random.default_rng(4)
        self.pairs = [
            tuple(f"{i} {' '.join(rng.choice(WORDS, n))}".strip() for n in lengths)
            for i, lengths in enumerate(rng.integers(0, 9, (examples, 2)))
        ]
        long = " ".join(WORDS * 4)
        self.pairs[7:7] = [(long, "kurz"), ("short", long), (long, long)]
        self.training_examples = len(self.pairs)

    def sentences(self, split):
        self.check_split(split)
        pairs = self.pairs if split == "train" else self.pairs[20:57]
        sides = tuple(map(list, zip(*pairs, strict=True)))
        return tf.data.Dataset.from_tensor_slices(sides)


@pytest.fixture(scope="module")
def dataset():
    return Sample()


@pytest.fixture(scope="module")
def vocabulary(dataset):
    return Vocabulary.learn(training_text(dataset), 330)


@pytest.fixture(scope="module")
def packed(dataset, vocabulary):
    return PackedPairs(dataset, vocabulary, LENGTH)


@pytest.fixture(scope="module")
def numbers_vocabulary():
    return Vocabulary.learn(training_text(Numbers(), 2000), 384)


def sentences_of(row_ids, row_segments):
    """The sentences of a row by their number."""
    return {
        number: row_ids[row_segments == number].tolist()
        for number in range(1, row_segments.max() + 1)
    }


def pairs_of(batches):
    """Pairs of ids, row by row."""
    for inputs, *_ in batches:
        arrays = {name: value.numpy() for name, value in inputs.items()}
        for row in range(len(arrays["source"])):
            source, target = (
                sentences_of(arrays[side][row], arrays[f"{side}_segments"][row])
                for side in ("source", "target")
            )
            assert list(source) == list(target)
            yield [(tuple(source[n]), tuple(target[n])) for n in source]


def encoded(vocabulary, pairs):
    sides = (vocabulary.encode(list(side)) for side in zip(*pairs, strict=True))
    ids = zip(*(side.to_list() for side in sides), strict=True)
    return [tuple(map(tuple, pair)) for pair in ids]


def fitting(dataset, vocabulary):
    pairs = encoded(vocabulary, dataset.pairs)
    return [pair for pair in pairs if max(map(len, pair)) <= LENGTH]


def test_training_batches_have_the_documented_shapes_and_types(packed):
    inputs, labels, weights = packed.training(5, seed=0).element_spec
    ids = tf.TensorSpec((5, LENGTH), tf.int32)
    names = {
        f"{side}{kind}"
        for side in ("source", "target")
        for kind in ("", "_segments", "_positions")
    }
    assert inputs == dict.fromkeys(names, ids)
    assert labels == ids
    assert weights == tf.TensorSpec((5, LENGTH), tf.float32)


def test_segments_and_positions_count_the_sentences_and_their_tokens(packed):
    for inputs, _, _ in packed.training(5, seed=0).take(10):
        for side in ("source", "target"):
            ids, segments, positions = (
                inputs[f"{side}{kind}"].numpy()
                for kind in ("", "_segments", "_positions")
            )
            columns = np.arange(LENGTH)
            begins = np.diff(segments, axis=1, prepend=0) > 0
            begun = np.maximum.accumulate(np.where(begins, columns, 0), axis=1)
            np.testing.assert_array_equal(positions, (columns - begun) * (ids != 0))
            numbers = np.cumsum(begins, axis=1)
            np.testing.assert_array_equal(segments, numbers * (ids != 0))
            np.testing.assert_array_equal(ids == 0, segments == 0)


def test_labels_are_the_target_and_only_its_tokens_have_weight(packed):
    for inputs, labels, weights in packed.training(5, seed=0).take(5):
        np.testing.assert_array_equal(labels, inputs["target"])
        np.testing.assert_array_equal(weights, inputs["target"].numpy() != 0)


@pytest.mark.parametrize("seed", [0, 1])
def test_each_pair_is_whole_in_one_row_of_each_epoch(dataset, vocabulary, packed, seed):
    expected = collections.Counter(fitting(dataset, vocabulary))
    assert max(expected.values()) == 1
    rows = pairs_of(packed.training(1, seed).take(3 * packed.rows_per_epoch))
    for _ in range(3):
        epoch = itertools.islice(rows, packed.rows_per_epoch)
        assert collections.Counter(itertools.chain(*epoch)) == expected


def test_pairs_that_are_too_long_are_left_out_and_counted(dataset, vocabulary, packed):
    assert packed.left_out == TOO_LONG
    assert packed.examples == len(fitting(dataset, vocabulary))
    assert packed.examples + packed.left_out == dataset.training_examples


def test_a_pair_of_exactly_the_length_is_kept(dataset, vocabulary):
    lengths = sorted(
        max(map(len, pair)) for pair in encoded(vocabulary, dataset.pairs)
    )[:-TOO_LONG]
    assert PackedPairs(dataset, vocabulary, lengths[-1]).left_out == TOO_LONG
    assert PackedPairs(dataset, vocabulary, lengths[-1] - 1).left_out > TOO_LONG


def test_epochs_differ_in_order_and_in_what_goes_together(packed):
    rows = pairs_of(packed.training(1, seed=0).take(2 * packed.rows_per_epoch))
    first, second = (
        [frozenset(row) for row in itertools.islice(rows, packed.rows_per_epoch)]
        for _ in range(2)
    )
    assert first != second
    assert len(set(first) & set(second)) < len(first) / 2


def test_a_resumed_run_sees_what_it_would_have_seen(dataset, vocabulary, packed):
    # Batches run across the borders of epochs.
    assert packed.rows_per_epoch % 16
    steps = 3 * packed.rows_per_epoch // 16
    whole = list(packed.training(16, seed=11).take(steps))
    for start in (1, steps // 2, steps - 2):
        resumed = PackedPairs(dataset, vocabulary, LENGTH).training(16, 11, start)
        for expected, received in zip(
            whole[start:], resumed.take(steps - start), strict=True
        ):
            tf.nest.map_structure(np.testing.assert_array_equal, expected, received)


def test_a_batch_may_be_larger_than_an_epoch(dataset, vocabulary, packed):
    rows = 2 * packed.rows_per_epoch
    pairs = itertools.chain(*pairs_of(packed.training(rows, seed=0).take(1)))
    expected = collections.Counter(2 * fitting(dataset, vocabulary))
    assert collections.Counter(pairs) == expected


def test_training_has_no_end_and_outlives_its_maker(dataset, vocabulary):
    batches = PackedPairs(dataset, vocabulary, LENGTH).training(4, seed=0)
    gc.collect()
    assert batches.cardinality() == tf.data.INFINITE_CARDINALITY
    assert len(list(batches.take(3))) == 3


def test_a_batch_is_shared_out_to_replicas(packed, mirrored):
    shared = mirrored.experimental_distribute_dataset(packed.training(6, seed=0))
    parts = mirrored.experimental_local_results(next(iter(shared))[0]["source"])
    expected = next(iter(packed.training(6, seed=0)))[0]["source"]
    np.testing.assert_array_equal(np.concatenate(parts), expected)


def test_padding_is_counted_over_source_and_target(packed):
    epoch = packed.training(1, seed=0).take(packed.rows_per_epoch)
    assert packed.padding_share == pytest.approx(padding_share(epoch))


def test_less_than_a_tenth_is_padding_on_numbers(numbers_vocabulary):
    packed = PackedPairs(Numbers(), numbers_vocabulary, 64)
    assert packed.left_out == 0
    assert packed.padding_share < 0.1
    assert padding_share(packed.training(32, seed=0).take(50)) < 0.1


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (1, r"sample: no pair.*`packed_length`.*Received: 1$"),
        (0, r"`packed_length` must be at least 1.*Received: 0"),
    ],
)
def test_a_length_that_no_pair_has_is_an_error(dataset, vocabulary, length, message):
    with pytest.raises(ValueError, match=message):
        PackedPairs(dataset, vocabulary, length)


@pytest.mark.parametrize(
    "arguments", [{"rows": 0}, {"seed": -1}, {"start_step": -1}], ids=str
)
def test_arguments_out_of_range_are_an_error(packed, arguments):
    (received,) = (f"{name}={value}" for name, value in arguments.items())
    with pytest.raises(ValueError, match=f"Received: .*{received}"):
        packed.training(**{"rows": 4, "seed": 0, **arguments})


def test_evaluation_shows_each_pair_once_in_the_order_of_its_sentences(
    dataset, vocabulary
):
    batches = evaluation_batches(dataset, vocabulary, "test", 8)
    rows = [pair for row in pairs_of(batches) for pair in row]
    sources, references = evaluation_sentences(dataset, vocabulary, "test")
    pairs = list(zip(sources, references, strict=True))
    assert sorted(pairs) == sorted(dataset.pairs[20:57])
    assert rows == encoded(vocabulary, pairs)
    assert [len(labels) for _, labels, _ in batches] == [8, 8, 8, 8, 5]


def test_lines_on_sentences_are_put_into_the_order_of_evaluation(dataset, vocabulary):
    _, references = evaluation_sentences(dataset, vocabulary, "test")
    lines = [target for _, target in dataset.pairs[20:57]]
    assert lines != references
    assert in_order_of_evaluation(lines, dataset, vocabulary, "test") == references
    with pytest.raises(ValueError, match=r"each of the 37 sentences.* 36 lines"):
        in_order_of_evaluation(lines[1:], dataset, vocabulary, "test")


def test_evaluation_has_one_sentence_per_row_and_no_column_of_padding(
    dataset, vocabulary
):
    for inputs, labels, weights in evaluation_batches(dataset, vocabulary, "test", 8):
        np.testing.assert_array_equal(labels, inputs["target"])
        np.testing.assert_array_equal(weights, inputs["target"].numpy() != 0)
        for side in ("source", "target"):
            is_token = inputs[side].numpy() != 0
            columns = np.arange(is_token.shape[1])
            np.testing.assert_array_equal(inputs[f"{side}_segments"], is_token)
            np.testing.assert_array_equal(
                inputs[f"{side}_positions"], columns * is_token
            )
            assert is_token.any(axis=0).all()


def test_sorting_by_length_leaves_less_padding_than_the_order_of_the_dataset(
    numbers_vocabulary,
):
    numbers = Numbers()
    batches = evaluation_batches(numbers, numbers_vocabulary, "validation", 50)
    tokens = padded = 0
    for pair in numbers.sentences("validation").batch(50):
        for side in pair:
            lengths = numbers_vocabulary.encode(side).row_lengths().numpy()
            tokens += lengths.sum()
            padded += 50 * lengths.max()
    assert padding_share(batches) < 0.7 * (1 - tokens / padded)


def test_text_to_learn_from_takes_the_languages_by_turns(dataset):
    text = [sentence.decode() for sentence in training_text(dataset)]
    assert text == list(itertools.chain(*dataset.pairs))
    assert [s.decode() for s in training_text(dataset, 3)] == text[:6]
