"""ImageNet's pipeline, on real JPEGs in the format of TensorFlow Datasets."""

import io

import numpy as np
import pytest
import sklearn.datasets
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from state_of_sparsity.models.images import imagenet
from state_of_sparsity.models.images.imagenet import ImageNet
from state_of_sparsity.models.images.mnist import MNIST
from state_of_sparsity.models.translation.wmt14 import Wmt14
from tests.models import prepared

TRAINING_EXAMPLES = 24
# (height, width): landscape, portrait, square, odd, smaller and larger than 224.
EVALUATION_SIZES = [
    (375, 500),
    (400, 301),
    (333, 333),
    (255, 257),
    (97, 211),
    (427, 640),
]


def photo(index, height, width):
    """A piece of one of scikit-learn's two photographs, as a uint8 array."""
    top, left = index % (428 - height), 3 * index % (641 - width)
    image = sklearn.datasets.load_sample_images().images[index % 2]
    return image[top : top + height, left : left + width]


def jpeg(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90, **options)
    return file.getvalue()


def evaluation_jpegs():
    """Without chroma subsampling, for which decoding a window alone is exact."""
    color = [
        jpeg(photo(index, *size), subsampling=0)
        for index, size in enumerate(EVALUATION_SIZES)
    ]
    gray = Image.fromarray(photo(0, 300, 400)).convert("L")
    return [*color, jpeg(np.asarray(gray))]


FEATURES = tfds.features.FeaturesDict(
    {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(num_classes=1000),
        "file_name": tfds.features.Text(),
    }
)


def store(folder, **splits):
    """Writes JPEGs, four files a split; the label is the position."""
    examples = {
        split: [
            {"image": io.BytesIO(encoded), "label": i, "file_name": f"n{i}.JPEG"}
            for i, encoded in enumerate(jpegs)
        ]
        for split, jpegs in splits.items()
    }
    prepared.store(folder, "imagenet2012", "5.1.0", FEATURES, files=4, **examples)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    sizes = [(375, 500), (375, 281), (333, 499)]
    train = [jpeg(photo(i, *sizes[i % 3])) for i in range(TRAINING_EXAMPLES)]
    store(folder, train=train, validation=evaluation_jpegs())
    return folder


@pytest.fixture(scope="module")
def dataset(data_dir):
    return ImageNet(str(data_dir))


@pytest.fixture(scope="module")
def small(data_dir):
    """Images of 32 pixels: for claims on order, which the size does not change."""
    return ImageNet(str(data_dir), image_size=32)


def labels(batches):
    return [int(label) for _, batch in batches for label in batch]


def test_classes_and_examples_are_those_of_the_dataset(dataset):
    assert dataset.name == "imagenet2012"
    assert dataset.classes == 1000
    assert dataset.training_examples == TRAINING_EXAMPLES
    assert dataset.image_shape == (224, 224, 3)


def test_training_batches_have_the_documented_shapes_and_types(dataset):
    images, targets = dataset.training(8, seed=0).element_spec
    assert images == tf.TensorSpec((8, 224, 224, 3), tf.float32)
    assert targets == tf.TensorSpec((8,), tf.int32)
    images, _ = next(iter(dataset.training(8, seed=0)))
    darkest = -np.divide(imagenet.MEAN, imagenet.STD)
    brightest = np.divide(1 - np.array(imagenet.MEAN), imagenet.STD)
    # Bicubic interpolation overshoots at edges, by a part of their height.
    margin = 0.25 * (brightest - darkest)
    assert np.all(images >= darkest - margin)
    assert np.all(images <= brightest + margin)
    assert np.std(images) > 0.5


def interpolation(length, size):
    """The weights of TensorFlow 1's bicubic resize, as float64 `(size, length)`.

    Pixels lie at 0, 1, ... of a line, those of the result every `length / size` from 0.
    """
    a = -0.75
    places = np.arange(size) * length / size
    pixels = np.floor(places)[:, None] + [-1, 0, 1, 2]
    x = np.abs(places[:, None] - pixels)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    matrix = np.zeros((size, length))
    at_the_edge = np.clip(pixels, 0, length - 1).astype(int)
    np.add.at(
        matrix, (np.arange(size)[:, None], at_the_edge), np.where(x < 1, near, far)
    )
    return matrix


