"""Datasets that TensorFlow Datasets has prepared in a folder; nothing is downloaded."""

import os
from collections.abc import Iterable

import tensorflow as tf
import tensorflow_datasets as tfds


def prepared_builder(
    name: str, data_dir: str, splits: Iterable[str], first: str = ""
) -> tfds.core.DatasetBuilder:
    """The builder of the newest version of a dataset in a folder.

    Args:
      name: of the dataset, with its configuration.
      data_dir: the `--data_dir` of TensorFlow Datasets.
      splits: that must be there.
      first: what has to be done before the dataset can be prepared, as a sentence with
        a place for `{data_dir}`.

    Raises:
      ValueError: if `data_dir` is empty or None.
      FileNotFoundError: if the dataset or a split is not there; the message says how
        to prepare it.
    """
    if not data_dir:
        raise ValueError(
            f"{name} is read from a folder of TensorFlow Datasets: pass it with "
            f"--data_dir. Received: data_dir={data_dir!r}"
        )
    root = os.path.expanduser(data_dir)

    def missing(what):
        if not tf.io.gfile.isdir(root):
            what = "no such folder, hence " + what
        steps = f"{first.format(data_dir=root)} Then run" if first else "Run"
        return FileNotFoundError(
            f"{root}: {what}. {steps} `tfds build {name} --data_dir={root}`."
        )

    pattern = os.path.join(root, name, "*", "features.json")
    folders = {
        tfds.core.Version(version): folder
        for folder in map(os.path.dirname, tf.io.gfile.glob(pattern))
        if tfds.core.Version.is_valid(version := os.path.basename(folder))
    }
    if not folders:
        raise missing(f"no prepared {name}")
    # Unlike `tfds.builder`, this reads the folder and never looks elsewhere for it.
    builder = tfds.builder_from_directory(folders[max(folders)])
    absent = sorted(set(splits) - set(builder.info.splits))
    if absent:
        raise missing(f"a {name} without its splits {absent}")
    return builder
