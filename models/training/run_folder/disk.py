"""Disks that are full."""

import errno
import os

_FULL = (errno.ENOSPC, errno.EDQUOT)


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
