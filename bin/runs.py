"""Training runs: from flags, and back from a run's folder."""

import contextlib
import dataclasses
import pathlib

from absl import flags

from state_of_sparsity.bin import app
from state_of_sparsity.bin.flags import (
    DENSE,
    UsageError,
    as_flags,
    budget_from_flags,
    define_options,
    define_technique,
    mask_flags,
    options_from_flags,
    overrides_from_flags,
    technique_from_flags,
)
from state_of_sparsity.engines.tf_keras.backend import keras
from state_of_sparsity.models.images.options import ImageOptions
from state_of_sparsity.models.images.task import ImageTask
from state_of_sparsity.models.training import disk, distribution, folder_lock, upkeep
from state_of_sparsity.models.training.checkpoint import Checkpoint, CheckpointError
from state_of_sparsity.models.training.execution import Execution
from state_of_sparsity.models.training.loop import (
    Leg,
    Sparsification,
    Task,
    build_dense,
    build_model,
    train,
)
from state_of_sparsity.models.training.lost_workers import noticing_lost_workers
from state_of_sparsity.models.training.options import Options
from state_of_sparsity.models.training.records import naming_damage
from state_of_sparsity.models.training.rounds import Rounds, masked_as_in, unfinished
from state_of_sparsity.models.training.run_folder import RunFolder
from state_of_sparsity.models.training.weights import Start, has_weights
from state_of_sparsity.models.translation.options import TranslationOptions
from state_of_sparsity.models.translation.task import TranslationTask
from state_of_sparsity.techniques import MagnitudePruning

