"""The engines: how models of each Keras become sparse, and plain again.

Which one serves a model, the class of the model decides. An engine is imported when it
is first asked for, since it imports its Keras.
"""

import functools
import importlib

from state_of_sparsity.engines.conversion import Conversion
from state_of_sparsity.engines.inspection import Inspection

# By the package that the class of a model comes from.
_MODULES = {
    "keras": "state_of_sparsity.engines.keras3.engine",
    "tf_keras": "state_of_sparsity.engines.tf_keras.engine",
}


class Engine(Conversion, Inspection):
    """All that the library knows of a Keras: how to convert, inspect and export.

    Attributes:
      writer: who writes files for inference, as `formats` calls it.
    """

    writer: str


def engine_of(model) -> Engine:
    """The engine that serves a model.

    Raises:
      TypeError: for something that is a model of neither Keras.
      ValueError: for a model without weights, or one that the engine cannot serve under
        the present Keras backend.
    """
    package = _package_of(model)
    if package is None:
        raise TypeError(
            "model must be a keras.Model (Keras 3) or a tf_keras.Model. "
            f"Received: {model!r} of type {type(model).__module__}."
            f"{type(model).__qualname__}"
        )
    engine = _engine(package)
    engine.check_model(model)
    return engine


def is_of_tf_keras(model) -> bool:
    """Whether a model is one of `tf_keras`, and not of Keras 3."""
    return _package_of(model) == "tf_keras"


def _package_of(model):
    for cls in type(model).__mro__:
        package = cls.__module__.partition(".")[0]
        if cls.__name__ == "Model" and package in _MODULES:
            return package
    return None


@functools.cache
def _engine(package) -> Engine:
    return importlib.import_module(_MODULES[package]).ENGINE
