"""Numbers spelled out in English and German: a translation task without a download.

"three hundred and twelve" is "dreihundertzwölf": short sentences, long compounds, and
units that change places with tens.
"""

import functools

import num2words
import numpy as np
import tensorflow as tf

from state_of_sparsity.models.translation.dataset import TranslationDataset

LIMIT = 1_000_000
SIZES = {"test": 1_000, "validation": 1_000, "train": 50_000}
SPLIT_SEED = 0


@functools.cache
def splits():
    """`{split: integers}`: the numbers below a million that are in each split."""
    # Unlike the streams of NumPy's newer generators, this one never changes.
    shuffled = np.random.RandomState(SPLIT_SEED).permutation(LIMIT)
    bounds = np.cumsum(list(SIZES.values()))
    return dict(zip(SIZES, np.split(shuffled, bounds)[:-1], strict=True))


def english(number: int) -> str:
    """As num2words has it: "three hundred and twelve thousand, one hundred and one".

    Args:
      number: at least 0 and below a million.

    Raises:
      ValueError: for a number outside of this range.
    """
    thousands, rest = _thousands_and_rest(number)
    if not thousands:
        return _below_thousand("en")[rest]
    spelled = f"{_below_thousand('en')[thousands]} thousand"
    if not rest:
        return spelled
    return spelled + (", " if rest >= 100 else " and ") + _below_thousand("en")[rest]


def german(number: int) -> str:
    """As num2words has it: "dreihundertzwölftausendeinhunderteins".

    Args:
      number: at least 0 and below a million.

    Raises:
      ValueError: for a number outside of this range.
    """
    thousands, rest = _thousands_and_rest(number)
    if not thousands:
        return _below_thousand("de")[rest]
    return _german_thousands()[thousands] + (_below_thousand("de")[rest] * (rest > 0))


class Numbers(TranslationDataset):
    """Numbers from 0 to 999,999; no number is in two splits.

    50,000 numbers for training, 1,000 for validation and 1,000 for testing, drawn
    evenly once and for all.
    """

    name = "numbers"
    # German spells a number below a million as one word, and BLEU looks at four.
    bleu_tokenizer = "char"
    vocabulary_pairs = 5_000
    training_examples = SIZES["train"]

    def sentences(self, split):
        self.check_split(split)
        return tf.data.Dataset.from_tensor_slices(_spelled(split))


@functools.cache
def _spelled(split):
    numbers = splits()[split].tolist()
    return tuple([spell(number) for number in numbers] for spell in (english, german))


# num2words takes 0.2 ms per number: 10 seconds for all of them, one for the parts.
@functools.cache
def _below_thousand(language):
    return [num2words.num2words(number, lang=language) for number in range(1000)]


@functools.cache
def _german_thousands():
    return [num2words.num2words(1000 * number, lang="de") for number in range(1000)]


def _thousands_and_rest(number):
    if not 0 <= number < LIMIT:
        raise ValueError(
            f"`number` must be at least 0 and below {LIMIT}. Received: {number}"
        )
    return divmod(number, 1000)
