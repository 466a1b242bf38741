"""Trained runs, from their folders."""

from state_of_sparsity.engines.tf_keras.backend import keras
from state_of_sparsity.models.runs.from_settings import run_of
from state_of_sparsity.models.runs.run import TRAINERS, Run
from state_of_sparsity.models.runs.settings import settings_of
from state_of_sparsity.models.training.loop.building import build_model
from state_of_sparsity.models.training.loop.task import Task
from state_of_sparsity.models.training.rewinding.rounds import masked_as_in
from state_of_sparsity.models.training.run_folder import RunFolder
from state_of_sparsity.models.training.run_folder.checkpoint import Checkpoint
from state_of_sparsity.models.usage import UsageError, usage_errors


def read_run(path: str, binary: str | None = None) -> tuple[Run, RunFolder]:
    """The run in a folder.

    Args:
      path: of the folder.
      binary: that must have trained it; None for any.

    Raises:
      UsageError: if there is none, or one of another binary.
      RunFolderError: if another version of the project began it.
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
    folder.check_version()
    values = _values(folder, settings_of(TRAINERS[binary][0]))
    if values["load_masks_from"] and folder.masks.is_file():
        # As it was finished, whatever has become of the run that they are from.
        values["load_masks_from"] = str(folder.masks)
        values["shuffle_masks"] = None
    return run_of(binary, values), folder


def _values(folder, settings):
    """What flags.txt gives each setting."""
    values = {name: setting.default for name, setting in settings.items()}
    for line in folder.read_flag_lines():
        name, _, text = line.removeprefix("--").partition("=")
        if name not in settings:
            raise UsageError(f"{folder.flags}: Unknown command line flag {name!r}")
        setting = settings[name]
        value = setting.parse(text)
        values[name] = (*values[name], value) if setting.is_repeated else value
    return values


def load_model(run: Run, folder: RunFolder) -> tuple[Task, keras.Model]:
    """The task and the trained, compiled, sparse model of a run.

    Raises:
      UsageError: if its dataset is not there, or it has no checkpoint yet.
      CheckpointError: if its checkpoint cannot be used.
    """
    with usage_errors():
        task = run.task(folder)
        model = build_model(task, _deployed_sparsification(run, folder))
        task.prepare()
    checkpoint = Checkpoint(model)
    step = 0
    if run.options.export == "best":
        step = checkpoint.restore(folder.best)
    step = step or checkpoint.restore(folder.checkpoints)
    if step == 0:
        raise UsageError(f"{folder.path} has no checkpoint yet: train it first.")
    return task, model


def _deployed_sparsification(run, folder):
    """As of the last round, if there are several, or before the first step."""
    if run.sparsification.is_initial:
        return masked_as_in(folder)
    if run.rounds is None:
        return run.sparsification
    if not folder.masks.is_file():
        raise UsageError(
            f"{folder.path} has not come to its last round yet: train it first. Rounds "
            f"that are finished are in {folder.round(0).path.parent}."
        )
    return masked_as_in(folder)
