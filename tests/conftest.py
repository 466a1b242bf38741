"""Shared by all tests."""

import os
import signal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest

pytest_plugins = ["tests.features"]

# With SOS_KERAS=keras nothing of tf_keras is tested, nor imported.
if keras.backend.backend() == "tensorflow" and os.environ.get("SOS_KERAS") != "keras":
    from tests.tf_keras.fixtures import (  # noqa: F401
        fresh_tf_keras,
        logged,
        mirrored,
    )
else:
    # What is of tf_keras, which knows no other backend.
    collect_ignore = ["bin", "models", "study", "tf_keras"]

# A shell that runs the tests in the background has them ignore Ctrl-C, and with them
# the processes that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """What no backend does in its own way is checked on PyTorch, the quickest.

    On the other backends of Keras 3, the slow tests ask for it.
    """
    if os.environ.get("SOS_KERAS") == "keras" and keras.backend.backend() != "torch":
        for item in items:
            if item.get_closest_marker("any_backend"):
                item.add_marker("slow")


@pytest.fixture
def rng():
    return np.random.default_rng(0)
