"""Numbers from hashes, beside what NumPy computes in float64."""

import keras
import numpy as np
import pytest
from keras import ops

from state_of_sparsity import numerics
from tests.shared.reference import random_fractions

COUNT = 2**16
KEYS = 12345, -678


def keys():
    return [ops.convert_to_tensor(key, "int32") for key in KEYS]


def fractions():
    """In float64; the reference counts its keys from 0."""
    return random_fractions((COUNT,), *(key % 2**32 for key in KEYS))


def test_uniform_numbers_are_the_hashes_in_0_to_1():
    drawn = numerics.random_uniform((COUNT,), *keys())
    np.testing.assert_allclose(drawn, fractions() / 2 + 0.5, rtol=1e-6)


def test_normal_numbers_are_pairs_of_uniform_ones_after_box_and_muller():
    drawn = ops.convert_to_numpy(numerics.random_normal((COUNT,), *keys()))
    first, second = fractions().reshape(2, -1)
    # As it is rounded to float32, which is coarse next to 1.
    first = np.float64(np.float32(first / 2 + 0.5))
    radius = np.sqrt(-2 * np.log(first))
    pairs = radius * np.cos(np.pi * second), radius * np.sin(np.pi * second)
    np.testing.assert_allclose(drawn, np.concatenate(pairs), rtol=0, atol=4e-6)


def test_an_odd_number_of_them_lacks_the_last_of_one_more():
    odd = ops.convert_to_numpy(numerics.random_normal((3, 5), *keys()))
    even = ops.convert_to_numpy(numerics.random_normal((16,), *keys()))
    np.testing.assert_allclose(odd.ravel(), even[:15], rtol=1e-6)


def test_normal_numbers_have_the_moments_of_a_normal_distribution():
    """Within six standard errors, which a normal number passes once in 5e8 times."""
    drawn = np.float64(numerics.random_normal((COUNT,), *keys()))
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        error = np.sqrt(variance / COUNT)
        assert abs(np.mean(drawn**power) - moment) < 6 * error, power
    # Neighbours, and the two of a pair, have nothing in common.
    for distance in (1, 2, 3, COUNT // 2):
        products = drawn[distance:] * drawn[:-distance]
        assert abs(np.mean(products)) < 6 / np.sqrt(len(products))
        squares = drawn[distance:] ** 2 * drawn[:-distance] ** 2 - 1
        assert abs(np.mean(squares)) < 6 * np.sqrt(8 / len(squares))


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="the others compile whole steps"
)
def test_xla_computes_the_same_numbers():
    import tensorflow as tf

    drawn = numerics.random_normal((COUNT,), *keys())
    compiled = tf.function(numerics.random_normal, jit_compile=True)
    np.testing.assert_allclose(compiled((COUNT,), *keys()), drawn, rtol=0, atol=4e-6)
