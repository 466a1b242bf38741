"""MNIST from a folder of TensorFlow Datasets, which the test prepares."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from state_of_sparsity.models.images.mnist import MNIST
from tests.models import prepared

TRAINING, TEST = 60, 10


def image(split, index):
    pixels = np.zeros((28, 28, 1), "uint8")
    pixels[index // 28, index % 28] = 255 if split == "train" else 51
    return pixels


FEATURES = tfds.features.FeaturesDict(
    {
        "image": tfds.features.Image(shape=(28, 28, 1)),
        "label": tfds.features.ClassLabel(num_classes=10),
    }
)


def store(path):
    examples = {
        split: [{"image": image(split, i), "label": i % 10} for i in range(count)]
        for split, count in (("train", TRAINING), ("test", TEST))
    }
    prepared.store(path, "mnist", "3.0.1", FEATURES, **examples)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tfds")
    store(path)
    return path


def seen(batches):
    """The position of each image's pixel, which is its index."""
    images = np.concatenate([images for images, _ in batches])
    return sorted(int(np.argmax(image)) for image in images)


def test_the_last_of_the_training_images_are_for_validation(folder):
    dataset = MNIST(folder)
    # One in twelve: 5,000 of the 60,000.
    assert dataset.training_examples == 55
    training = seen(dataset.training(11, seed=0).take(5))
    validation = seen(dataset.evaluation("validation", 4))
    assert len(set(training)) == 55
    assert len(validation) == 5
    assert sorted(training + validation) == list(range(60))


def test_images_are_between_0_and_1(folder):
    (batch,) = MNIST(folder).evaluation("test", TEST)
    images, labels = batch
    assert images.shape == (TEST, 28, 28, 1)
    assert sorted(np.unique(images)) == pytest.approx([0, 0.2])
    assert sorted(labels.numpy()) == list(range(10))
