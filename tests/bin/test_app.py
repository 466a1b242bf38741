"""What the binaries leave on the terminal."""

import logging
import time

import pytest

from state_of_sparsity.backend import keras, tf
from state_of_sparsity.bin import app


@pytest.fixture
def logged():
    """What TensorFlow logs."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = tf.get_logger()
    before = logger.level, list(logger.filters)
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)
    logger.setLevel(before[0])
    logger.filters[:] = before[1]


class Slow(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.01)


def train_with_slow_callbacks():
    callbacks = keras.callbacks.CallbackList([Slow()], model=keras.Sequential())
    for batch in range(8):
        callbacks.on_train_batch_begin(batch)
        callbacks.on_train_batch_end(batch)


def test_advice_about_our_callbacks_is_not_for_users(logged):
    tf.get_logger().filters.clear()
    train_with_slow_callbacks()
    assert "slow compared to the batch time" in "".join(logged)
    logged.clear()
    app.log_what_concerns_users()
    train_with_slow_callbacks()
    tf.get_logger().warning("The disk is nearly full.")
    assert logged == ["The disk is nearly full."]
