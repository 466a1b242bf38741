"""Data sets as TensorFlow Datasets prepares them, of a few examples."""

import tensorflow_datasets as tfds


def store(folder, name, version, features, files=1, config=None, **splits):
    """Writes the examples of each split as TFDS does, in so many files a split."""
    tfds.disable_progress_bar()
    tfds.dataset_builders.store_as_tfds_dataset(
        name,
        version,
        features,
        {split: enumerate(examples) for split, examples in splits.items()},
        config=config,
        data_dir=str(folder),
        download_config=tfds.download.DownloadConfig(
            try_download_gcs=False, num_shards=files
        ),
    )
