"""Tests of what only Keras 3 has, or has in another way, on each of its backends."""

from tests.fixtures import fresh_keras  # noqa: F401
from tests.flavour import NAME

# With SOS_KERAS=tf_keras there is nothing to test here.
collect_ignore_glob = [] if NAME == "keras" else ["test_*.py"]
