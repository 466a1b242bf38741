"""Lost workers: one message where TensorFlow says pages."""

import contextlib
from collections.abc import Iterator

from state_of_sparsity.engines.tf_keras.backend import tf


class WorkersError(Exception):
    """Other workers are missing or lost. To start all again may help."""


@contextlib.contextmanager
def noticing_lost_workers() -> Iterator[None]:
    """Raises WorkersError for TensorFlow's errors, where several workers train.

    Of a worker that has ended, the others get errors of almost any kind.
    """
    try:
        yield
    except tf.errors.ResourceExhaustedError:
        raise
    except tf.errors.OpError as error:
        # Before it, TensorFlow names a node of its graph.
        said = error.message.rpartition("}} ")[2].partition("\n")[0][:300]
        raise WorkersError(
            "another worker is missing, or has ended, or cannot be reached any more: "
            f"{said}\nWhat was saved is kept: when all workers have ended, start them "
            "again with the same commands to go on."
        ) from error
