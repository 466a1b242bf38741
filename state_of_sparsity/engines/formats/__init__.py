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


def check(name: str, own: str, **options) -> str:
    """Who can write a format with some options.

    Args:
      name: of the format.
      own: who writes what is written here: "tf_keras", or the backend of Keras 3.
      options: by name; None is as if it were not given.

    Returns:
      `own` if it has the format, else an installed backend of Keras 3 that has it.

    Raises:
      ValueError: for an unknown format, one that nobody installed has, and options or
        values that the format does not have.
      ImportError: if a package for it is missing, naming it.
    """
    if name not in FORMATS:
        known = ", ".join(FORMATS)
        raise ValueError(f"The format has to be one of {known}. Received: {name!r}")
    format = FORMATS[name]
    writer = _writer(format, own)
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
    return writer


def check_packages(name: str, *packages: str) -> None:
    """Raises ImportError for packages that are missing to write a format."""
    if missing := _missing(packages):
        raise ImportError(f"For {name} files, run `pip install {' '.join(missing)}`.")


def check_suffix(path: pathlib.Path, name: str) -> None:
    """Raises ValueError for a path with another suffix than the format's."""
    suffix = FORMATS[name].suffix
    if not path.name.endswith(suffix):
        raise ValueError(f"The path has to end in {suffix!r}. Received: {str(path)!r}")


def write(
    model, path: str | os.PathLike, name: str, expected: list | None = None, **options
) -> bool:
    """Writes a plain model, complete or not at all, and reads it back.

    What is at the path, and further files of the same names beside it, are replaced.

    Args:
      model: a built model of plain layers, of one argument: sequential, functional, or
        subclassed and called once. The latter takes inputs of the model's dtype, whose
        lengths but the batch's are those of that call.
      path: with the suffix of the format.
      name: of a format that has passed `check`.
      expected: what `reading_back.outputs` gives for the model, if not here.
      options: as of `check`.

    Returns:
      False if the file was run and gives other outputs, without options that round
      them.

    Raises:
      ValueError, RuntimeError: as `Format.write`, for another suffix, and for a file
        that does not compute what the model does; see `reading_back.check`.
    """
    path, format = pathlib.Path(path), FORMATS[name]
    check_suffix(path, name)
    given = _given(options)
    with atomic.replacing(path) as new:
        format.write(model, new, **given)
        if expected is None:
            expected = reading_back.outputs(model)
        is_same = reading_back.check(format, model, new, expected)
    return is_same or bool(given)


def _given(options):
    return {name: value for name, value in options.items() if value is not None}


def _missing(packages):
    return [package for package in packages if not importlib.util.find_spec(package)]


def _writer(format, own):
    """Whom `check` returns: of several backends, one of which no package is missing."""
    if own in format.packages:
        return own
    theirs = " or ".join(f.name for f in FORMATS.values() if own in f.packages)
    received = f"Received: format={format.name!r}"
    if own == "tf_keras":
        raise ValueError(
            f"tf_keras models are exported as {theirs}: build the model with Keras 3 "
            f"for other formats. {received}"
        )
    backends = [name for name in format.packages if name != "tf_keras"]
    installed = [name for name in backends if not _missing([name])]
    if not installed:
        raise ValueError(
            f"The {own} backend can write {theirs}. For {format.name}, install "
            f"{' or '.join(backends)}, too, under which another process then writes "
            f"it. {received}"
        )
    return min(installed, key=lambda name: len(_missing(format.packages[name])))
