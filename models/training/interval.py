"""What an evaluation interval has come to so far, kept by a checkpoint within it."""

import json
import statistics
import time

import numpy as np

from state_of_sparsity.engines.tf_keras.backend import keras, tf
from state_of_sparsity.models.training.distribution import has_other_workers


class Interval(keras.callbacks.Callback):
    """The sums of an interval's metrics, and the time of its steps.

    Keras's metrics begin anew with `fit`. So a run that is interrupted within an
    interval would have the mean loss of its last steps only. Here a checkpoint takes
    along the sums until then, to which the next process adds. Several workers do
    without: reading a sum takes all of them.

    Attributes:
      state: what a checkpoint saves.
    """

    def __init__(self):
        super().__init__()
        self.state = _State(self)
        self._carried = None
        self._carried_seconds = 0.0
        self._closed = None
        self._seconds = []
        self._last = None
        self._loss = None

    @property
    def is_unscored(self) -> bool:
        """Whether the checkpoint that was restored is of an interval without a row."""
        return self._carried is not None

    @property
    def loss(self) -> float | None:
        """Mean over the interval, if the steps of this process alone do not tell."""
        return self._loss

    @property
    def seconds_per_step(self) -> float:
        # The median, since the first step traces the graph.
        return statistics.median(self._seconds) if self._seconds else 0.0

    def resume_scoring(self) -> None:
        """Takes the restored interval for one that has all of its steps."""
        self._seconds = [self._carried_seconds]
        self._closed, self._carried = self._carried, None
        total, count = (np.float32(value) for value in self._closed["loss"])
        self._loss = float(total / count)

    def forget(self) -> None:
        """Drops what was restored: it has a row."""
        self._carried = None

    def conclude(self) -> None:
        """The interval has its row."""
        self._closed, self._loss, self._seconds = {}, None, []

    def now(self) -> dict[str, list[float]]:
        """Values of the variables of each metric."""
        for known in (self._carried, self._closed):
            if known is not None:
                return known
        if self.model is None or has_other_workers(self.model.distribute_strategy):
            return {}
        return {
            metric.name: [float(variable.numpy()) for variable in metric.variables]
            for metric in self.model.metrics
        }

    def restore(self, sums: dict[str, list[float]], seconds_per_step: float) -> None:
        """Goes on from the sums of an earlier process."""
        self._carried = sums or None
        self._carried_seconds = seconds_per_step

    def on_epoch_begin(self, epoch, logs=None):
        self._closed, self._loss, self._seconds = None, None, []
        self._last = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        now = time.perf_counter()
        self._seconds.append(now - self._last)
        self._last = now
        if self._carried is not None:
            self._add_carried()

    def _add_carried(self):
        # As soon as Keras has made the metrics, in the first step.
        for metric in self.model.metrics:
            for variable, value in zip(
                metric.variables, self._carried[metric.name], strict=True
            ):
                # In the order in which the uninterrupted run has added.
                dtype = variable.dtype.as_numpy_dtype
                variable.assign(dtype(value) + variable.numpy())
        # What this step has reported does not have it.
        (loss,) = (m for m in self.model.metrics if m.name == "loss")
        self._loss = float(loss.result())
        self._carried = None

    def on_train_batch_begin(self, batch, logs=None):
        self._loss = None

    def on_test_begin(self, logs=None):
        # Validation uses the same metrics.
        if self._closed is None:
            self._closed = self.now()


class _State(tf.train.experimental.PythonState):
    def __init__(self, interval):
        self._interval = interval

    def serialize(self):
        return json.dumps([self._interval.now(), self._interval.seconds_per_step])

    def deserialize(self, string_value):
        self._interval.restore(*json.loads(string_value))
