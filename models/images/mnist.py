"""MNIST as prepared by TensorFlow Datasets: the classic of handwritten digits."""

import tensorflow as tf

from state_of_sparsity.models.images.dataset import ImageDataset, endless_batches
from state_of_sparsity.models.training.data.prepared import (
    prepared_builder,
    read_in_order,
)
from state_of_sparsity.models.training.data.records import first_damaged

# Of the training images, the last ones are for choosing hyperparameters.
VALIDATION_SHARE = 1 / 12


class MNIST(ImageDataset):
    """`mnist` of TensorFlow Datasets: 55,000 training, 5,000 validation, 10,000 test.

    Images are 28x28x1 with values in [0, 1], and not augmented, as where the figures of
    the 300-100 network and of LeNet-5 come from (LeCun et al. 1998).

    Args:
      data_dir: the `--data_dir` of TensorFlow Datasets, in which `mnist` has been
        prepared. Nothing is ever downloaded.

    Raises:
      ValueError: if `data_dir` is empty or None, or what it says of the dataset is
        damaged.
      FileNotFoundError: if there is no prepared `mnist` in it.
    """

    name = "mnist"
    classes = 10
    image_shape = (28, 28, 1)

    def __init__(self, data_dir):
        self._builder = prepared_builder(self.name, data_dir, ("train", "test"))
        given = self._builder.info.splits["train"].num_examples
        self.training_examples = given - max(1, round(given * VALIDATION_SHARE))
        self._splits = {
            "train": f"train[:{self.training_examples}]",
            "validation": f"train[{self.training_examples}:]",
            "test": "test",
        }

    def training(self, batch_size, seed, start_step=0):
        # Read at once, 50 MB: what is damaged shows here.
        (whole,) = self._examples("train").batch(self.training_examples)
        examples = tf.data.Dataset.from_tensor_slices(whole)
        batches = endless_batches(
            examples, self.training_examples, batch_size, seed, start_step
        )
        return batches.map(_scaled)

    def evaluation(self, split, batch_size):
        return self._examples(split).batch(batch_size).map(_scaled).prefetch(2)

    def damage(self):
        load = self._builder.info.features.deserialize_example
        return first_damaged(self._builder, ("train", "test"), load)

    def _examples(self, split):
        return read_in_order(self._builder, self._splits[split])


def _scaled(examples):
    images = tf.cast(examples["image"], tf.float32) / 255.0
    return images, tf.cast(examples["label"], tf.int32)
