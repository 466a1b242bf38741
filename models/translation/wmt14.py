"""WMT 2014 English-German as prepared by TensorFlow Datasets."""

import tensorflow as tf

from state_of_sparsity.models.training.data.prepared import (
    prepared_builder,
    read_in_order,
)
from state_of_sparsity.models.training.data.records import first_damaged
from state_of_sparsity.models.translation.dataset import SPLITS, TranslationDataset

SOURCE, TARGET = "en", "de"


class Wmt14(TranslationDataset):
    """`wmt14_translate/de-en`: English to German, 4.5 million pairs for training.

    Europarl v7, Common Crawl and News Commentary v9; the published runs had version 13
    of the last. The validation split is newstest2013, the test split newstest2014.

    Args:
      data_dir: the `--data_dir` of TensorFlow Datasets, in which
        `wmt14_translate/de-en` has been prepared. Nothing is ever downloaded.

    Raises:
      ValueError: if `data_dir` is empty or None, or what it says of the dataset is
        damaged.
      FileNotFoundError: if there is no prepared `wmt14_translate/de-en` in it.
    """

    name = "wmt14_translate/de-en"

    def __init__(self, data_dir):
        self._builder = prepared_builder(self.name, data_dir, SPLITS)
        self.training_examples = self._builder.info.splits["train"].num_examples

    def sentences(self, split):
        self.check_split(split)
        examples = read_in_order(self._builder, split)
        return examples.map(_pair, tf.data.AUTOTUNE, deterministic=True)

    def damage(self):
        def load(record):
            return _pair(self._builder.info.features.deserialize_example(record))

        return first_damaged(self._builder, SPLITS, load)


def _pair(example):
    return _checked(example[SOURCE]), _checked(example[TARGET])


def _checked(text):
    """The text, if it is UTF-8; otherwise it fails."""
    return tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="strict")
