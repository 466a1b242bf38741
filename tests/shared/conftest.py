"""Tests that run with both Kerases, and with Keras 3 on each backend, from one source.

SOS_KERAS=tf_keras pytest tests/shared
KERAS_BACKEND=jax pytest tests/shared
"""

from tests.fixtures import fresh_keras  # noqa: F401
