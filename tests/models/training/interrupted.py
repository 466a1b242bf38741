"""Training that is interrupted, or killed, after a step."""

import contextlib

import pytest

from state_of_sparsity.models.training.loop import training
from state_of_sparsity.models.training.loop.training import TrainingInterrupted


class Killed(BaseException):
    """Nothing handles it, as nothing handles SIGKILL."""


def kill(*args, **kwargs):
    raise Killed


def raise_keyboard_interrupt(*args, **kwargs):
    raise KeyboardInterrupt


@contextlib.contextmanager
def interrupted_at(
    step, interrupt=raise_keyboard_interrupt, error=TrainingInterrupted, match=None
):
    """The training within is interrupted after a step, and has to end in the error.

    Args:
      step: of the run, over all of its trainings.
      interrupt: what happens then.
      error: in which the training has to end.
      match: what its message has to match.
    """

    class Interrupting(training.Evaluations):
        def on_train_batch_end(self, batch, logs=None):
            super().on_train_batch_end(batch, logs)
            done = int(self.model.optimizer.iterations.numpy())
            if self.step_of_run(done) == step:
                interrupt()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "Evaluations", Interrupting)
        with pytest.raises(error, match=match):
            yield
