"""The training that all tasks share: the loop, its callbacks, what interrupts it."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterable, Iterator

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras
from state_of_sparsity.models.interruption import between_steps, interruptible
from state_of_sparsity.models.training.devices.strategy import (
    has_other_workers,
    is_chief,
    named,
)
from state_of_sparsity.models.training.loop.evaluations import Evaluations
from state_of_sparsity.models.training.loop.finishing import finish, restore_best
from state_of_sparsity.models.training.loop.guard import (
    Guard,
    NotFiniteError,
    check_finite,
)
from state_of_sparsity.models.training.loop.leg import Leg
from state_of_sparsity.models.training.loop.sparsification import Sparsification
from state_of_sparsity.models.training.loop.summaries import log_restart, show_result
from state_of_sparsity.models.training.loop.task import Task
from state_of_sparsity.models.training.rewinding.kept_weights import Keep, save_weights
from state_of_sparsity.models.training.run_folder import RunFolder
from state_of_sparsity.models.training.run_folder.checkpoint import Checkpoint
from state_of_sparsity.report import report_now


def train(
    task: Task,
    sparsification: Sparsification,
    model: keras.Model,
    folder: RunFolder,
    dense: keras.Model | None = None,
    keep_steps: Iterable[int] | None = None,
    leg: Leg = Leg(),  # noqa: B008
    checkpoint_every_steps: int | None = None,
) -> dict:
    """Trains a model, or goes on with it, and leaves everything in the run's folder.

    Args:
      task: what to train.
      sparsification: how it is made sparse.
      model: from `build_model`, under the strategy with which to train.
      folder: the run's folder; of several workers, only the chief writes into it.
      dense: of `build_dense`, whose values the folder keeps; it may be trained then.
      keep_steps: steps whose weights the folder keeps, too.
      leg: which part of the run it is, if not the whole.
      checkpoint_every_steps: steps between the checkpoints that are written between
        evaluations; None for none.

    Returns:
      The content of result.json.

    Raises:
      CheckpointError: if the folder's checkpoint cannot be used.
      RunFolderError: if the folder cannot be written.
      TrainingInterrupted: by Ctrl-C or SIGTERM; what was trained has been saved.
      NotFiniteError: if a loss or a weight is NaN or infinite; the folder says so.
    """
    checkpoint = Checkpoint(model)
    step = checkpoint.restore(folder.checkpoints, falls_back=True)
    goes_on = step > 0
    if not goes_on:
        step = leg.first_step
        checkpoint.begin(step)
    # Of several workers, all read what the chief has written.
    best = folder.best
    with contextlib.ExitStack() as stack:
        if not is_chief(model.distribute_strategy):
            # All workers take part in saving, and only one may leave its files.
            scratch = tempfile.TemporaryDirectory(prefix="worker-")
            folder = RunFolder(stack.enter_context(scratch))
        folder.start()
        if dense is not None and not goes_on:
            save_weights(dense, folder.path, step)
        task.write_assets(folder)
        if step < task.options.train_steps:
            # Else they are of later rounds, which stay as they are.
            folder.keep_metrics_until(leg.step_of_run(step))
        log_restart(folder.tensorboard, step)
        _say_what_is_trained(task, sparsification, model, folder, leg)
        if goes_on:
            last = leg.step_of_run(task.options.train_steps)
            print(f"Going on from step {leg.step_of_run(step):,} of {last:,}.")
        stack.enter_context(interruptible())
        stack.enter_context(_failure_noted(folder))
        is_trained = False
        try:
            evaluations = Evaluations(
                task,
                folder,
                checkpoint,
                leg,
                sparsification.settled_step,
                checkpoint_every_steps,
            )
            _fit(task, model, folder, step, keep_steps, evaluations, goes_on)
            is_trained = True
            steps = int(model.optimizer.iterations.numpy()) - leg.first_step
            if task.options.export == "best":
                restore_best(checkpoint, best, sparsification)
            exported = int(model.optimizer.iterations.numpy()) - leg.first_step
            result = finish(task, sparsification, model, folder, steps, exported)
            folder.write_result(leg.conclude(model, result))
            show_result(folder, folder.settings, trial=folder.path.name)
            return folder.read_result()
        except KeyboardInterrupt as interruption:
            step = task.options.train_steps
            if not is_trained:
                step = _save_interrupted(model, checkpoint, folder, leg)
            raise TrainingInterrupted(leg.step_of_run(step)) from interruption


def _say_what_is_trained(task, sparsification, model, folder, leg):
    options, steps = task.options, leg.step_of_run(task.options.train_steps)
    facts = {
        "model": f"{task.name}, {report_now(model).parameters:,} parameters",
        "technique": sparsification,
        "dataset": options.dataset,
        "devices": named(model.distribute_strategy),
        "steps": f"{steps:,}, each of {task.batch}; "
        f"an evaluation every {options.eval_steps:,}",
        "folder": folder.path,
    }
    for name, fact in facts.items():
        print(f"{name:10} {fact}")


def _save_interrupted(model, checkpoint, folder, leg):
    # Saving takes all workers, and the others may not have been interrupted.
    if has_other_workers(model.distribute_strategy):
        return checkpoint.step_on_disk
    done = int(model.optimizer.iterations.numpy())
    check_finite(model, leg.step_of_run(done))
    return checkpoint.save(folder.checkpoints)


@contextlib.contextmanager
def _failure_noted(folder):
    try:
        yield
    except NotFiniteError as error:
        folder.write_failure(str(error))
        raise


class TrainingInterrupted(KeyboardInterrupt):
    """Training was interrupted; running the same command again goes on with it.

    Args:
      step: from which it will go on.
    """

    def __init__(self, step: int):
        super().__init__(
            f"interrupted, and saved at step {step:,}: run the same command again to "
            "go on."
            if step
            else "interrupted before there was anything to save."
        )
        self.step = step


class _Interruptions(keras.callbacks.Callback):
    """Where training and validation can be interrupted: after each batch."""

    # Keras would make numbers of the logs at each step.
    _supports_tf_logs = True

    def __init__(self, interrupt):
        super().__init__()
        self._interrupt = interrupt

    def on_train_batch_end(self, batch, logs=None):
        self._interrupt()

    def on_test_batch_end(self, batch, logs=None):
        self._interrupt()


def _fit(task, model, folder, step, keep_steps, evaluations, goes_on):
    every, total = task.options.eval_steps, task.options.train_steps
    callbacks = []
    if any(layer.technique != "dense" for layer in report_now(model).layers):
        callbacks += sos.callbacks(model, log_dir=folder.tensorboard / "sparsity")
    callbacks += [
        Guard(evaluations.step_of_run),
        Keep(folder.path, keep_steps),
        evaluations,
    ]
    with evaluations.opened(model), between_steps() as interrupt:
        callbacks += [evaluations.progress, _Interruptions(interrupt)]
        # Evaluating takes all workers, of which only the chief has the rows.
        if goes_on and not has_other_workers(model.distribute_strategy):
            evaluations.make_up()
        for segment in _segments(step, total, every):
            model.fit(
                task.training_data(segment.start),
                steps_per_epoch=segment.steps,
                initial_epoch=segment.epoch,
                epochs=segment.epoch + segment.count,
                validation_data=task.evaluation_data("validation"),
                callbacks=callbacks,
                verbose=0,
            )


@dataclasses.dataclass(frozen=True)
class _Segment:
    """Evaluation intervals of equal length, for one call of `fit`."""

    start: int
    steps: int
    epoch: int
    count: int


def _segments(step: int, total: int, every: int) -> Iterator[_Segment]:
    """Cuts what is left of a run into whole intervals and what is cut off at its ends.

    Keras calls an interval an epoch.
    """
    while step < total:
        until_evaluation = every - step % every
        if until_evaluation == every and total - step >= every:
            count, steps = (total - step) // every, every
        else:
            count, steps = 1, min(until_evaluation, total - step)
        yield _Segment(step, steps, step // every, count)
        step += count * steps
