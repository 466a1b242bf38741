"""Augmented initial values: their distributions, and which weights get them.

Bounds on statistics are six standard errors: passed by chance once in 5e8.
"""

import math

import numpy as np
import pytest

from state_of_sparsity.initializers import (
    SparseEmbeddingNormal,
    SparseGlorotUniform,
    SparseHeNormal,
)
from tests.flavour import keras, sos, to_numpy

pytestmark = pytest.mark.feature("augmented initial values (sos.augment)")
SIGMAS = 6


def check_moments(values, variance, kurtosis):
    """Mean 0 and a variance, with the standard errors of both."""
    count = values.size
    assert abs(values.mean()) < SIGMAS * math.sqrt(variance / count)
    error = variance * math.sqrt((kurtosis - 1) / count)
    assert abs(values.var() - variance) < SIGMAS * error


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_glorot(sparsity):
    values = to_numpy(SparseGlorotUniform(sparsity, seed=1)((300, 200)))
    limit = math.sqrt(6 / ((300 + 200) * (1 - sparsity)))
    assert np.abs(values).max() <= limit
    check_moments(values, limit**2 / 3, kurtosis=1.8)


@pytest.mark.parametrize("sparsity", [0.0, 0.8])
def test_he(sparsity):
    values = to_numpy(SparseHeNormal(sparsity, seed=1)((3, 3, 40, 100)))
    check_moments(values, 2 / (3 * 3 * 100 * (1 - sparsity)), kurtosis=3.0)
    # Not truncated.
    assert np.abs(values).max() > 3 * values.std()


@pytest.mark.parametrize("sparsity", [0.0, 0.8])
def test_embedding(sparsity):
    values = to_numpy(SparseEmbeddingNormal(sparsity, seed=1)((500, 64)))
    check_moments(values, 1 / (64 * (1 - sparsity)), kurtosis=3.0)


def test_they_are_initializers_of_layers():
    layer = keras.layers.Dense(
        3, kernel_initializer=SparseGlorotUniform(0.5, seed=2), name="dense"
    )
    layer.build((None, 4))
    expected = SparseGlorotUniform(0.5, seed=2).drawn(np.random.default_rng(2), (4, 3))
    np.testing.assert_allclose(to_numpy(layer.kernel), expected, rtol=1e-6)
    config = SparseGlorotUniform(0.5, seed=2).get_config()
    assert SparseGlorotUniform.from_config(config) == SparseGlorotUniform(0.5, 2)
    keras.utils.set_random_seed(3)
    first = to_numpy(SparseHeNormal(0.5)((2, 2, 3)))
    keras.utils.set_random_seed(3)
    np.testing.assert_array_equal(to_numpy(SparseHeNormal(0.5)((2, 2, 3))), first)


@pytest.mark.parametrize("sparsity", [1.0, -0.1])
def test_bad_sparsities_are_refused(sparsity):
    with pytest.raises(ValueError, match="sparsity must be at least 0 and below 1"):
        SparseHeNormal(sparsity)


def test_masked_weights_of_a_model_get_fresh_values(rng):
    def network():
        keras.utils.set_random_seed(1)
        ids = keras.Input((4,), dtype="int32")
        x = keras.layers.Embedding(50, 40, name="embedding")(ids)
        x = keras.layers.Conv1D(60, 3, name="conv")(x)
        x = keras.layers.Dense(70, name="dense")(x)
        return keras.Model(ids, keras.layers.Dense(3, name="logits")(x))

    model = network()
    masks = {
        n: rng.uniform(size=m.shape) < 0.1 for n, m in sos.weight_masks(model).items()
    }
    masks["logits/kernel"][:] = True
    before = to_numpy(model.get_layer("logits").kernel)
    sos.augment(model, masks, seed=5)
    values = {
        "embedding": to_numpy(model.get_layer("embedding").embeddings),
        "conv": to_numpy(model.get_layer("conv").kernel),
        "dense": to_numpy(model.get_layer("dense").kernel),
    }
    kept = {n.partition("/")[0]: mask.mean() for n, mask in masks.items()}
    check_moments(values["embedding"], 1 / (40 * kept["embedding"]), 3.0)
    check_moments(values["conv"], 2 / (3 * 60 * kept["conv"]), 3.0)
    check_moments(values["dense"], 2 / ((60 + 70) * kept["dense"]), 1.8)
    np.testing.assert_array_equal(to_numpy(model.get_layer("logits").kernel), before)
    again = network()
    sos.augment(again, masks, seed=5)
    for name, value in values.items():
        np.testing.assert_array_equal(
            to_numpy(again.get_layer(name).weights[0]), value, err_msg=name
        )
