"""MNIST-1D: what is generated, how it is split, and in which order it comes."""

import random

import numpy as np
import pytest

from state_of_sparsity.models.images.mnist1d import MNIST1D, splits


@pytest.fixture(scope="module")
def dataset():
    return MNIST1D()


def test_splits_have_their_published_sizes_and_all_classes():
    sizes = {name: len(labels) for name, (_, labels) in splits().items()}
    assert sizes == {"train": 4000, "validation": 1000, "test": 1000}
    for signals, labels in splits().values():
        assert signals.shape[1:] == (40, 1)
        assert (signals.dtype, labels.dtype) == (np.float32, np.int32)
        assert set(labels) == set(range(10))


def test_signals_are_standardized_and_no_split_shares_one():
    seen = set()
    for signals, _ in splits().values():
        assert abs(signals.mean()) < 0.1
        assert signals.std() == pytest.approx(1, abs=0.1)
        seen.update(signal.tobytes() for signal in signals)
    assert len(seen) == 6000


def test_generating_leaves_the_seeds_of_python_and_numpy_alone():
    splits.cache_clear()
    random.seed(3)
    np.random.seed(4)
    expected = random.random(), np.random.random()
    random.seed(3)
    np.random.seed(4)
    splits()
    assert (random.random(), np.random.random()) == expected


def test_evaluation_has_each_example_once_in_order(dataset):
    labels = np.concatenate([y for _, y in dataset.evaluation("test", 300)])
    np.testing.assert_array_equal(labels, splits()["test"][1])
