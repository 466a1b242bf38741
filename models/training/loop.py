"""The training that all tasks share: sparsify, fit, evaluate, checkpoint, export."""

import abc
import contextlib
import dataclasses
import functools
import pathlib
import signal
import statistics
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar

import numpy as np

import state_of_sparsity as sos
from state_of_sparsity import atomic
from state_of_sparsity.engines.tf_keras.backend import keras, tf
from state_of_sparsity.models.training import event_files
from state_of_sparsity.models.training.checkpoint import Checkpoint
from state_of_sparsity.models.training.distribution import (
    has_other_workers,
    is_chief,
    named,
)
from state_of_sparsity.models.training.guard import Guard, NotFiniteError, check_finite
from state_of_sparsity.models.training.options import Options
from state_of_sparsity.models.training.record import Record
from state_of_sparsity.models.training.run_folder import RunFolder
from state_of_sparsity.models.training.summaries import show_result
from state_of_sparsity.models.training.weights import Keep, Start, save_weights


class Task(abc.ABC):
    """A model and its data, and how it is trained and scored.

    Attributes:
      name: of the model, such as "resnet50".
      quality_metric: what scores a model: "top1", a compiled metric, or "bleu".
      options: of the run.
    """

    name: str
    quality_metric: str
    options: Options
    # By which an export with format="sparse" is known.
    sparse_file: ClassVar[str] = "model.sparse"

    @property
    @abc.abstractmethod
    def steps_per_epoch(self) -> float:
        """Training steps in which each example is seen once."""

    @property
    def batch(self) -> str:
        """What a step takes over all replicas, in words."""
        return "a batch"

    @abc.abstractmethod
    def build(self) -> keras.Model:
        """A new dense model."""

    @abc.abstractmethod
    def compile(self, model: keras.Model) -> None:
        """Compiles a model, sparse or not, for training and evaluation."""

    @abc.abstractmethod
    def training_data(self, start_step: int) -> tf.data.Dataset:
        """Endless batches from the given step on."""

    @abc.abstractmethod
    def evaluation_data(self, split: str) -> tf.data.Dataset:
        """The batches of "validation" or "test"."""

    def evaluate(self, model: keras.Model, split: str) -> float:
        """The quality of a compiled, deployed model on a split."""
        scores = model.evaluate(
            self.evaluation_data(split), verbose=0, return_dict=True
        )
        return scores[self.quality_metric]

    def quality_in_training(self, model: keras.Model, logs: dict) -> float:
        """The quality on the validation split, after an interval of training.

        Args:
          model: that is trained.
          logs: what `fit` has found out about it in the interval.
        """
        del model
        return logs[f"val_{self.quality_metric}"]

    @property
    @abc.abstractmethod
    def examples_per_step(self) -> int:
        """Examples in a training step, as operations are counted: see `example`."""

    @property
    def example(self):
        """Inputs for which operations are counted; None: what the model is made for."""
        return None

    def export(
        self,
        model: keras.Model,
        path: pathlib.Path,
        overwrite: bool = False,
        log_alpha_threshold: float | None = None,
        format: str = "tf_saved_model",
        **options,
    ) -> None:
        """Writes the deployed model; the arguments are those of `sos.export`."""
        sos.export(model, path, format, overwrite, log_alpha_threshold, **options)

    def prepare(self) -> None:  # noqa: B027
        """Makes or reads what training needs, once the model is built.

        Raises:
          ValueError: if that fails for the options, naming them.
        """

    def companions(self) -> dict[str, str]:
        """Digests of what a trained model is of no use without, by name."""
        return {}

    def write_assets(self, folder: RunFolder) -> None:
        """Writes into the run's folder what the model is of no use without."""
        del folder


# Over which the sparsity of a technique is distributed.
BUDGETS = {
    "uniform": sos.Uniform,
    "first_dense_last_capped": sos.FirstDenseLastCapped,
    "erk": sos.ERK,
    "global": sos.Global,
}


