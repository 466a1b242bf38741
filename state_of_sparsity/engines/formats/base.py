"""Interface of a format of files for inference."""

import abc
import inspect
import pathlib
from collections.abc import Mapping
from typing import ClassVar


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

    def check(self, **options) -> None:  # noqa: B027
        """Raises ValueError for values that the options cannot have."""
