"""Fixtures of the tests with tf_keras. TensorFlow gets two CPU devices."""

import logging

import pytest

import tests.flavour  # noqa: F401  Which sets the devices.
from state_of_sparsity.engines.tf_keras.backend import keras, tf


@pytest.fixture(autouse=True)
def fresh_tf_keras():
    """Names count from one, random numbers and policies are the same, in each test."""
    keras.backend.clear_session()
    keras.mixed_precision.set_global_policy("float32")
    keras.utils.set_random_seed(1)
    yield
    keras.mixed_precision.set_global_policy("float32")


@pytest.fixture
def mirrored():
    """A strategy with two replicas."""
    # Collective operations of several strategies in one process collide.
    return tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice()
    )


@pytest.fixture
def logged():
    """What TensorFlow logs, while nothing that was installed before filters it."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = tf.get_logger()
    level, filters = logger.level, list(logger.filters)
    logger.filters.clear()
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)
    logger.setLevel(level)
    logger.filters[:] = filters
