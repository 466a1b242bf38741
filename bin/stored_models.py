"""Models from disk: the folder of a run, or a file or folder that Keras saved."""

import importlib
import pathlib
import sys

from absl import flags

from state_of_sparsity.bin import runs
from state_of_sparsity.bin.flags import UsageError
from state_of_sparsity.engines.tf_keras.backend import keras
from state_of_sparsity.models.training.saved_models import (
    is_saved_model,
    load_saved_model,
)


def define_flags(required: bool = True) -> None:
    """Defines --model, and what it takes to load and to deploy it."""
    flags.DEFINE_string(
        "model",
        None,
        "A run's folder, or a model saved by Keras (.keras).",
        required=required,
    )
    flags.DEFINE_multi_string(
        "import_module",
        [],
        "A module that registers layers of your own, on which a model saved by Keras "
        "depends (keras.utils.register_keras_serializable). It is looked for in the "
        "current folder, too. May be repeated.",
    )
    flags.DEFINE_float(
        "log_alpha_threshold",
        None,
        "For variational dropout: from which log alpha on a weight is zero, if not "
        "from the threshold of the run.",
    )


def is_run(path: str) -> bool:
    """Whether there is a run's folder."""
    return (pathlib.Path(path) / "flags.txt").is_file()


def load(path: str) -> keras.Model:
    """A sparse, stripped or plain model; imports what --import_module names first.

    Args:
      path: a run's folder, a .keras or .h5 file, or a folder that `model.save` wrote.

    Raises:
      UsageError: if there is no model that Keras can load, or no such module.
      CheckpointError: if the checkpoint of a run cannot be used.
    """
    place = pathlib.Path(path)
    if is_run(path):
        return runs.load_model(*runs.read_run(path))[1]
    if not place.exists():
        raise UsageError(f"There is nothing at {path}.")
    if not is_saved_model(place):
        raise UsageError(
            f"{path} is neither a run's folder (flags.txt) nor a model saved by Keras "
            "(keras_metadata.pb). An exported SavedModel holds no layers any more: "
            "give the run's folder or the .keras file that it was made from."
        )
    _import_modules()
    try:
        return load_saved_model(place)
    except (OSError, TypeError, ValueError) as error:
        raise UsageError(
            f"Keras cannot load {path}: {error}\n(--import_module=… imports layers of "
            "your own.)"
        ) from error


def _import_modules():
    # The current folder, where console scripts do not look.
    sys.path.append("")
    for name in flags.FLAGS.import_module:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UsageError(f"--import_module={name}: {error}") from error
