"""Fixtures of the tests that run with several Kerases."""

import pytest

from tests.flavour import IS_KERAS3, keras


@pytest.fixture(autouse=True)
def fresh_keras():
    """Names count from one, random numbers and policies are the same, in each test."""
    if IS_KERAS3:
        # Without a collection of garbage, which takes its time.
        keras.utils.clear_session(free_memory=False)
    else:
        keras.backend.reset_uids()
    _set_policy("float32")
    keras.utils.set_random_seed(1)
    yield
    _set_policy("float32")


def _set_policy(name):
    if IS_KERAS3:
        keras.config.set_dtype_policy(name)
    else:
        keras.mixed_precision.set_global_policy(name)
