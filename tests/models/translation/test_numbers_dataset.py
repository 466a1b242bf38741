"""Numbers in words: splits, and spellings as num2words has them."""

import numpy as np
import pytest
from num2words import num2words

from state_of_sparsity.models.translation import numbers_dataset
from state_of_sparsity.models.translation.numbers_dataset import (
    Numbers,
    english,
    german,
)

SIZES = {"train": 50_000, "validation": 1_000, "test": 1_000}


@pytest.fixture(scope="module")
def dataset():
    return Numbers()


def test_no_number_is_in_two_splits():
    splits = numbers_dataset.splits()
    numbers = np.concatenate(list(splits.values()))
    assert {name: len(split) for name, split in splits.items()} == SIZES
    assert len(np.unique(numbers)) == sum(SIZES.values())
    assert numbers.min() >= 0
    assert numbers.max() < 1_000_000


def test_no_sentence_is_in_two_splits(dataset):
    for side in (0, 1):
        sentences = [
            sentence
            for split in SIZES
            for pair in dataset.sentences(split).batch(1000).as_numpy_iterator()
            for sentence in pair[side]
        ]
        assert len(set(sentences)) == len(sentences) == sum(SIZES.values())


def test_splits_are_drawn_evenly():
    for numbers in numbers_dataset.splits().values():
        # The mean of n numbers spread evenly over a range of 1 deviates by 1/sqrt(12n).
        deviation = abs(numbers.mean() / 1e6 - 0.5) * np.sqrt(12 * len(numbers))
        assert deviation < 4


def test_splits_are_fixed():
    numbers = np.random.RandomState(0).permutation(1_000_000)
    numbers_dataset.splits.cache_clear()
    np.random.seed(5)
    splits = numbers_dataset.splits()
    np.testing.assert_array_equal(splits["test"], numbers[:1_000])
    np.testing.assert_array_equal(splits["validation"], numbers[1_000:2_000])
    np.testing.assert_array_equal(splits["train"], numbers[2_000:52_000])


def test_numbers_are_spelled_as_num2words_spells_them(rng):
    borders = [100, 101, 999, 1000, 1001, 1012, 1100, 99_999, 100_000, 101_001, 999_999]
    drawn = rng.integers(0, 1_000_000, 1500).tolist()
    for number in [*range(0, 1000, 7), *borders, *drawn]:
        assert english(number) == num2words(number, lang="en")
        assert german(number) == num2words(number, lang="de")


def test_english_is_the_source_and_german_the_target(dataset):
    for split in SIZES:
        expected = numbers_dataset.splits()[split][:50]
        pairs = dataset.sentences(split).take(50).as_numpy_iterator()
        for number, (source, target) in zip(expected, pairs, strict=True):
            assert source.decode() == num2words(int(number), lang="en")
            assert target.decode() == num2words(int(number), lang="de")
    assert english(312) == "three hundred and twelve"
    assert german(312) == "dreihundertzwölf"


def test_name_and_number_of_examples_are_those_of_the_training_split(dataset):
    assert dataset.name == "numbers"
    assert dataset.training_examples == len(dataset.sentences("train")) == 50_000


@pytest.mark.parametrize("spell", [english, german])
@pytest.mark.parametrize("number", [-1, 1_000_000])
def test_a_number_out_of_range_is_an_error(spell, number):
    with pytest.raises(ValueError, match=f"Received: {number}"):
        spell(number)


def test_an_unknown_split_is_an_error(dataset):
    with pytest.raises(ValueError, match=r"`split` must be one of.*Received: 'dev'"):
        dataset.sentences("dev")
