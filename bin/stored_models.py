"""Models from disk: the folder of a run, or a file or folder that Keras saved."""

import pathlib

# Keras finds the layers of the library by their registered names.
from state_of_sparsity import layers  # noqa: F401
from state_of_sparsity.backend import keras
from state_of_sparsity.bin import runs
from state_of_sparsity.bin.flags import UsageError


def is_run(path: str) -> bool:
    """Whether there is a run's folder."""
    return (pathlib.Path(path) / "flags.txt").is_file()


def load(path: str) -> keras.Model:
    """A sparse, stripped or plain model.

    Args:
      path: a run's folder, a .keras or .h5 file, or a folder that `model.save` wrote.

    Raises:
      UsageError: if there is no model that Keras can load.
      CheckpointError: if the checkpoint of a run cannot be used.
    """
    place = pathlib.Path(path)
    if is_run(path):
        return runs.load_model(*runs.read_run(path))[1]
    if not place.exists():
        raise UsageError(f"There is nothing at {path}.")
    if place.is_dir() and not (place / "keras_metadata.pb").is_file():
        raise UsageError(
            f"{path} is neither a run's folder (flags.txt) nor a model saved by Keras "
            "(keras_metadata.pb). An exported SavedModel holds no layers any more: "
            "give the run's folder or the .keras file that it was made from."
        )
    try:
        return keras.models.load_model(place, compile=False)
    except (OSError, TypeError, ValueError) as error:
        raise UsageError(f"Keras cannot load {path}: {error}") from error
