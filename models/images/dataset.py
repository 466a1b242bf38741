"""The interface of image datasets, and endless shuffled batches."""

import abc

import tensorflow as tf


class ImageDataset(abc.ABC):
    """Images and labels, split for training, validation and test.

    Images are float32 `(batch, height, width, channels)`, normalized; labels are
    int32 `(batch,)`.
    """

    name: str
    classes: int
    image_shape: tuple[int, int, int]
    training_examples: int

    @abc.abstractmethod
    def training(
        self, batch_size: int, seed: int, start_step: int = 0
    ) -> tf.data.Dataset:
        """Endless shuffled and augmented batches, all of the same size.

        The batch of step `t` depends on `seed` and `t` only: a run that resumes at
        `start_step` sees what it would have seen without the interruption.
        """

    @abc.abstractmethod
    def evaluation(self, split: str, batch_size: int) -> tf.data.Dataset:
        """Each example of the split ("validation" or "test") once, in a fixed order."""

    def damage(self) -> str | None:
        """Which record on disk is the first that cannot be read; None if all can."""
        return None


def endless_batches(
    examples,
    example_count,
    batch_size,
    seed,
    start_step,
    load=lambda _, example: example,
):
    """Shuffled batches without end of examples that are in memory.

    Args:
      examples, example_count, seed: as of `endless`.
      batch_size: of all batches.
      start_step: how many batches to skip.
      load: `load(position, example)` makes of an example what is in the batch.
    """
    positioned = endless(examples, example_count, seed, start_step * batch_size)
    return positioned.map(load).batch(batch_size, drop_remainder=True).prefetch(2)


def endless(examples, example_count, seed, start_example, shuffle_buffer=None):
    """Shuffled epochs of a dataset without end, each example with its position.

    Args:
      examples: a finite dataset, cheap to read (encoded images, not decoded ones):
        resuming within an epoch reads what comes before in that epoch. Or a function
        that takes the seed of an epoch, an int64 scalar, and returns such a dataset,
        for files to be shuffled as well.
      example_count: how many examples the dataset has.
      seed: of the shuffling.
      start_example: how many examples to skip.
      shuffle_buffer: size of the shuffle buffer; by default all examples.

    Returns:
      A dataset of `(position, example)`; the position counts from the beginning of
      training and seeds what is random about an example.
    """
    first_epoch, within_epoch = divmod(start_example, example_count)

    # A seed per epoch, and not `repeat` of a shuffled dataset, so that a resumed run
    # goes to its epoch without reading those before.
    @tf.autograph.experimental.do_not_convert
    def epoch(index):
        pair = tf.stack([tf.constant(seed, tf.int64), index])
        epoch_seed = tf.random.stateless_uniform([], pair, None, None, tf.int64)
        read = examples(epoch_seed) if callable(examples) else examples
        return read.shuffle(
            shuffle_buffer or example_count, epoch_seed, reshuffle_each_iteration=False
        )

    epochs = tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(epoch)
    without_end = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    return epochs.skip(within_epoch).enumerate(start_example).apply(without_end)
