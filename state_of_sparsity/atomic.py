"""Files and folders that appear complete or not at all."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a path of the same name to write to, in a folder that is empty.

    At the end, all that is in that folder replaces what is of the same names beside
    `path`. After an exception or an interrupt everything there is as it was.

    Args:
      path: a file or folder; folders above it are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}-"
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix) as folder:
        new, old = pathlib.Path(folder, "new"), pathlib.Path(folder, "old")
        new.mkdir()
        old.mkdir()
        yield new / path.name
        _move(new, old, path)


def _move(new: pathlib.Path, old: pathlib.Path, path: pathlib.Path) -> None:
    # The file at `path` comes last: whoever finds it finds all that it needs.
    names = sorted(os.listdir(new), key=path.name.__eq__)
    try:
        for name in names:
            if path.with_name(name).exists():
                path.with_name(name).rename(old / name)
            (new / name).rename(path.with_name(name))
    except BaseException:
        for name in names:
            if not (new / name).exists():
                path.with_name(name).rename(new / name)
            if (old / name).exists():
                (old / name).rename(path.with_name(name))
        raise
