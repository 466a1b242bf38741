"""Errors in what the user gave: one message, without a traceback."""

import contextlib
from collections.abc import Iterator


class UsageError(Exception):
    """What was given does not go together; the message says why."""


@contextlib.contextmanager
def usage_errors(flag: str = "") -> Iterator[None]:
    """Raises UsageError for errors in what the user passed.

    Args:
      flag: what they passed, if what goes wrong has to do with one flag only.
    """
    try:
        yield
    except (TypeError, ValueError, OSError) as error:
        raise UsageError(f"{flag}: {error}" if flag else str(error)) from error
