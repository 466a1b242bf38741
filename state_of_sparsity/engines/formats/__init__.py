"""Formats of files for inference, a module each.

A module has one class that derives from `base.Format`. Nothing else names it.
"""

import importlib
import importlib.util
import os
import pathlib
import pkgutil

from state_of_sparsity import atomic
from state_of_sparsity.engines import reading_back
from state_of_sparsity.engines.formats.base import Format

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

FORMATS: dict[str, Format] = {cls.name: cls() for cls in Format.__subclasses__()}


def check(name: str, writer: str, **options) -> None:
    """Raises unless a format can be written here with some options.

    Args:
      name: of the format.
      writer: who writes it: "tf_keras", or the backend of Keras 3.
      options: by name; None is as if it were not given.

    Raises:
      ValueError: for an unknown format, one that the writer does not have, and options
        or values that the format does not have.
      ImportError: if a package for it is missing, naming it.
    """
    if name not in FORMATS:
        known = ", ".join(FORMATS)
        raise ValueError(f"The format has to be one of {known}. Received: {name!r}")
    format = FORMATS[name]
    if writer not in format.packages:
        raise ValueError(f"{_other_way(format, writer)} Received: format={name!r}")
    given = _given(options)
    for option in given.keys() - set(format.options()):
        known = ", ".join(format.options()) or "none"
        theirs = [f.name for f in FORMATS.values() if option in f.options()]
        advice = f"; {option} is for format={theirs[0]!r}" if theirs else ""
        raise ValueError(
            f"Format {name!r} has no option {option} (it has {known}){advice}. "
            f"Received: {option}={given[option]!r}"
        )
    format.check(**given)
    check_packages(name, *format.packages[writer])


def check_packages(name: str, *packages: str) -> None:
    """Raises ImportError for packages that are missing to write a format."""
    missing = [package for package in packages if not importlib.util.find_spec(package)]
    if missing:
        raise ImportError(f"For {name} files, run `pip install {' '.join(missing)}`.")


def write(model, path: str | os.PathLike, name: str, **options) -> None:
    """Writes a plain model, complete or not at all, and reads it back.

    What is at the path, and further files of the same names beside it, are replaced.

    Args:
      model: a built model of plain layers, of one argument: sequential, functional, or
        subclassed and called once. The latter takes inputs of the model's dtype, whose
        lengths but the batch's are those of that call.
      path: with the suffix of the format.
      name: of a format that has passed `check`.
      options: likewise.

    Raises:
      ValueError, RuntimeError: as `Format.write`, for another suffix, and for a file
        that does not compute what the model does; see `reading_back.check`.
    """
    path, format = pathlib.Path(path), FORMATS[name]
    if not path.name.endswith(format.suffix):
        raise ValueError(
            f"The path has to end in {format.suffix!r}. Received: {str(path)!r}"
        )
    given = _given(options)
    with atomic.replacing(path) as new:
        format.write(model, new, **given)
        reading_back.check(format, model, new, exact=not given)


def _given(options):
    return {name: value for name, value in options.items() if value is not None}


def _other_way(format, writer):
    own = [f.name for f in FORMATS.values() if writer in f.packages]
    if writer == "tf_keras":
        return (
            f"tf_keras models are exported as {' or '.join(own)}: build the model with "
            "Keras 3 for other formats."
        )
    backends = [name for name in format.packages if name != "tf_keras"]
    return (
        f"The {writer} backend can write {', '.join(own) or 'no format'}. For "
        f"{format.name}, save the model as `.keras` and load it under KERAS_BACKEND="
        f"{' or '.join(backends)}."
    )
