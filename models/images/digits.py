"""scikit-learn's handwritten digits: 1,797 real 8x8 images, embedded in the package.

They are resized to 32x32x3, which is what the image models take, and split once
and for all into 1,257 training, 270 validation and 270 test images with the same
share of each digit.
"""

import functools

import sklearn.datasets
import sklearn.model_selection
import tensorflow as tf

from state_of_sparsity.models.images.dataset import ImageDataset, endless_batches

SPLIT_SEED = 0
VALIDATION_EXAMPLES = TEST_EXAMPLES = 270
PIXEL_MAXIMUM = 16.0
IMAGE_SIZE = 32
# Augmentation shifts an image by at most this many of its 32 pixels each way.
SHIFT = 2


@functools.cache
def splits():
    """`{split: (images, labels)}`: float32 8x8 images in [0, 1], int32 labels."""
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    images = (images / PIXEL_MAXIMUM).astype("float32").reshape(-1, 8, 8)
    labels = labels.astype("int32")
    split = functools.partial(
        sklearn.model_selection.train_test_split, random_state=SPLIT_SEED
    )
    rest, test, rest_labels, test_labels = split(
        images, labels, test_size=TEST_EXAMPLES, stratify=labels
    )
    train, validation, train_labels, validation_labels = split(
        rest, rest_labels, test_size=VALIDATION_EXAMPLES, stratify=rest_labels
    )
    return {
        "train": (train, train_labels),
        "validation": (validation, validation_labels),
        "test": (test, test_labels),
    }


class Digits(ImageDataset):
    """Handwritten digits as 32x32x3 images with values between -1 and 1."""

    name = "digits"
    classes = 10
    image_shape = (IMAGE_SIZE, IMAGE_SIZE, 3)

    @property
    def training_examples(self):
        return len(splits()["train"][0])

    def training(self, batch_size, seed, start_step=0):
        examples = tf.data.Dataset.from_tensor_slices(splits()["train"])

        def augment(position, example):
            image, label = example
            return _shift(_enlarge(image), tf.stack([seed, position])), label

        return endless_batches(
            examples, self.training_examples, batch_size, seed, start_step, augment
        )

    def evaluation(self, split, batch_size):
        examples = tf.data.Dataset.from_tensor_slices(splits()[split])
        enlarged = examples.map(lambda image, label: (_enlarge(image), label))
        return enlarged.batch(batch_size).cache()


def _enlarge(image):
    large = tf.image.resize(image[..., None], (IMAGE_SIZE, IMAGE_SIZE))
    return tf.repeat(2.0 * large - 1.0, 3, axis=-1)


def _shift(image, seed):
    padded = tf.pad(image, [[SHIFT, SHIFT], [SHIFT, SHIFT], [0, 0]], constant_values=-1)
    return tf.image.stateless_random_crop(padded, image.shape, seed)
