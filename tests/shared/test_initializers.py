"""Augmented initial values: their distributions, and which weights get them.

Bounds on statistics are six standard errors: passed by chance once in 5e8.
"""

import math

import numpy as np
import pytest

from tests.flavour import keras, sos, to_numpy

pytestmark = pytest.mark.feature("augmented initial values (sos.augment)")
SIGMAS = 6


def check_moments(values, variance, kurtosis):
    """Mean 0 and a variance, with the standard errors of both."""
    count = values.size
    assert abs(values.mean()) < SIGMAS * math.sqrt(variance / count)
    error = variance * math.sqrt((kurtosis - 1) / count)
    assert abs(values.var() - variance) < SIGMAS * error


def test_masked_weights_of_a_model_get_fresh_values(rng):
    def network():
        keras.utils.set_random_seed(1)
        ids = keras.Input((4,), dtype="int32")
        x = keras.layers.Embedding(50, 40, name="embedding")(ids)
        x = keras.layers.Conv1D(120, 3, name="conv")(x)
        x = keras.layers.Dense(170, name="dense")(x)
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
    check_moments(values["conv"], 2 / (3 * 120 * kept["conv"]), 3.0)
    check_moments(values["dense"], 2 / ((120 + 170) * kept["dense"]), 1.8)
    # Not truncated, and uniform.
    assert np.abs(values["conv"]).max() > 3 * values["conv"].std()
    limit = math.sqrt(6 / ((120 + 170) * kept["dense"]))
    assert np.abs(values["dense"]).max() <= limit
    np.testing.assert_array_equal(to_numpy(model.get_layer("logits").kernel), before)
    again = network()
    sos.augment(again, masks, seed=5)
    for name, value in values.items():
        np.testing.assert_array_equal(
            to_numpy(again.get_layer(name).weights[0]), value, err_msg=name
        )
