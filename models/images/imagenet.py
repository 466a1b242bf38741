"""ImageNet (ILSVRC 2012) as prepared by TensorFlow Datasets, decoded crop by crop.

A JPEG is decoded only where its crop lies, which is most of what the input pipeline
costs. Crops and interpolation are those of the ResNet-50 runs of Gale, Elsen & Hooker
2019 (arXiv 1902.09574), so that their checkpoints score here what was published; random
crops follow Szegedy et al. 2015 (arXiv 1409.4842).
"""

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from state_of_sparsity.models.images.dataset import ImageDataset, endless
from state_of_sparsity.models.training.data.prepared import (
    prepared_builder,
    read_in_order,
)
from state_of_sparsity.models.training.data.records import (
    first_damaged,
    shuffled_records,
)

ARCHIVES = (
    "Put the official archives ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar "
    "into {data_dir}/downloads/manual."
)
AREA_RANGE = (0.08, 1.0)
# Of the object in the image, for which the image itself is taken: so a crop has at
# least 10 % of it, whatever the range of areas.
OBJECT_COVERED = 0.1
ASPECT_RATIO_RANGE = (3 / 4, 4 / 3)
CROP_ATTEMPTS = 10
# The central crop's share of the shorter side, as a fraction.
CENTRAL_CROP = (224, 256)
# Of the three channels, for values in [0, 1].
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
# Encoded images are about 110 KB: the buffer takes 1.8 GB.
SHUFFLE_BUFFER = 16_384
PREFETCHED_BATCHES = 2
SPLITS = ("train", "validation")
# A window is decoded alone.
ENCODED = {"image": tfds.decode.SkipDecoding()}


class ImageNet(ImageDataset):
    """`imagenet2012` of TensorFlow Datasets: 1,281,167 training, 50,000 test images.

    The labels of ImageNet's own test images are not public, so that results are
    reported on its validation images: both "validation" and "test" stand for them.

    Args:
      data_dir: the `--data_dir` of TensorFlow Datasets, in which `imagenet2012` has
        been prepared. Nothing is ever downloaded.
      image_size: height and width of the images, in pixels.
      shuffle_buffer: how many encoded training images the shuffle buffer holds; the
        files they come from are shuffled as well.

    Raises:
      ValueError: if `data_dir` is empty or None, or what it says of the dataset is
        damaged.
      FileNotFoundError: if there is no prepared `imagenet2012` in it.
    """

    name = "imagenet2012"

    def __init__(self, data_dir, image_size=224, shuffle_buffer=SHUFFLE_BUFFER):
        self._builder = prepared_builder(self.name, data_dir, SPLITS, ARCHIVES)
        self._shuffle_buffer = shuffle_buffer
        self.classes = self._builder.info.features["label"].num_classes
        self.image_shape = (image_size, image_size, 3)
        self.training_examples = self._builder.info.splits["train"].num_examples

    def training(self, batch_size, seed, start_step=0):
        """Endless shuffled batches of random crops, see `ImageDataset.training`."""
        examples = endless(
            lambda seed_of_epoch: shuffled_records(
                self._builder, "train", seed_of_epoch
            ),
            self.training_examples,
            seed,
            start_step * batch_size,
            self._shuffle_buffer,
        )

        def load(position, record):
            example = self._builder.info.features.deserialize_example(
                record, decoders=ENCODED
            )
            pair = tf.stack([tf.constant(seed, tf.int64), position])
            image = training_image(example["image"], pair, self.image_shape[0])
            return image, tf.cast(example["label"], tf.int32)

        loaded = examples.map(load, tf.data.AUTOTUNE, deterministic=True)
        return _shared_out(loaded.batch(batch_size, drop_remainder=True))

    def evaluation(self, split, batch_size):
        """Central crops of the validation images, see `ImageDataset.evaluation`.

        Raises:
          ValueError: if `split` is neither "validation" nor "test".
        """
        if split not in ("validation", "test"):
            raise ValueError(
                f'`split` must be "validation" or "test". Received: {split!r}'
            )

        def load(example):
            image = evaluation_image(example["image"], self.image_shape[0])
            return image, tf.cast(example["label"], tf.int32)

        examples = read_in_order(self._builder, "validation", ENCODED)
        loaded = examples.map(load, tf.data.AUTOTUNE, deterministic=True)
        return _shared_out(loaded.batch(batch_size))

    def damage(self):
        load = self._builder.info.features.deserialize_example
        return first_damaged(self._builder, SPLITS, load)


def _shared_out(batches):
    # Several workers share out the examples: sharing out the files instead would make
    # the batch of a step depend on the number of workers.
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    return batches.prefetch(PREFETCHED_BATCHES).with_options(options)