# Ratios are multiples of 1/1024, at which TensorFlow tabulates the kernel: so exact.
@pytest.mark.parametrize(
    ("height", "width", "size"), [(5, 6, 16), (10, 12, 8), (6, 10, 8)]
)
def test_an_impulse_is_resized_as_in_tensorflow_1(height, width, size):
    # One at each pixel, in a channel of its own.
    impulses = np.eye(height * width).reshape(height, width, -1)
    rows, columns = interpolation(height, size), interpolation(width, size)
    np.testing.assert_allclose(
        imagenet.resize(impulses, size),
        np.kron(rows, columns).reshape(size, size, -1),
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("height", "width", "window"),
    [
        # (256 - 224) / 2, and (257 - 224 + 1) / 2: half a pixel is rounded up.
        (256, 257, (16, 17, 224, 224)),
        (257, 256, (17, 16, 224, 224)),
        # 328 is 375 · 224/256, rounded down.
        (375, 500, (24, 86, 328, 328)),
        (401, 300, (70, 19, 262, 262)),
    ],
)
def test_the_central_window_lies_below_the_middle_by_half_a_pixel(
    height, width, window
):
    found = imagenet.central_window(tf.constant([height, width, 3]))
    np.testing.assert_array_equal(found, window)


def test_evaluation_images_are_resized_normalized_central_crops(dataset):
    jpegs = evaluation_jpegs()
    seen = 0
    for images, targets in dataset.evaluation("validation", 4):
        assert images.dtype == tf.float32
        assert targets.dtype == tf.int32
        for image, label in zip(images, targets.numpy(), strict=True):
            pixels = tf.io.decode_jpeg(jpegs[label], channels=3).numpy()
            height, width, _ = pixels.shape
            side = int(0.875 * min(height, width))
            top, left = (height - side + 1) // 2, (width - side + 1) // 2
            crop = pixels[top : top + side, left : left + side]
            matrix = interpolation(side, 224)
            across = matrix @ (crop / 255)
            unit = np.tensordot(matrix, across, 1)
            expected = (unit - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
            # The kernel is tabulated at 1024 places between two pixels.
            np.testing.assert_allclose(image, expected, atol=3e-3)
            seen += 1
    assert seen == len(jpegs)


def draw_windows(height, width, count):
    shape = tf.constant([height, width, 3])
    draws = tf.data.Dataset.range(count).map(
        lambda index: imagenet.training_window(shape, tf.stack([7, index]))
    )
    return next(iter(draws.batch(count))).numpy()


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (250, 800)])
def test_training_windows_keep_to_the_bounds_of_area_and_aspect(height, width):
    top, left, rows, columns = draw_windows(height, width, 2000).T
    assert np.all((top >= 0) & (top + rows <= height))
    assert np.all((left >= 0) & (left + columns <= width))
    # Sides are whole pixels: each is within one of a window inside the bounds.
    area = height * width
    assert np.all((rows + 1) * (columns + 1) >= 0.1 * area)
    assert np.all(columns + 1 >= 0.75 * (rows - 1))
    assert np.all(columns - 1 <= 4 / 3 * (rows + 1))
    # And they use the bounds up: smallest windows, extreme shapes, large windows.
    shares, aspects = rows * columns / area, columns / rows
    largest = min(height, width) ** 2 * 4 / 3 / area
    assert 0.0995 < shares.min() < 0.115
    assert shares.max() > 0.85 * min(1, largest)
    assert aspects.min() < 0.78
    assert aspects.max() > 1.3


def test_an_image_too_long_for_any_window_is_cropped_centrally():
    # 35 is 40 · 224/256; (40 - 35) / 2 and (1200 - 35) / 2 are rounded up.
    top, left, side = 3, 583, 35
    for window in draw_windows(40, 1200, 20):
        np.testing.assert_array_equal(window, [top, left, side, side])


