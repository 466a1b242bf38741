"""MNIST as prepared by TensorFlow Datasets: the classic of handwritten digits."""

import tensorflow as tf

from state_of_sparsity.models.images.dataset import ImageDataset, endless_batches
from state_of_sparsity.models.training.gaps import readable
from state_of_sparsity.models.training.prepared import prepared_builder
from state_of_sparsity.models.training.records import DamagedDataError, Records

# Of the training images, the last ones are for choosing hyperparameters.
VALIDATION_SHARE = 1 / 12
READ_AT_A_TIME = 256


class MNIST(ImageDataset):
    """`mnist` of TensorFlow Datasets: 55,000 training, 5,000 validation, 10,000 test.

    Images are 28x28x1 with values in [0, 1], and not augmented, as where the figures of
    the 300-100 network and of LeNet-5 come from (LeCun et al. 1998).

    Args:
      data_dir: the `--data_dir` of TensorFlow Datasets, in which `mnist` has been
        prepared. Nothing is ever downloaded.
      strict: whether a damaged record, or an image that cannot be decoded, is an
        error. By default it is left out and named in the log; in training, one of the
        first images takes its place.

    Raises:
      ValueError: if `data_dir` is empty or None, or what it says of the dataset is
        damaged.
      FileNotFoundError: if there is no prepared `mnist` in it.
    """

    name = "mnist"
    classes = 10
    image_shape = (28, 28, 1)

    def __init__(self, data_dir, strict=False):
        builder = prepared_builder(self.name, data_dir, ("train", "test"))
        self._features = builder.info.features
        given = builder.info.splits["train"].num_examples
        self.training_examples = given - max(1, round(given * VALIDATION_SHARE))
        splits = {
            "train": f"train[:{self.training_examples}]",
            "validation": f"train[{self.training_examples}:]",
            "test": "test",
        }
        self._records = {
            name: Records(builder, split, strict) for name, split in splits.items()
        }

    def training(self, batch_size, seed, start_step=0):
        # Read at once, 50 MB: where a damaged record is an error, `repeat` and `batch`
        # would ask what fails for the next one, without end and without a word.
        parts = list(self._batches("train", READ_AT_A_TIME))
        if not parts:
            raise DamagedDataError(
                f"All {self.training_examples} training examples of {self.name} are "
                "damaged. Prepare the dataset again."
            )
        whole = tf.nest.map_structure(lambda *values: tf.concat(values, 0), *parts)
        # Where some are damaged, the first ones come twice, so that all epochs have the
        # same length.
        examples = tf.data.Dataset.from_tensor_slices(whole)
        examples = examples.repeat().take(self.training_examples)
        batches = endless_batches(
            examples, self.training_examples, batch_size, seed, start_step
        )
        return batches.map(_scaled)

    def evaluation(self, split, batch_size):
        return self._batches(split, batch_size).map(_scaled).prefetch(2)

    def _batches(self, split, batch_size):
        def load(_, record):
            return self._features.deserialize_example(record)

        records = self._records[split]
        records.check(lambda record: load(0, record))
        return readable(records, load, batch_size)


def _scaled(examples):
    images = tf.cast(examples["image"], tf.float32) / 255.0
    return images, tf.cast(examples["label"], tf.int32)
