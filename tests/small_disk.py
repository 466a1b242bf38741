"""A disk that is soon full."""

import contextlib
import subprocess

import pytest


@contextlib.contextmanager
def mounted(place, size):
    """A file system in memory, where the machine allows to mount one; else it skips.

    Args:
      place: folder that is made.
      size: as `mount` takes it, such as "1m".
    """
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted: {error}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)
