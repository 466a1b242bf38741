"""Models that `tf_keras` saved, with layers of this library and of TF-MOT."""

import pathlib

from state_of_sparsity.engines.tf_keras.backend import PruneLowMagnitude, keras

# Keras finds the layers of the library by their registered names.
from state_of_sparsity.layers import tf_keras  # noqa: F401

# What Keras writes into a folder beside a SavedModel, to load the layers.
_LAYERS = "keras_metadata.pb"


def is_saved_by_keras(path: pathlib.Path) -> bool:
    """Whether there is a file, or a folder that `model.save` wrote."""
    return path.is_file() or (path / _LAYERS).is_file()


def load_saved_by_keras(path: pathlib.Path) -> keras.Model:
    """A model, not compiled, that `model.save` wrote.

    Args:
      path: a .keras or .h5 file, or a folder. Layers of one's own have to be
        registered; those of this library and of TF-MOT need not be.

    Raises:
      FileNotFoundError: if nothing is there.
      OSError, TypeError, ValueError: if Keras cannot load it.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is nothing at {path}.")
    # TF-MOT does not register its wrapper.
    scope = {PruneLowMagnitude.__name__: PruneLowMagnitude}
    with keras.utils.custom_object_scope(scope):
        model = keras.models.load_model(path, compile=False)
    if not isinstance(model, keras.Model):
        raise ValueError(f"What it holds is no model but a {type(model).__name__}.")
    return model