def training_image(encoded, seed, image_size=224):
    """A random crop of a JPEG, resized, flipped half of the time, and normalized.

    Args:
      encoded: scalar string, the JPEG.
      seed: two integers; the same seed gives the same image.
      image_size: height and width of the result, in pixels.

    Returns:
      float32 `(image_size, image_size, 3)`.
    """
    seeds = tf.random.split(seed, 2)
    window = training_window(tf.image.extract_jpeg_shape(encoded), seeds[0])
    image = decode_window(encoded, window, image_size)
    return normalize(tf.image.stateless_random_flip_left_right(image, seeds[1]))


def evaluation_image(encoded, image_size=224):
    """The central crop of a JPEG, resized and normalized.

    Args:
      encoded: scalar string, the JPEG.
      image_size: height and width of the result, in pixels.

    Returns:
      float32 `(image_size, image_size, 3)`.
    """
    window = central_window(tf.image.extract_jpeg_shape(encoded))
    return normalize(decode_window(encoded, window, image_size))


def training_window(shape, seed):
    """A random window: 10 to 100 % of the area, aspect ratio 3/4 to 4/3.

    Where ten attempts find none, as in an image twenty times as wide as high, and
    where the window would be the whole image, it is the central one instead.

    Args:
      shape: int32 `(height, width, channels)` of the image.
      seed: two integers.

    Returns:
      int32 `(top, left, height, width)`, in pixels.
    """
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        bounding_boxes=tf.zeros((1, 0, 4)),
        seed=seed,
        min_object_covered=OBJECT_COVERED,
        aspect_ratio_range=ASPECT_RATIO_RANGE,
        area_range=AREA_RANGE,
        max_attempts=CROP_ATTEMPTS,
        use_image_if_no_bounding_boxes=True,
    )
    sampled = tf.concat([begin[:2], size[:2]], axis=0)
    # The sampler reports a failure only by returning the whole image.
    is_whole_image = tf.reduce_all(size[:2] == shape[:2])
    return tf.where(is_whole_image, central_window(shape), sampled)


def central_window(shape):
    """The central square window with 224/256 of the shorter side.

    The side is rounded down, `top` and `left` up, as in the published evaluation.

    Args:
      shape: int32 `(height, width, channels)` of the image.

    Returns:
      int32 `(top, left, height, width)`, in pixels.
    """
    numerator, denominator = CENTRAL_CROP
    side = tf.minimum(shape[0], shape[1]) * numerator // denominator
    top, left = (shape[0] - side + 1) // 2, (shape[1] - side + 1) // 2
    return tf.stack([top, left, side, side])


def decode_window(encoded, window, image_size):
    """The window of a JPEG, decoded alone and resized, see `resize`.

    Args:
      encoded: scalar string, the JPEG; gray images get three equal channels.
      window: int32 `(top, left, height, width)`, in pixels.
      image_size: height and width of the result, in pixels.

    Returns:
      float32 `(image_size, image_size, 3)` on the scale 0 to 255, which the
      interpolation may overshoot.
    """
    crop = tf.image.decode_and_crop_jpeg(encoded, window, channels=3)
    return resize(crop, image_size)


def resize(image, image_size):
    """Bicubic interpolation as TensorFlow 1 had it, without antialiasing.

    Row `i` of the result is the image at row `i · height / image_size`, by cubic
    convolution with a = -0.75 over four rows, those beyond an edge being that at the
    edge; columns alike. `tf.image.resize` takes rows half a pixel off, and a = -0.5.

    Args:
      image: `(height, width, channels)`.
      image_size: height and width of the result, in pixels.

    Returns:
      float32 `(image_size, image_size, channels)`.
    """
    return tf.raw_ops.ResizeBicubic(
        images=image[tf.newaxis],
        size=(image_size, image_size),
        align_corners=False,
        half_pixel_centers=False,
    )[0]


def normalize(image):
    """`(image / 255 - mean) / std` by channel.

    Args:
      image: float32 `(height, width, 3)` on the scale 0 to 255.

    Returns:
      float32 of the same shape.
    """
    height, width, channels = image.shape
    # A row as one vector: broadcasting over three channels alone takes five times as
    # long on a CPU, and would be a fifth of the pipeline's time.
    scale = np.tile(1 / (255 * np.array(STD)), width).astype("float32")
    offset = np.tile(np.divide(MEAN, STD), width).astype("float32")
    rows = tf.reshape(image, (height, width * channels))
    return tf.reshape(rows * scale - offset, (height, width, channels))
