"""Models that Keras saved, with layers of this library and of TF-MOT."""

import pathlib
import zipfile

import keras as keras3

from state_of_sparsity.engines.tf_keras.backend import PruneLowMagnitude, keras

# Either Keras finds the layers of the library by their registered names.
from state_of_sparsity.layers import tf_keras  # noqa: F401

# What Keras writes into a folder beside a SavedModel, to load the layers.
_LAYERS = "keras_metadata.pb"


def is_saved_by_keras(path: pathlib.Path) -> bool:
    """Whether there is a file, or a folder that `model.save` wrote."""
    return path.is_file() or (path / _LAYERS).is_file()


def load_saved_by_keras(path: pathlib.Path) -> keras.Model | keras3.Model:
    """A model, not compiled, that `model.save` wrote.

    Args:
      path: a .keras file of either Keras, or of `tf_keras` an .h5 file, or a folder.
        Layers of one's own have to be registered; those of this library and of TF-MOT
        need not be.

    Raises:
      FileNotFoundError: if nothing is there.
      OSError, TypeError, ValueError: if Keras cannot load it.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is nothing at {path}.")
    package = keras3 if _is_of_keras3(path) else keras
    # TF-MOT does not register its wrapper.
    scope = {PruneLowMagnitude.__name__: PruneLowMagnitude}
    with keras.utils.custom_object_scope(scope):
        model = package.models.load_model(path, compile=False)
    if not isinstance(model, package.Model):
        raise ValueError(f"What it holds is no model but a {type(model).__name__}.")
    return model


def _is_of_keras3(path):
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        is_said = "metadata.json" in archive.namelist()
        return is_said and b'"keras_version": "3' in archive.read("metadata.json")
