"""WMT 2014 English-German as prepared by TensorFlow Datasets."""

import os

import tensorflow as tf
import tensorflow_datasets as tfds

from state_of_sparsity.models.training.prepared import prepared_builder
from state_of_sparsity.models.translation.dataset import SPLITS, TranslationDataset

SOURCE, TARGET = "en", "de"


class Wmt14(TranslationDataset):
    """`wmt14_translate/de-en`: English to German, 4.5 million pairs for training.

    Its validation split is newstest2013, its test split newstest2014.

    Args:
      data_dir: the `--data_dir` of TensorFlow Datasets, in which
        `wmt14_translate/de-en` has been prepared. Nothing is ever downloaded.

    Raises:
      ValueError: if `data_dir` is empty or None.
      FileNotFoundError: if there is no prepared `wmt14_translate/de-en` in it.
    """

    name = "wmt14_translate/de-en"

    def __init__(self, data_dir):
        builder = prepared_builder(self.name, data_dir, SPLITS)
        self._data_dir = os.path.expanduser(data_dir)
        self._version = builder.info.version
        self.training_examples = builder.info.splits["train"].num_examples

    def sentences(self, split):
        self.check_split(split)
        pairs = tfds.load(
            f"{self.name}:{self._version}",
            split=split,
            data_dir=self._data_dir,
            download=False,
            shuffle_files=False,
            read_config=tfds.ReadConfig(try_autocache=False),
        )
        return pairs.map(lambda pair: (pair[SOURCE], pair[TARGET]), tf.data.AUTOTUNE)