# The options and the task of each training binary.
TRAINERS = {
    "train_resnet50": (ImageOptions, ImageTask),
    "train_transformer": (TranslationOptions, TranslationTask),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run: what its flags say.

    Attributes:
      binary: that trains it.
      options: what it is, apart from the technique.
      sparsification: how it is made sparse.
      start: the values that it begins with.
      rounds: of iterative pruning, whose last is as sparse as `sparsification` says;
        None to train once.
      execution: how it is carried out, which may change from one start to the next.
    """

    binary: str
    options: Options
    sparsification: Sparsification
    start: Start
    rounds: Rounds | None = None
    execution: Execution = dataclasses.field(default_factory=Execution)

    def task(self, folder: RunFolder) -> Task:
        task = TRAINERS[self.binary][1]
        return task(self.options, folder, self.execution.strict_data)

    def flags(self) -> dict[str, str | list[str]]:
        """The flags that repeat the run, apart from --output_dir."""
        settings = as_flags(self.options, self.start)
        settings["technique"] = self.sparsification.name
        if self.rounds:
            settings |= as_flags(self.rounds)
            if self.rounds.prune_fraction is None:
                settings["sparsity"] = str(self.sparsification.target_sparsity)
        elif self.sparsification.technique:
            settings |= as_flags(self.sparsification.technique)
        settings["override"] = [
            f"{pattern}={DENSE if sparsity is None else sparsity}"
            for pattern, sparsity in self.sparsification.overrides.items()
        ]
        if self.sparsification.budget is not None:
            settings["budget"] = self.sparsification.budget
        settings |= self.sparsification.source
        return settings


def define_run_flags(binary: str, values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of a training binary, apart from --output_dir."""
    define_options(TRAINERS[binary][0], values)
    define_options(Start, values)
    flags.DEFINE_float(
        "train_steps_multiplier",
        None,
        "Trains for so many times the steps, as in training from scratch with twice "
        "the budget.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "stretch_schedule",
        None,
        ["scaled", "constant_final"],
        "With --train_steps_multiplier: whether the learning-rate schedule is "
        "stretched as well, or its last rate holds for longer, which is the default.",
        flag_values=values,
    )
    define_technique(values)
    define_options(Rounds, values)
    define_options(Execution, values)


def run_from_flags(binary: str, values: flags.FlagValues = flags.FLAGS) -> Run:
    """The run that the flags describe.

    Raises:
      UsageError: if they do not go together, or one is bad.
    """
    with app.usage_errors():
        options = options_from_flags(TRAINERS[binary][0], values).resolved()
        options = _stretched(options, values)
        start = _with_absolute_path(options_from_flags(Start, values))
        rounds = _rounds_from_flags(options, values)
        execution = options_from_flags(Execution, values)
        execution.check(options.distribution)
    defaults = (rounds or options).technique_defaults()
    technique = technique_from_flags(defaults, values)
    end_step = getattr(technique, "end_step", 0)
    if end_step > options.train_steps:
        raise UsageError(
            f"--end_step={end_step} is after the last of --train_steps="
            f"{options.train_steps}: the run would end before it is sparse."
        )
    ramp_begin = getattr(technique, "ramp_begin", 0)
    if ramp_begin >= options.train_steps:
        raise UsageError(
            f"--ramp_begin={ramp_begin} is not before the last of --train_steps="
            f"{options.train_steps}: nothing would become sparse."
        )
    with app.usage_errors():
        sparsification = Sparsification(
            technique,
            overrides_from_flags(values),
            budget_from_flags(values),
            mask_flags(values),
        )
    if start.init == "sparse" and not mask_flags(values):
        raise UsageError("--init=sparse needs --technique=fixed_mask.")
    late = [step for step in start.keep_steps or () if step > options.train_steps]
    if late:
        raise UsageError(
            f"--keep_steps has steps after the last of --train_steps="
            f"{options.train_steps}. Received: {late}"
        )
    return Run(binary, options, sparsification, start, rounds, execution)


def _stretched(options, values):
    multiplier = values["train_steps_multiplier"].value
    schedule = values["stretch_schedule"].value
    if multiplier is None:
        if schedule is not None:
            raise ValueError(
                "stretch_schedule needs train_steps_multiplier. Received: "
                f"stretch_schedule={schedule}"
            )
        return options
    # What comes of it is in the flags of the run, so that it is not stretched twice.
    return options.stretched(multiplier, schedule or "constant_final")


def _rounds_from_flags(options, values):
    rounds = options_from_flags(Rounds, values)
    if rounds.rounds is None:
        return None
    chosen = values["technique"].value
    if chosen != MagnitudePruning.technique_name():
        raise ValueError(
            f"--technique={chosen} does not have --rounds (it belongs to "
            f"{MagnitudePruning.technique_name()})"
        )
    for field in dataclasses.fields(MagnitudePruning):
        if field.name in values and field.name != "sparsity":
            value = values[field.name].value
            if value is not None:
                raise ValueError(
                    f"--{field.name} is not for --rounds, where the smallest weights "
                    f"are masked between trainings. Received: {value}"
                )
    if options.distribution == "multi_worker":
        raise ValueError(
            "--rounds is for one machine, with any number of devices. Received: "
            f"--distribution={options.distribution}"
        )
    return rounds.resolved(values["sparsity"].value, options.train_steps)


def _with_absolute_path(start):
    if start.load_weights_from is None:
        return start
    path = str(pathlib.Path(start.load_weights_from).resolve())
    return dataclasses.replace(start, load_weights_from=path)


def train_from_flags(binary: str, values: flags.FlagValues = flags.FLAGS) -> None:
    """Trains the run that the flags describe, or goes on with it."""
    run = run_from_flags(binary, values)
    folder = RunFolder(
        values["output_dir"].value,
        run.flags(),
        f"Repeat this run: {binary} --flagfile=<this file> --output_dir=<folder>",
    )
    with app.usage_errors():
        folder.check_same_run()
    before = [folder.round(n) for n in range(run.rounds.rounds)] if run.rounds else []
    if upkeep.is_done(folder, run.options.train_steps, before):
        upkeep.say_what_is_missing(folder, "there is no checkpoint to make it from")
        print(f"This run is finished; there is nothing left to do in {folder.path}.")
        app.print_summary(folder)
        return
    with app.usage_errors():
        # Before anything else of TensorFlow starts.
        strategy = distribution.strategy(run.options.distribution, run.execution)
    with (
        disk.full_disk_named(folder.path),
        _which_version(folder),
        noticing_lost_workers(strategy),
        naming_damage(),
    ):
        if not distribution.is_chief(strategy):
            _train_legs(run, folder, strategy)
            return
        with folder_lock.held(folder):
            # Another process may have begun a run meanwhile.
            folder.check_same_run()
            upkeep.prepare(folder)
            _train_legs(run, folder, strategy)
    app.print_summary(folder)


def _train_legs(run, folder, strategy):
    if run.rounds is None:
        _train(run, folder, strategy)
    else:
        _train_in_rounds(run, folder, strategy)


@contextlib.contextmanager
def _which_version(folder):
    """Says which version can go on, where a checkpoint cannot be used by this one."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{error}{folder.say_which_version()}") from error


def _train(run, folder, strategy, leg=None, assets=None):
    """Trains a run, or a leg of one, whose assets may be in another folder."""
    with app.usage_errors():
        with strategy.scope():
            task = run.task(assets or folder)
            masks = getattr(run.sparsification.technique, "masks", None)
            dense = build_dense(task, _own_start(run.start, folder), masks)
            model = build_model(task, run.sparsification, dense)
        task.prepare()
        # Reads the data, which may not be there.
        _ = task.steps_per_epoch
        leg = leg or Leg()
        leg.check(dense)
    train(
        task,
        run.sparsification,
        model,
        folder,
        dense,
        run.start.keep_steps,
        leg,
        checkpoint_every_steps=run.execution.checkpoint_every_steps,
    )


def _train_in_rounds(run, folder, strategy):
    """Trains the rounds that are not finished yet; each is a run with fixed masks."""
    first, last = folder.round(0), run.rounds.rounds
    target, steps = run.sparsification, run.options.train_steps
    for leg in unfinished(run.rounds, target, folder, steps):
        with app.usage_errors():
            masked, start = leg.sparsification(), leg.start(run.start)
        part = dataclasses.replace(run, sparsification=masked, start=start, rounds=None)
        rounds, target = leg.ending_here()
        shown = dataclasses.replace(run, sparsification=target, rounds=rounds)
        header = f"After round {leg.number} of {last} of a run of {run.binary}"
        print(f"Round {leg.number} of {last}{'' if leg.number else ', dense'}.")
        _train(part, leg.folder(shown.flags(), header), strategy, leg, first)
        # Frees what the trained model has left.
        keras.backend.clear_session()


def _own_start(start, folder):
    """A run that goes on needs no other one any more."""
    if start.load_weights_from is None or not has_weights(folder.path, 0):
        return start
    return Start(load_weights_from=str(folder.path))


def read_run(path: str, binary: str | None = None) -> tuple[Run, RunFolder]:
    """The run in a folder.

    Args:
      path: of the folder.
      binary: that must have trained it; None for any.

    Raises:
      UsageError: if there is none, or one of another binary.
    """
    expected = binary
    folder = RunFolder(path)
    if not folder.flags.is_file():
        raise UsageError(f"{path} is not the folder of a run: it has no flags.txt.")
    binary = next((name for name in TRAINERS if name in folder.header), None)
    if binary is None:
        raise UsageError(f"{folder.flags} does not say which binary wrote it.")
    if expected not in (None, binary):
        raise UsageError(f"{path} holds a run of {binary}, and not of {expected}.")
    values = flags.FlagValues()
    define_run_flags(binary, values)
    try:
        values([binary, *folder.read_flag_lines()])
    except flags.Error as error:
        version = folder.say_which_version()
        raise UsageError(f"{folder.flags}: {error}{version}") from error
    if values["load_masks_from"].value and folder.masks.is_file():
        # As it was finished, whatever has become of the run that they are from.
        values["load_masks_from"].value = str(folder.masks)
        values["shuffle_masks"].value = None
    return run_from_flags(binary, values), folder


def load_model(run: Run, folder: RunFolder) -> tuple[Task, keras.Model]:
    """The task and the trained, compiled, sparse model of a run.

    Raises:
      UsageError: if its dataset is not there, or it has no checkpoint yet.
      CheckpointError: if its checkpoint cannot be used.
    """
    with app.usage_errors():
        task = run.task(folder)
        model = build_model(task, _deployed_sparsification(run, folder))
        task.prepare()
    with _which_version(folder):
        checkpoint = Checkpoint(model, task.companions())
        step = 0
        if run.options.export == "best":
            step = checkpoint.restore(folder.best)
        step = step or checkpoint.restore(folder.checkpoints)
    if step == 0:
        raise UsageError(f"{folder.path} has no checkpoint yet: train it first.")
    return task, model


def _deployed_sparsification(run, folder):
    """As of the last round, if there are several."""
    if run.rounds is None:
        return run.sparsification
    if not folder.masks.is_file():
        raise UsageError(
            f"{folder.path} has not come to its last round yet: train it first. Rounds "
            f"that are finished are in {folder.round(0).path.parent}."
        )
    return masked_as_in(folder)
