"""The flag --model: the folder of a run, or a file or folder that Keras saved."""

import importlib
import pathlib
import sys
import traceback

from absl import flags

from state_of_sparsity.engines.tf_keras.backend import keras
from state_of_sparsity.models.runs import folders
from state_of_sparsity.models.saved_by_keras import (
    is_saved_by_keras,
    load_saved_by_keras,
)
from state_of_sparsity.models.usage import UsageError


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
        return folders.load_model(*folders.read_run(path))[1]
    if not place.exists():
        raise UsageError(f"There is nothing at {path}.")
    if not is_saved_by_keras(place):
        raise UsageError(
            f"{path} is neither a run's folder (flags.txt) nor a model saved by Keras "
            "(keras_metadata.pb). An exported SavedModel holds no layers any more: "
            "give the run's folder or the .keras file that it was made from."
        )
    _import_modules()
    try:
        return load_saved_by_keras(place)
    except MemoryError:
        raise
    except Exception as error:  # As the file, and the layers in it, have it.
        raise UsageError(
            f"Keras cannot load {path}: {_said(error)}\n(--import_module=… imports "
            "layers of your own.)"
        ) from error


def _import_modules():
    # The current folder, where console scripts do not look.
    sys.path.append("")
    for name in flags.FLAGS.import_module:
        try:
            importlib.import_module(name)
        # Whatever is in the module: it is the user's.
        except (Exception, SystemExit) as error:
            where = _where(error)
            raise UsageError(
                f"--import_module={name}: {_said(error)}{where}"
            ) from error


def _said(error):
    """An error's own words; with its name if they say little, such as a key."""
    if isinstance(error, ImportError | OSError | TypeError | ValueError) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _where(error):
    """The last line of a module that raised, which is not of this file or Python's."""
    if isinstance(error, SyntaxError):
        # It says so itself.
        return ""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in (__file__, importlib.__file__)
        and not frame.filename.startswith("<frozen")
    ]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
