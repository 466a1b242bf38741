"""Runs from flags, for the training binaries and the sweep."""

from absl import flags

from state_of_sparsity.bin import app
from state_of_sparsity.bin.flags import define, values_of
from state_of_sparsity.models.runs.from_settings import run_of
from state_of_sparsity.models.runs.run import TRAINERS, Run
from state_of_sparsity.models.runs.settings import settings_of
from state_of_sparsity.models.runs.train import train


def define_run_flags(binary: str, values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags of a training binary, apart from --output_dir."""
    define(_settings(binary), values)


def run_from_flags(binary: str, values: flags.FlagValues = flags.FLAGS) -> Run:
    """The run that the flags describe.

    Raises:
      UsageError: if they do not go together, or one is bad.
    """
    return run_of(binary, values_of(_settings(binary), values))


def train_from_flags(binary: str, values: flags.FlagValues = flags.FLAGS) -> None:
    """Trains the run that the flags describe, or goes on with it."""
    folder = train(run_from_flags(binary, values), values["output_dir"].value)
    if folder is not None:
        app.print_summary(folder)


def _settings(binary):
    return settings_of(TRAINERS[binary][0]).values()
