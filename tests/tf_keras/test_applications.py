"""A network of `tf_keras.applications` of many kinds of layers."""

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras, tf

CLASSES, EXAMPLES = 10, 2
CLOSE = 1e-4  # Relative to the largest output.


def make(size):
    """Of depthwise kernels, squeeze and excitation, and TensorFlow's functions."""
    return keras.applications.MobileNetV3Small(
        weights=None,
        input_shape=(size, size, 3),
        classes=CLASSES,
        classifier_activation=None,
    )


def assert_close(outputs, expected):
    assert np.isfinite(expected).all()
    assert np.abs(outputs - expected).max() <= CLOSE * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.feature("networks of keras.applications")
def test_a_network_is_sparsified_trained_stripped_saved_and_exported(rng, tmp_path):
    size = 32
    sparse = sos.sparsify(make(size), sos.MagnitudePruning(0.75, 0, 1, 1))
    inputs = rng.uniform(0, 255, (EXAMPLES, size, size, 3)).astype("float32")
    # The gradients of untrained networks, on two small images, are huge.
    optimizer = keras.optimizers.SGD(1e-3, clipnorm=1.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    sparse.compile(optimizer, loss, run_eagerly=True)
    before = [weight.numpy() for weight in sparse.trainable_weights]
    labels = rng.integers(0, CLASSES, EXAMPLES)
    sparse.fit(inputs, labels, callbacks=sos.callbacks(sparse), verbose=0)
    after = sparse.trainable_weights
    moved = [np.any(w != v) for w, v in zip(before, after, strict=True)]
    assert sum(moved) > 0.5 * len(moved), "most weights did not train"
    expected = np.asarray(sparse(inputs, training=False))
    stripped, report = sos.strip(sparse), sos.sparsity_report(sparse)
    assert report.sparsity > 0.5
    assert_close(stripped(inputs, training=False), expected)
    assert sos.sparsity_report(stripped).sparsity == report.sparsity
    sparse.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_close(loaded(inputs, training=False), expected)
    assert sos.sparsity_report(loaded).sparsity == report.sparsity
    sos.export(stripped, tmp_path / "export")
    served = tf.saved_model.load(str(tmp_path / "export"))
    assert_close(served.serve(inputs), expected)
