"""The guard against losses and weights that are NaN, before they are kept."""

import numpy as np

from state_of_sparsity.engines.tf_keras.backend import keras

# So many steps after the loss has become NaN, training ends at the latest.
CHECKED_EVERY = 100


class NotFiniteError(Exception):
    """A loss or a weight is NaN or infinite; the message says which, and since when."""


class Guard(keras.callbacks.Callback):
    """Stops training at a loss or a weight that is NaN or infinite.

    It comes before the callback that writes checkpoints, so that the last one is of
    before. Losses are read after an interval or `CHECKED_EVERY` steps, since reading
    them at each step would make a GPU wait.

    Args:
      step_of_run: see `Leg`.

    Raises:
      NotFiniteError: naming the step and the first tensor.
    """

    # Keras would make numbers of the logs at each step.
    _supports_tf_logs = True

    def __init__(self, step_of_run):
        super().__init__()
        self._step_of_run = step_of_run
        self._losses = []

    def on_epoch_begin(self, epoch, logs=None):
        self._losses = []

    def on_train_batch_end(self, batch, logs=None):
        # With loss scaling, a loss that overflows is a step that is left out.
        scales = keras.mixed_precision.LossScaleOptimizer
        if not isinstance(self.model.optimizer, scales):
            self._losses.append(logs["loss"])
        if len(self._losses) >= CHECKED_EVERY:
            self._check_losses()

    def on_epoch_end(self, epoch, logs=None):
        self._check_losses()
        check_finite(self.model, self._step())

    def _check_losses(self):
        # Each is the mean of its interval until then, so that the first one tells.
        losses = np.asarray([float(loss) for loss in self._losses])
        self._losses = []
        wrong = np.flatnonzero(~np.isfinite(losses))
        if wrong.size:
            step = self._step() - (len(losses) - 1 - int(wrong[0]))
            raise NotFiniteError(
                _message("the loss", losses[wrong[0]], step, self.model)
            )

    def _step(self):
        return self._step_of_run(int(self.model.optimizer.iterations.numpy()))


def check_finite(model: keras.Model, step: int) -> None:
    """Raises NotFiniteError if a weight of a model is NaN or infinite.

    Args:
      model: any.
      step: of the run, for the message.
    """
    found = _first_wrong(model)
    if found is not None:
        raise NotFiniteError(_message(*found, step, None))


def _first_wrong(model):
    """Name and value of the first weight that has one which is not finite."""
    for weight in model.weights:
        if weight.dtype.is_floating:
            values = keras.backend.get_value(weight).astype("float32")
            wrong = values[~np.isfinite(values)]
            if wrong.size:
                return weight.name, wrong[0]
    return None


def _message(what, value, step, model):
    found = None if model is None else _first_wrong(model)
    also = f", and {found[0]} has a value of {found[1]}" if found else ""
    return (
        f"at step {step:,}, {what} is {value}{also}: training has diverged. What was "
        "saved before is kept. Give a lower --learning_rate or a smaller weight of the "
        "penalty, in another --output_dir."
    )
