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


@pytest.mark.parametrize("spell", [english, german])
@pytest.mark.parametrize("number", [-1, 1_000_000])
def test_a_number_out_of_range_is_an_error(spell, number):
    with pytest.raises(ValueError, match=f"Received: {number}"):
        spell(number)


def test_an_unknown_split_is_an_error(dataset):
    with pytest.raises(ValueError, match=r"`split` must be one of.*Received: 'dev'"):
        dataset.sentences("dev")