def test_half_of_the_training_images_are_mirrored():
    encoded = jpeg(photo(1, 375, 500))
    shape = tf.constant([375, 500, 3])

    def is_mirrored(index):
        seed = tf.stack([tf.constant(0, tf.int64), index])
        window = imagenet.training_window(shape, tf.random.split(seed, 2)[0])
        plain = imagenet.normalize(imagenet.decode_window(encoded, window, 32))
        image = imagenet.training_image(encoded, seed, 32)
        same, mirrored = (
            tf.reduce_max(tf.abs(image - other)) < 1e-5
            for other in (plain, tf.reverse(plain, [1]))
        )
        tf.debugging.assert_equal(tf.math.logical_xor(same, mirrored), True)
        return mirrored

    draws = tf.data.Dataset.range(400).map(is_mirrored).batch(400)
    share = np.mean(next(iter(draws)))
    # Four standard deviations of the mean of 400 fair coins.
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(400)


def test_an_epoch_holds_each_training_example_once(small):
    for epoch in range(3):
        batches = small.training(8, seed=3, start_step=3 * epoch).take(3)
        assert sorted(labels(batches)) == list(range(TRAINING_EXAMPLES))


def test_epochs_differ_in_order_and_in_crops(small):
    first, second = (
        dict(zip(batch[1].numpy().tolist(), batch[0].numpy(), strict=True))
        for batch in small.training(TRAINING_EXAMPLES, seed=0).take(2)
    )
    assert list(first) != list(second)
    assert all(not np.allclose(first[label], second[label]) for label in first)


def test_a_resumed_run_sees_what_it_would_have_seen(small):
    # Five does not divide 24: the batches run across the borders of epochs.
    whole = list(small.training(5, seed=11).take(14))
    for start in (1, 5, 10):
        resumed = small.training(5, seed=11, start_step=start).take(14 - start)
        for expected, received in zip(whole[start:], resumed, strict=True):
            np.testing.assert_array_equal(expected[1], received[1])
            np.testing.assert_array_equal(expected[0], received[0])


def test_files_are_shuffled_too(data_dir):
    unbuffered = ImageNet(str(data_dir), image_size=32, shuffle_buffer=1)
    orders = {tuple(labels(unbuffered.training(24, seed).take(1))) for seed in range(4)}
    assert len(orders) > 1


def test_evaluation_shows_each_example_once_in_a_fixed_order(small):
    validation = small.evaluation("validation", 4)
    order = labels(validation)
    assert sorted(order) == list(range(len(evaluation_jpegs())))
    assert order == labels(validation) == labels(small.evaluation("test", 3))


def test_an_unknown_split_is_an_error(small):
    with pytest.raises(ValueError, match="Received: 'train'"):
        small.evaluation("train", 4)


@pytest.mark.parametrize("dataset", [ImageNet, MNIST, Wmt14])
@pytest.mark.parametrize("value", [None, ""])
def test_no_data_dir_is_an_error_which_names_the_flag(dataset, value):
    with pytest.raises(ValueError, match=f"--data_dir.*Received: data_dir={value!r}"):
        dataset(value)


@pytest.mark.parametrize(
    ("dataset", "name"),
    [(ImageNet, "imagenet2012"), (MNIST, "mnist"), (Wmt14, "wmt14_translate/de-en")],
)
@pytest.mark.parametrize("exists", [True, False])
def test_an_unprepared_data_dir_is_an_error_which_says_how_to_prepare_it(
    dataset, name, tmp_path, exists
):
    folder = tmp_path if exists else tmp_path / "absent"
    with pytest.raises(FileNotFoundError) as error:
        dataset(str(folder))
    message = str(error.value)
    assert message.startswith(f"{folder}: ")
    assert f"tfds build {name} --data_dir={folder}" in message
    assert (str(folder / "downloads" / "manual") in message) == (dataset is ImageNet)
    assert ("no such folder" in message) is not exists


def test_a_missing_split_is_an_error_which_names_it(tmp_path):
    store(tmp_path, train=evaluation_jpegs()[:4])
    with pytest.raises(FileNotFoundError, match=r"without its splits.*validation"):
        ImageNet(str(tmp_path))
