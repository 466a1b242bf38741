"""The lock of a run's folder: one process at a time trains there; others may read."""

import contextlib
import datetime
import os
import socket
from collections.abc import Iterator

import filelock

from state_of_sparsity.models.training.run_folder.folder import (
    LOCK,
    RunFolder,
    RunFolderError,
)


@contextlib.contextmanager
def held(folder: RunFolder) -> Iterator[None]:
    """Makes a run's folder and holds it; the lock ends with the process at the latest.

    If the folder is still empty afterwards, it is removed again.

    Raises:
      RunFolderError: if another process holds it, or another run of this one; or if the
        folder cannot be written.
    """
    path = folder.path / LOCK
    with folder.errors_of_writing():
        folder.path.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path, timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            holder = path.read_text(errors="replace") if path.exists() else ""
            raise RunFolderError(
                f"{folder.path} is being trained by {holder or 'another process'}: "
                "wait until that has ended, or choose another --output_dir."
            ) from error
        path.write_text(_holder())
    try:
        yield
    finally:
        # While it is held, so that nobody else's is removed.
        path.unlink(missing_ok=True)
        lock.release()
        with contextlib.suppress(OSError):
            folder.path.rmdir()


def _holder():
    now = datetime.datetime.now(datetime.UTC)
    return (
        f"process {os.getpid()} on {socket.gethostname()}, since {now:%Y-%m-%d %H:%M} "
        "UTC"
    )
