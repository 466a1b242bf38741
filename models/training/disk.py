"""Disks that are full: what is said of them."""

import contextlib
import errno
import os
from collections.abc import Iterator

_FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskFullError(Exception):
    """There is no room left for what a run writes; the message names its folder."""


def is_full(error: BaseException) -> bool:
    """Whether an error of Python's or of TensorFlow's is of a full disk or quota.

    TensorFlow has one error for disks that are full and for a lack of memory. It is
    told by its text, since folders are read without TensorFlow, too.
    """
    if isinstance(error, OSError):
        return error.errno in _FULL
    if not type(error).__module__.startswith("tensorflow."):
        return False
    return any(os.strerror(number) in str(error) for number in _FULL)


@contextlib.contextmanager
def full_disk_named(folder: str | os.PathLike) -> Iterator[None]:
    """Raises DiskFullError where something within has no room left.

    Args:
      folder: that is written into.
    """
    try:
        yield
    except Exception as error:
        if not is_full(error):
            raise
        raise DiskFullError(
            f"there is no room left on the disk of {folder}. What was saved before is "
            "kept: make room, and run the same command again to go on."
        ) from error
