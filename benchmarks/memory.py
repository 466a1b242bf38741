"""The most memory that a process has taken."""

import pathlib
import resource
import sys

_STATUS = pathlib.Path("/proc/self/status")


def peak() -> float:
    """The most MiB of this process so far.

    What Linux says of a process that another one started by `getrusage` begins with the
    memory of that other one: `/proc` does not.
    """
    if _STATUS.exists():
        for line in _STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
