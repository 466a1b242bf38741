"""WMT 2014 English-German as prepared by TensorFlow Datasets."""

import os

import tensorflow as tf
import tensorflow_datasets as tfds

from state_of_sparsity.models.translation_dataset import SPLITS, TranslationDataset

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
        builder = _prepared(data_dir)
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


def _prepared(data_dir):
    """The builder of the newest version prepared in `data_dir`."""
    if not data_dir:
        raise ValueError(
            "WMT 2014 is read from a folder of TensorFlow Datasets: pass it with "
            f"--data_dir. Received: data_dir={data_dir!r}"
        )
    root = os.path.expanduser(data_dir)
    pattern = os.path.join(root, Wmt14.name, "*", "features.json")
    folders = {
        tfds.core.Version(version): folder
        for folder in map(os.path.dirname, tf.io.gfile.glob(pattern))
        if tfds.core.Version.is_valid(version := os.path.basename(folder))
    }
    if not folders:
        raise FileNotFoundError(_how_to_prepare(root, f"no prepared {Wmt14.name}"))
    # Unlike `tfds.builder`, this reads the folder and never looks elsewhere for it.
    builder = tfds.builder_from_directory(folders[max(folders)])
    missing = sorted(set(SPLITS) - set(builder.info.splits))
    if missing:
        problem = f"a {Wmt14.name} without its splits {missing}"
        raise FileNotFoundError(_how_to_prepare(root, problem))
    return builder


def _how_to_prepare(root, problem):
    if not tf.io.gfile.isdir(root):
        problem = "no such folder, hence " + problem
    return (
        f"{root}: {problem}. Run `tfds build {Wmt14.name} --data_dir={root}`, which "
        "downloads and prepares it."
    )
