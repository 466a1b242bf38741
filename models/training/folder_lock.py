"""One process at a time trains in a run's folder; others may read."""

import contextlib
import datetime
import errno
import fcntl
import os
import pathlib
import socket
from collections.abc import Iterator

from state_of_sparsity.models.training.run_folder import (
    LOCK,
    RunFolder,
    RunFolderError,
)

# Of file systems that have no locks.
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def held(folder: RunFolder) -> Iterator[None]:
    """Makes a run's folder and holds it; the lock ends with the process at the latest.

    A folder that is still empty afterwards is removed again.

    Raises:
      RunFolderError: if another process holds it, or another run of this one; or if the
        folder cannot be written.
    """
    made: list[pathlib.Path] = []
    path = folder.path / LOCK
    try:
        with folder.errors_of_writing():
            file = _open_locked(path, made)
        try:
            yield
        finally:
            # While it is held, so that nobody else's is removed.
            path.unlink(missing_ok=True)
            # A forked process may have the file open, too.
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)
            os.close(file)
    finally:
        for place in reversed(made):
            with contextlib.suppress(OSError):
                place.rmdir()


def _open_locked(path, made):
    """The lock's file, open and held."""
    while True:
        _make(path.parent, made)
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            # Whoever had made the folder has removed it meanwhile.
            continue
        try:
            _lock(file, path)
            if _is_at(file, path):
                _write_holder(file)
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _make(folder, made):
    missing = [p for p in (folder, *folder.absolute().parents) if not p.exists()]
    for place in reversed(missing):
        with contextlib.suppress(FileExistsError):
            place.mkdir()
            made.append(place)


def _lock(file, path):
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(file, 1000, 0).decode("utf-8", "replace").strip()
        raise RunFolderError(
            f"{path.parent} is being trained by {holder or 'another process'}: wait "
            "until that has ended, or choose another --output_dir."
        ) from error
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        print(
            f"warning: {path.parent} cannot be locked ({error.strerror}): see to it "
            "that no other process trains there."
        )


def _is_at(file, path):
    """Whether the open file is still the one at a path, which its holder removes."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    own = os.fstat(file)
    return (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino)


def _write_holder(file):
    now = datetime.datetime.now(datetime.UTC)
    text = (
        f"process {os.getpid()} on {socket.gethostname()}, since {now:%Y-%m-%d %H:%M} "
        "UTC"
    )
    # It is for a message only: a disk that is full is told of when it matters.
    with contextlib.suppress(OSError):
        os.ftruncate(file, 0)
        os.pwrite(file, text.encode(), 0)
