"""Evaluations in training: what a run leaves in its folder after each interval."""

import contextlib
import statistics
import time
from collections.abc import Iterator

from state_of_sparsity.engines.tf_keras.backend import keras
from state_of_sparsity.models.training.loop.guard import check_finite
from state_of_sparsity.models.training.loop.leg import Leg
from state_of_sparsity.models.training.loop.progress import Progress
from state_of_sparsity.models.training.loop.summaries import Summaries
from state_of_sparsity.models.training.loop.task import Task
from state_of_sparsity.models.training.run_folder import RunFolder
from state_of_sparsity.models.training.run_folder.checkpoint import Checkpoint
from state_of_sparsity.report import report_now
from state_of_sparsity.training_callbacks import penalty_logs

_PENALTIES = ("penalty", "penalty_weight")


class Evaluations(keras.callbacks.Callback):
    """After each interval a row of metrics.csv, curves, a line, and checkpoints.

    Args:
      task: that is trained.
      folder: of the run.
      checkpoint: of the run.
      leg: which part of the run it is.
      settled_step: training step from which an evaluation may be the best: before, the
        schedules of the technique have not made the model what it is to be.
      checkpoint_every_steps: as of `train`.

    Attributes:
      progress: a callback, while it is `opened`; it prints a line for each row.
      step_of_run: see `Leg`.
    """

    def __init__(
        self,
        task: Task,
        folder: RunFolder,
        checkpoint: Checkpoint,
        leg: Leg,
        settled_step: int,
        checkpoint_every_steps: int | None = None,
    ):
        super().__init__()
        self.step_of_run = leg.step_of_run
        self.progress = None
        self._every = checkpoint_every_steps
        self._task = task
        self._folder = folder
        self._checkpoint = checkpoint
        self._settled_step = settled_step
        self._summaries = None
        self._gone = set()
        self._seconds = []
        self._last = None

    @contextlib.contextmanager
    def opened(self, model: keras.Model) -> Iterator[None]:
        """While a model is trained, from its present step on."""
        self.set_model(model)
        self._summaries = Summaries(self._folder.tensorboard)
        self.progress = Progress(
            self.step_of_run(self._step()),
            self.step_of_run(self._task.options.train_steps),
            self._task.quality_metric,
        )
        with contextlib.closing(self.progress), contextlib.closing(self._summaries):
            yield

    def on_epoch_begin(self, epoch, logs=None):
        self._seconds = []
        self._last = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        now = time.perf_counter()
        self._seconds.append(now - self._last)
        self._last = now
        if self._every is None:
            return
        step = self._step()
        # At the end of an interval there will be one in any case.
        if step % self._every == 0 and step % self._task.options.eval_steps:
            check_finite(self.model, self.step_of_run(step))
            self._checkpoint.save(self._folder.checkpoints)

    def on_epoch_end(self, epoch, logs=None):
        try:
            self.add_row(logs)
        finally:
            # Whatever may go wrong in scoring, what was trained is kept.
            self._checkpoint.save(self._folder.checkpoints)

    def make_up(self) -> None:
        """Adds the row of the step at which the run goes on, if it is missing.

        It was interrupted while it was scored. Its loss is not known any more.
        """
        step, options = self._step(), self._task.options
        if step % options.eval_steps and step != options.train_steps:
            return
        there = [int(row["step"]) for row in self._folder.read_metrics()]
        if self.step_of_run(step) not in there:
            scores = self.model.evaluate(
                self._task.evaluation_data("validation"), verbose=0, return_dict=True
            )
            self.add_row({f"val_{name}": score for name, score in scores.items()})

    def add_row(self, logs) -> None:
        """Adds the row of the interval that ends at the present step.

        Args:
          logs: of `fit`.
        """
        step = self._step()
        report = report_now(self.model)
        self._warn_of_what_is_gone(report)
        training = {"learning_rate": _learning_rate(self.model.optimizer)}
        if "loss" in logs:
            # The median, since the first step traces the graph.
            seconds = statistics.median(self._seconds)
            training |= {"loss": logs["loss"], "seconds_per_step": seconds}
        # The technique's callbacks have put them there, unless nothing was trained.
        penalties = logs if "penalty" in logs else penalty_logs(self.model)
        training |= {name: penalties[name] for name in _PENALTIES if name in penalties}
        quality = self._task.quality_in_training(self.model, logs)
        row = training | {
            "step": self.step_of_run(step),
            "epoch": round(self.step_of_run(step) / self._task.steps_per_epoch, 3),
            "quality": quality,
            "sparsity": report.sparsity,
            "validation_loss": logs["val_loss"],
        }
        self._folder.add_metrics(row)
        self.progress.say(row)
        scores = {"loss": logs["val_loss"], self._task.quality_metric: quality}
        self._summaries.write("train", training, step)
        self._summaries.write("validation", scores, step)
        if step >= self._settled_step and self._checkpoint.best.is_surpassed(quality):
            self._checkpoint.save_best(self._folder.best)

    def _step(self):
        return int(self.model.optimizer.iterations.numpy())

    def _warn_of_what_is_gone(self, report):
        """Says once of each tensor that has no weight left."""
        gone = {layer.name for layer in report.layers if layer.zeros == layer.size}
        for name in sorted(gone - self._gone):
            self.progress.write(f"warning: {name} has no weight left.")
        if len(gone) == len(report.layers) and gone != self._gone:
            self.progress.write(
                "warning: the model has no weight left that could be made sparse."
            )
        self._gone = gone


def _learning_rate(optimizer):
    """That of the last step."""
    return float(keras.backend.get_value(optimizer.learning_rate))
