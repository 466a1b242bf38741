"""Datasets that TensorFlow Datasets has prepared in a folder; nothing is downloaded."""

import os
from collections.abc import Iterable

import tensorflow as tf
import tensorflow_datasets as tfds

DESCRIPTIONS = ("dataset_info.json", "features.json")


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
      ValueError: if `data_dir` is empty or None, or the files that describe the dataset
        are damaged or missing, naming them.
      FileNotFoundError: if the dataset, a split or a file of one is not there; the
        message says how to prepare it.
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
    builder = _builder(folders[max(folders)], name)
    absent = sorted(set(splits) - set(builder.info.splits))
    if absent:
        raise missing(f"a {name} without its splits {absent}")
    for split in splits:
        for file in builder.info.splits[split].file_instructions:
            if not tf.io.gfile.exists(file.filename):
                raise missing(f"{file.filename} of the prepared dataset is missing")
    return builder


def read_in_order(
    builder: tfds.core.DatasetBuilder, split: str, decoders=None
) -> tf.data.Dataset:
    """The examples of a split, each once, in the order of TensorFlow Datasets.

    Args:
      builder: of `prepared_builder`.
      split: its name, with a slice if need be.
      decoders: as of `as_dataset`.
    """
    return builder.as_dataset(
        split=split,
        decoders=decoders,
        read_config=tfds.ReadConfig(try_autocache=False),
        shuffle_files=False,
    )


def _builder(folder, name):
    """The builder of a folder, if the files that describe the dataset can be read."""
    advice = f"Move {folder} away, and prepare {name} again."
    try:
        builder = tfds.builder_from_directory(folder)
        _ = builder.info.features, builder.info.splits
    except Exception as error:  # TensorFlow Datasets raises anything.
        raise ValueError(
            f"{' or '.join(DESCRIPTIONS)} in {folder} is damaged or missing "
            f"({str(error).partition(chr(10))[0][:300]}). {advice}"
        ) from error
    if builder.info.file_format != tfds.core.FileFormat.TFRECORD:
        raise ValueError(
            f"{folder} must hold TFRecord files. Received: "
            f"{builder.info.file_format.value}. {advice}"
        )
    return builder
