"""Images per second and core: JPEG decode fused with the crop, or before it.

A core's second is a second of processor time, summed over threads.

Both pipelines read the same JPEGs from memory, draw the same windows with the code of
`models/images/imagenet.py`, resize, flip and normalize; they differ in how the window
is decoded. Rounds alternate between them in one process and the medians are reported,
so that a disturbance of the machine meets both. The JPEGs are pieces of scikit-learn's
two photographs, enlarged where they are too small.
"""

import io
import os
import statistics
import time

import figures
import numpy as np
import sklearn.datasets
import tensorflow as tf
from absl import app, flags
from PIL import Image

from state_of_sparsity.models.images import imagenet

_SIZES = flags.DEFINE_list(
    "sizes", ["500x375", "640x427", "1000x750"], "Width x height of the JPEGs."
)
_IMAGES = flags.DEFINE_integer("images", 32, "Images per round and pipeline.")
_ROUNDS = flags.DEFINE_integer("rounds", 15, "Rounds, after one to warm up.")
_CORES = flags.DEFINE_integer("cores", 1, "Threads that process images.")
_QUALITY = flags.DEFINE_integer("quality", 90, "JPEG quality.")

VARIETY = 16


def jpegs(width, height):
    """`VARIETY` different JPEGs of real photographs, of the given size in pixels."""
    photos = sklearn.datasets.load_sample_images().images
    rng = np.random.default_rng(0)
    encoded = []
    for index in range(VARIETY):
        photo = Image.fromarray(photos[index % 2])
        scale = max(1, width / photo.width, height / photo.height)
        photo = photo.resize((round(photo.width * scale), round(photo.height * scale)))
        left = int(rng.integers(photo.width - width + 1))
        top = int(rng.integers(photo.height - height + 1))
        file = io.BytesIO()
        piece = photo.crop((left, top, left + width, top + height))
        piece.save(file, "JPEG", quality=_QUALITY.value)
        encoded.append(file.getvalue())
    return encoded


def decode_then_crop(encoded, window, image_size):
    """What `imagenet.decode_window` computes, through the entire image."""
    top, left, height, width = tf.unstack(window)
    image = tf.io.decode_jpeg(encoded, channels=3)
    crop = tf.image.crop_to_bounding_box(image, top, left, height, width)
    return imagenet.resize(crop, image_size)


def training_image(encoded, index, decode):
    """`imagenet.training_image` with the given decoder of windows."""
    seeds = tf.random.split(tf.stack([tf.constant(0, tf.int64), index]), 2)
    shape = tf.image.extract_jpeg_shape(encoded)
    image = decode(encoded, imagenet.training_window(shape, seeds[0]), 224)
    flipped = tf.image.stateless_random_flip_left_right(image, seeds[1])
    return imagenet.normalize(flipped)


def evaluation_image(encoded, index, decode):
    """`imagenet.evaluation_image` with the given decoder of windows."""
    del index
    window = imagenet.central_window(tf.image.extract_jpeg_shape(encoded))
    return imagenet.normalize(decode(encoded, window, 224))


def pipeline(encoded, load, decode):
    """A dataset of `--images` images on `--cores` threads."""
    examples = tf.data.Dataset.from_tensor_slices(encoded).repeat().enumerate()
    images = examples.take(_IMAGES.value).map(
        lambda index, image: load(image, index, decode),
        num_parallel_calls=_CORES.value,
        deterministic=True,
    )
    options = tf.data.Options()
    options.threading.private_threadpool_size = _CORES.value
    options.threading.max_intra_op_parallelism = 1
    return images.with_options(options)


def images_per_second_and_core(images):
    """Per second of processor time, which other processes do not take away."""
    begin = time.process_time()
    for _ in images:
        pass
    return _IMAGES.value / (time.process_time() - begin)


def measure(encoded, load):
    """Median images per second and core, and the median ratio of the rounds.

    Returns:
      `(fused, plain, ratio)`; the ratio is above 1 where fused is faster.
    """
    decoders = (imagenet.decode_window, decode_then_crop)
    fused, plain = (pipeline(encoded, load, decode) for decode in decoders)
    rounds = []
    for index in range(_ROUNDS.value + 1):
        # The order alternates too.
        if index % 2:
            pair = images_per_second_and_core(fused), images_per_second_and_core(plain)
        else:
            pair = images_per_second_and_core(plain), images_per_second_and_core(fused)
            pair = pair[::-1]
        rounds.append(pair)
    measured = rounds[1:]
    ratio = statistics.median(first / second for first, second in measured)
    return *map(statistics.median, zip(*measured, strict=True)), ratio


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments. Received: {argv[1:]}")
    print(
        f"Images per second and core, median of {_ROUNDS.value} rounds of "
        f"{_IMAGES.value} images; {_CORES.value} of {os.cpu_count()} cores."
    )
    found = []
    for size in _SIZES.value:
        width, height = map(int, size.split("x"))
        encoded = jpegs(width, height)
        for name, load in (("training", training_image), ("central", evaluation_image)):
            fused, plain, ratio = measure(encoded, load)
            case = f"{size}, {name} crop"
            found += [
                figures.Figure(f"{case}, decoded alone", "images/s", fused),
                figures.Figure(f"{case}, of the whole image", "images/s", plain),
                figures.Figure(case, "alone over whole", ratio),
            ]
    figures.publish(found)


if __name__ == "__main__":
    app.run(main)
