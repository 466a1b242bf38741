"""Masks in TensorFlow's graphs."""

import numpy as np

from state_of_sparsity import masks
from state_of_sparsity.engines.tf_keras.backend import tf


def test_masks_and_random_scores_are_the_same_under_xla(rng):
    scores = tf.constant(rng.integers(0, 9, (40, 30)).astype("float32"))
    for count in (0, 600, 924):
        compiled = tf.function(masks.lowest, jit_compile=True)
        np.testing.assert_array_equal(
            compiled(scores, count), masks.lowest(scores, count)
        )
    compiled = tf.function(
        lambda: masks.random_scores((40, 30), 1, 2), jit_compile=True
    )
    np.testing.assert_array_equal(compiled(), masks.random_scores((40, 30), 1, 2))
