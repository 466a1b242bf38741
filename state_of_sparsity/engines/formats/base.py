"""Interface of a format of files for inference."""

import abc
import inspect
import pathlib
from collections.abc import Mapping
from typing import ClassVar

import keras
import numpy as np


def fed(given: list[str], inputs, names: Mapping) -> dict:
    """The inputs of a file by the names that it gives them.

    Args:
      given: these names.
      inputs: as of `Format.run`.
      names: likewise; where the file has others, the order counts.

    Raises:
      ValueError: if the file takes another number of inputs.
    """
    values = keras.tree.flatten(inputs)
    if len(given) != len(values):
        raise ValueError(f"it takes {len(given)} inputs: {given}")
    if set(given) <= names.keys():
        return {name: names[name] for name in given}
    return dict(zip(given, values, strict=True))


class Format(abc.ABC):
    """A kind of file, or folder, that plain models are written to.

    Its options are the further arguments of `write`; None stands for one not given.

    Attributes:
      name: by which users ask for it.
      suffix: of paths; empty for a folder.
      packages: what it takes besides the Keras, by who can write it: "tf_keras", or a
        backend of Keras 3.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    packages: ClassVar[Mapping[str, tuple[str, ...]]]

    @abc.abstractmethod
    def write(self, model, path: pathlib.Path) -> None:
        """Writes the inference of a model.

        Args:
          model: a built model of plain layers, of one argument.
          path: in a folder that is empty, in which further files are kept, too.

        Raises:
          ValueError: for a model that would not be written as it is.
          RuntimeError: if the model cannot be expressed.
        """

    @classmethod
    def options(cls) -> list[str]:
        """The names of the options."""
        return list(inspect.signature(cls.write).parameters)[3:]

    @abc.abstractmethod
    def run(self, path: pathlib.Path, inputs, names: Mapping) -> list[np.ndarray]:
        """The outputs of a file in its runtime.

        Args:
          path: of the file.
          inputs: arrays in the structure that the model takes.
          names: those of the same arrays that have a name, by it.

        Raises:
          ImportError: if the runtime is not installed.
          Exception: whatever keeps the runtime from computing them.
        """

    def check(self, **options) -> None:  # noqa: B027
        """Raises ValueError for values that the options cannot have."""
