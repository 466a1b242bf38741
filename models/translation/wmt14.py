"""WMT 2014 English-German as prepared by TensorFlow Datasets."""

import tensorflow as tf

from state_of_sparsity.models.training.gaps import readable
from state_of_sparsity.models.training.prepared import prepared_builder
from state_of_sparsity.models.training.records import Records
from state_of_sparsity.models.translation.dataset import (
    CHUNK,
    SPLITS,
    TranslationDataset,
)

SOURCE, TARGET = "en", "de"


class Wmt14(TranslationDataset):
    """`wmt14_translate/de-en`: English to German, 4.5 million pairs for training.

    Its validation split is newstest2013, its test split newstest2014.

    Args:
      data_dir: the `--data_dir` of TensorFlow Datasets, in which
        `wmt14_translate/de-en` has been prepared. Nothing is ever downloaded.
      strict: whether a damaged record, or a sentence that is not UTF-8, is an error. By
        default the pair is left out, and named in the log.

    Raises:
      ValueError: if `data_dir` is empty or None, or what it says of the dataset is
        damaged.
      FileNotFoundError: if there is no prepared `wmt14_translate/de-en` in it.
    """

    name = "wmt14_translate/de-en"

    def __init__(self, data_dir, strict=False):
        builder = prepared_builder(self.name, data_dir, SPLITS)
        self._features = builder.info.features
        self._records = {split: Records(builder, split, strict) for split in SPLITS}
        self.training_examples = self._records["train"].count

    def sentences(self, split):
        self.check_split(split)

        def load(_, record):
            pair = self._features.deserialize_example(record)
            return _checked(pair[SOURCE]), _checked(pair[TARGET])

        records = self._records[split]
        records.check(lambda record: load(0, record))
        return readable(records, load, CHUNK).unbatch()


def _checked(text):
    """The text, if it is UTF-8; otherwise it fails."""
    return tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="strict")