@dataclasses.dataclass(frozen=True)
class Sparsification:
    """A technique, and for which layers it is overridden; None for a dense model.

    Attributes:
      technique: None for a dense model.
      overrides: as of `sos.sparsify`.
      budget: name of one of `BUDGETS`, path of the `layers.csv` of another run, or
        None: the same sparsity for each layer that no override names.
      source: of masks that are fixed, the flags that say where they are from.
    """

    technique: sos.Technique | None = None
    overrides: dict[str, float | None] = dataclasses.field(default_factory=dict)
    budget: str | None = None
    source: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        # Says at once what is wrong with it.
        _ = self.budget_of_layers

    @property
    def name(self) -> str:
        return self.technique.technique_name() if self.technique else "dense"

    def __str__(self):
        """The technique with what is not by default, budget and overrides."""
        parts = [self.name]
        if self.technique is not None:
            parts += [
                f"{field.name}={value}"
                for field in dataclasses.fields(self.technique)
                if (value := getattr(self.technique, field.name)) != field.default
                # A description of it, and not of all that it holds.
                and isinstance(value, bool | int | float | str | tuple)
            ]
        if self.budget is not None:
            parts.append(f"budget={self.budget}")
        parts += [f"override={name}={value}" for name, value in self.overrides.items()]
        return " ".join(parts)

    @property
    def settled_step(self) -> int:
        """Training step from which its schedules change nothing any more."""
        return self.technique.settled_step if self.technique else 0

    @property
    def target_sparsity(self) -> float | None:
        """That of the technique; None if it has none, 0 for a dense model."""
        return getattr(self.technique, "sparsity", None) if self.technique else 0.0

    def planned(self, model: keras.Model) -> dict[str, float]:
        """How sparse pruning makes each layer; see `sos.planned_sparsities`."""
        return sos.planned_sparsities(
            model, self.technique, self.overrides, self.budget_of_layers
        )

    def apply(self, model: keras.Model) -> keras.Model:
        if self.technique is None:
            return model
        if self.budget is not None:
            self._say_what_is_planned(model)
        return sos.sparsify(
            model, self.technique, self.overrides, self.budget_of_layers
        )

    @functools.cached_property
    def budget_of_layers(self) -> sos.Budget | None:
        if self.budget is None:
            return None
        if self.budget in BUDGETS:
            return BUDGETS[self.budget]()
        try:
            return sos.Table.from_csv(self.budget)
        except OSError as error:
            raise ValueError(
                f"--budget must be one of {', '.join(BUDGETS)}, or the layers.csv of a "
                f"run. Received: {self.budget!r} ({error.strerror})"
            ) from error

    def _say_what_is_planned(self, model):
        planned = self.planned(model)
        least, most = min(planned, key=planned.get), max(planned, key=planned.get)
        shared = self.budget_of_layers.shares_threshold
        print(
            f"budget {self.budget}: from {planned[least]:.2%} ({least}) "
            f"to {planned[most]:.2%} ({most})"
            + (", if the scores stayed as they are now" if shared else "")
        )


def build_dense(
    task: Task,
    start: Start = Start(),  # noqa: B008
    masks: Mapping[str, np.ndarray] | None = None,
) -> keras.Model:
    """The dense model of a run with the values that it begins with.

    They are another run's, or those that the seed fixes.

    Args:
      task: what to train.
      start: where the values come from.
      masks: that will be fixed, if any; for `--init=sparse`.

    Raises:
      ValueError: if the other run has none that fit.
    """
    # tf.data takes no seed of an epoch from a tensor while the global seed is 0.
    keras.utils.set_random_seed(task.options.seed + 1)
    with _precision(task.options.precision):
        model = task.build()
    start.set_weights(model)
    if start.init == "sparse":
        sos.augment(model, masks, task.options.seed)
    return model


def build_model(
    task: Task, sparsification: Sparsification, dense: keras.Model | None = None
) -> keras.Model:
    """The compiled model of a run.

    Args:
      task: what to train.
      sparsification: how it is made sparse.
      dense: of `build_dense`, which is called if it is not given.
    """
    dense = build_dense(task) if dense is None else dense
    with _precision(task.options.precision):
        model = sparsification.apply(dense)
        # Here Keras adds the loss scaling that float16 needs.
        task.compile(model)
    return model


@contextlib.contextmanager
def _precision(policy):
    """Layers are made under a mixed-precision policy; each keeps it."""
    previous = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(policy)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(previous)


