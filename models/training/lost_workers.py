"""Says in one message that a worker was lost, of which TensorFlow says pages."""

import contextlib
import os
import re

from state_of_sparsity.engines.tf_keras.backend import tf
from state_of_sparsity.models.training.cluster import Cluster
from state_of_sparsity.models.training.distribution import has_other_workers
from state_of_sparsity.models.training.rendezvous import WorkersError

# What TensorFlow raises where a worker does not answer any more.
_OF_OTHERS = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.UnavailableError,
)
# It says so of operations that wait for other workers, with any kind of error.
_ABORTED = "Collective ops is aborted"
_TASK = re.compile(r"/job:(\w+)/(?:replica:\d+/)?task:(\d+)")


class LostWorkerError(WorkersError):
    """A worker has ended, or cannot be reached; the message says which."""


@contextlib.contextmanager
def noticing_lost_workers(strategy: tf.distribute.Strategy):
    """Raises LostWorkerError where another worker of a strategy is lost."""
    try:
        yield
    except tf.errors.OpError as error:
        if not has_other_workers(strategy) or not _is_of_others(error):
            raise
        cluster = Cluster.from_text(os.environ["TF_CONFIG"])
        raise LostWorkerError(
            f"{_lost(cluster, error.message)} has ended, or cannot be reached any "
            "more. What was saved is kept: when all workers have ended, start them "
            "again with the same commands to go on."
        ) from error


def _is_of_others(error):
    return isinstance(error, _OF_OTHERS) or _ABORTED in error.message


def _lost(cluster, message):
    """The worker that a message speaks of last, if it is another one."""
    named = [(kind, int(index)) for kind, index in _TASK.findall(message)]
    others = [task for task in named if task in cluster.others]
    return cluster.named(others[-1]) if others else "Another worker"
