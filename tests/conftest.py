"""Shared by all tests."""

import gc
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
def pytest_collection_modifyitems(config, items):
    """What no backend does in its own way is checked on PyTorch, the quickest.

    On the other backends, the slow tests ask for the first case of each test of a
    feature; with tf_keras, for that of each test which is slow there.
    """
    is_keras3 = os.environ.get("SOS_KERAS") == "keras"
    if is_keras3 and keras.backend.backend() == "torch":
        return
    seen, left = set(), []
    for item in items:
        is_slow = is_keras3 or item.get_closest_marker("slow")
        if is_slow and item.get_closest_marker("any_backend"):
            item.add_marker("slow")
            features = tuple(m.args[0] for m in item.iter_markers("feature"))
            test = item.function, features
            if test in seen or (is_keras3 and not features):
                left.append(item)
            seen.add(test)
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in left]


def pytest_collection_finish(session):
    # What frameworks have made at their import stays, and need not be looked through
    # again and again, in a tenth of the time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