class Leg:
    """One training of a run, which may train several times: see `rounds`.

    Args:
      first_step: of the schedule of the learning rate, and of the data, at which it
        begins.
      steps_before: training steps that the run took before.
    """

    def __init__(self, first_step: int = 0, steps_before: int = 0):
        self.first_step = first_step
        self.steps_before = steps_before

    def step_of_run(self, step: int) -> int:
        """How many steps the run has taken at a step of the schedule."""
        return self.steps_before + step - self.first_step

    def check(self, dense: keras.Model) -> None:
        """Raises ValueError if trainings that follow could not be.

        Args:
          dense: of `build_dense`.
        """

    def conclude(self, model: keras.Model, result: dict) -> dict:
        """What result.json says, and whatever else is to be there before it.

        Args:
          model: that was trained.
          result: what it says of this training alone.
        """
        del model
        return result


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
    checkpoint = Checkpoint(model, task.companions())
    step = checkpoint.restore(folder.checkpoints)
    goes_on = step > 0
    if not goes_on:
        step = checkpoint.begin(leg.first_step)
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
        event_files.keep_until(folder.tensorboard, step)
        _say_what_is_trained(task, sparsification, model, folder, leg)
        if goes_on:
            last = leg.step_of_run(task.options.train_steps)
            print(f"Going on from step {leg.step_of_run(step):,} of {last:,}.")
        stack.enter_context(_interrupted_by_sigterm())
        stack.enter_context(_failure_noted(folder))
        is_trained = False
        try:
            record = Record(
                task,
                folder,
                checkpoint,
                leg,
                sparsification.settled_step,
                checkpoint_every_steps,
            )
            _fit(task, model, folder, checkpoint, step, keep_steps, record)
            is_trained = True
            steps = int(model.optimizer.iterations.numpy()) - leg.first_step
            if task.options.export == "best":
                _restore_best(checkpoint, best, sparsification)
            exported = int(model.optimizer.iterations.numpy()) - leg.first_step
            result = _finish(task, sparsification, model, folder, steps, exported)
            folder.write_result(leg.conclude(model, result))
            show_result(folder, folder.settings, trial=folder.path.name)
            return folder.read_result()
        except KeyboardInterrupt as interruption:
            # Saving takes all workers, and the others may not have been interrupted.
            if is_trained:
                step = task.options.train_steps
            elif has_other_workers(model.distribute_strategy):
                step = checkpoint.step_on_disk
            else:
                done = int(model.optimizer.iterations.numpy())
                check_finite(model, leg.step_of_run(done))
                step = checkpoint.save(folder.checkpoints)
            raise TrainingInterrupted(leg.step_of_run(step)) from interruption


def _say_what_is_trained(task, sparsification, model, folder, leg):
    options, steps = task.options, leg.step_of_run(task.options.train_steps)
    facts = {
        "model": f"{task.name}, {sos.sparsity_report(model).parameters:,} parameters",
        "technique": sparsification,
        "dataset": options.dataset,
        "devices": named(model.distribute_strategy),
        "steps": f"{steps:,}, each of {task.batch}; "
        f"an evaluation every {options.eval_steps:,}",
        "folder": folder.path,
    }
    for name, fact in facts.items():
        print(f"{name:10} {fact}")


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


def _fit(task, model, folder, checkpoint, step, keep_steps, record):
    every, total = task.options.eval_steps, task.options.train_steps
    callbacks = []
    if any(layer.technique != "dense" for layer in sos.sparsity_report(model).layers):
        callbacks += sos.callbacks(model, log_dir=folder.tensorboard / "sparsity")
    callbacks += [
        checkpoint.interval,
        Guard(record.step_of_run),
        Keep(folder.path, keep_steps),
        record,
    ]
    with record.opened(model):
        record.make_up()
        for segment in _segments(step, total, every):
            model.fit(
                task.training_data(segment.start),
                steps_per_epoch=segment.steps,
                initial_epoch=segment.epoch,
                epochs=segment.epoch + segment.count,
                validation_data=task.evaluation_data("validation"),
                callbacks=[*callbacks, record.progress],
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


@contextlib.contextmanager
def _interrupted_by_sigterm():
    """Turns the signal that ends preempted jobs into a KeyboardInterrupt."""

    def interrupt(signum, frame):
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _restore_best(checkpoint, folder, sparsification):
    if not checkpoint.restore(folder):
        print(
            "No evaluation came after the schedules of the technique were over (step "
            f"{sparsification.settled_step:,}), so that none counts as the best: the "
            "last state is exported."
        )


def _finish(task, sparsification, model, folder, steps, exported):
    """Scores the deployed model on the test split and writes everything about it.

    Args:
      steps: that were trained.
      exported: the step whose state the model has.
    """
    with model.distribute_strategy.scope():
        deployed = sos.strip(model)
        task.compile(deployed)
    report = sos.sparsity_report(model)
    flops = sos.count_flops(model, task.example)
    training = sos.count_training_flops(model, steps, task.example)
    with atomic.replacing(folder.layers) as path:
        report.to_csv(path)
    sos.save_masks(folder.masks, sos.weight_masks(model))
    with atomic.replacing(folder.picture) as path:
        report.plot(path)
    task.export(model, folder.export, overwrite=True)
    seconds = [float(row["seconds_per_step"]) for row in folder.read_metrics()]
    return {
        "technique": sparsification.name,
        "model": task.name,
        "dataset": task.options.dataset,
        "steps": steps,
        "exported_step": exported,
        "seed": task.options.seed,
        "quality_metric": task.quality_metric,
        "quality": task.evaluate(deployed, "test"),
        "sparsity": report.sparsity,
        "target_sparsity": sparsification.target_sparsity,
        "parameters": report.parameters,
        "nonzero_parameters": report.nonzero_parameters,
        "flops": flops.dense,
        "sparse_flops": flops.sparse,
        "training_flops": training.sparse * task.examples_per_step,
        "dense_training_flops": training.dense * task.examples_per_step,
        # Of several workers, those that do not write have no rows if they go on
        # after the last step.
        "seconds_per_step": statistics.median(seconds) if seconds else None,
    }
