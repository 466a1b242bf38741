"""Ctrl-C and SIGTERM, which end a run in order, wherever they come."""

import contextlib
import signal
import sys
from collections.abc import Iterator

# Seconds after which an interruption that Python has dropped comes again.
_AGAIN = 0.1


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within, SIGTERM raises KeyboardInterrupt as Ctrl-C does, and neither is lost.

    Python drops what is raised in a callback of the garbage collection, of which JAX
    has one, in `__del__` and the like. An interruption that was dropped there comes
    again until it is raised where it can be handled.
    """
    handlers = {
        signum: signal.signal(signum, signal.default_int_handler)
        for signum in (signal.SIGTERM, signal.SIGALRM)
    }
    otherwise = sys.unraisablehook

    def again(dropped):
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
        else:
            otherwise(dropped)

    sys.unraisablehook = again
    try:
        yield
    finally:
        left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = otherwise
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
        if left:
            raise KeyboardInterrupt
