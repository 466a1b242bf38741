"""The handwritten digits: splits, normalization, and batches by step."""

import numpy as np
import pytest
import sklearn.datasets

from state_of_sparsity.models.images import digits
from state_of_sparsity.models.images.digits import Digits
from state_of_sparsity.models.images.mnist1d import MNIST1D

SIZES = {"train": 1257, "validation": 270, "test": 270}


@pytest.fixture(scope="module")
def dataset():
    return Digits()


def test_splits_are_all_the_digits_of_scikit_learn_each_in_one():
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    whole = sorted((*i / 16, label) for i, label in zip(images, labels, strict=True))
    split = [
        (*image.ravel(), label)
        for images, labels in digits.splits().values()
        for image, label in zip(images, labels, strict=True)
    ]
    assert sorted(split) == whole
    assert {name: len(labels) for name, (_, labels) in digits.splits().items()} == SIZES


def test_each_split_has_the_same_share_of_each_digit():
    everything = np.bincount(sklearn.datasets.load_digits().target) / 1797
    for _, labels in digits.splits().values():
        # Rounding may move an image or two of a digit to another split.
        counts = np.bincount(labels, minlength=10)
        assert np.all(np.abs(counts - len(labels) * everything) < 2)


def test_the_global_random_state_does_not_change_the_splits():
    expected = digits.splits()["test"][1]
    digits.splits.cache_clear()
    np.random.seed(123)
    np.testing.assert_array_equal(digits.splits()["test"][1], expected)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_evaluation_shows_each_image_once_normalized_and_in_order(dataset, split):
    batches = list(dataset.evaluation(split, 64))
    labels = np.concatenate([labels for _, labels in batches])
    images = np.concatenate([images for images, _ in batches])
    np.testing.assert_array_equal(labels, digits.splits()[split][1])
    assert images.shape == (270, 32, 32, 3)
    assert (images.dtype, labels.dtype) == (np.float32, np.int32)
    # Bilinear interpolation between the centers of the 8x8 pixels.
    places = (np.arange(32) + 0.5) / 4 - 0.5
    shares = [np.interp(places, range(8), row) for row in np.eye(8)]
    small = 2 * digits.splits()[split][0] - 1
    expected = np.einsum("nij,ir,jc->nrc", small, shares, shares)
    for channel in range(3):
        np.testing.assert_allclose(images[..., channel], expected, atol=1e-5)


@pytest.mark.slow
def test_training_images_are_shifted_by_at_most_two_pixels(dataset):
    images, labels = digits.splits()["train"]
    batch, targets = next(iter(dataset.training(24, seed=0)))
    enlarged = np.stack([digits._enlarge(image) for image in images])
    offsets = set()
    for image, label in zip(batch.numpy(), targets.numpy(), strict=True):
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), constant_values=-1)
        candidates = enlarged[labels == label][:, 2:-2, 2:-2]
        found = [
            (down, right)
            for down in range(5)
            for right in range(5)
            for window in [padded[down + 2 : down + 30, right + 2 : right + 30]]
            if (np.abs(candidates - window).max(axis=(1, 2, 3)) < 1e-6).any()
        ]
        assert found
        offsets |= set(found)
    assert len(offsets) > 8


@pytest.mark.slow
@pytest.mark.parametrize("make", [Digits, MNIST1D])
def test_a_resumed_run_sees_what_it_would_have_seen(make):
    dataset = make()
    # 900 divides neither 1257 nor 4000: some batches run across the border of an epoch.
    whole = list(dataset.training(900, seed=11).take(6))
    for start in (2, 5):
        resumed = dataset.training(900, seed=11, start_step=start).take(6 - start)
        for expected, received in zip(whole[start:], resumed, strict=True):
            np.testing.assert_array_equal(expected[1], received[1])
            np.testing.assert_array_equal(expected[0], received[0])
