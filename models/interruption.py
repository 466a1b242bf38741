"""Ctrl-C and SIGTERM, which end a run in order, wherever they come."""

import contextlib
import random
import signal
import sys
from collections.abc import Callable, Iterator

# Seconds after which an interruption that was dropped comes again, at most: by chance,
# since what drops it, as garbage collection in each step, may have its period, too.
_AGAIN = 0.1
_chance = random.Random()


class _Interruption(KeyboardInterrupt):
    """Calls `dropped` as soon as nothing handles it and nothing raises it any more."""

    def __init__(self, dropped: Callable[[], None]):
        super().__init__()
        self._dropped = dropped

    def __del__(self):
        self._dropped()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within, SIGTERM raises KeyboardInterrupt as Ctrl-C does, and neither is lost.

    Python drops what is raised in a callback of the garbage collection, of which JAX
    has one, in `__del__` and the like, and TensorFlow what is raised in some of the
    functions that it calls from C++. An interruption that was dropped comes again until
    it ends what is within, if need be as the error that it became on its way.
    """
    came, is_open, otherwise = False, True, sys.unraisablehook

    def again():
        if is_open:
            # Of zero seconds, it would never come.
            seconds = _chance.uniform(0.001, _AGAIN)
            signal.setitimer(signal.ITIMER_REAL, seconds)

    def interrupt(signum, frame):
        nonlocal came
        came = True
        raise _Interruption(again)

    def show(dropped):
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            otherwise(dropped)

    handlers = {
        signum: signal.signal(signum, interrupt)
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
        # As of a command in the background of a script.
        if signal.getsignal(signum) != signal.SIG_IGN
    }
    sys.unraisablehook = show
    try:
        yield
    except Exception:
        if not came:
            raise
    finally:
        is_open = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = otherwise
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
    if came:
        raise KeyboardInterrupt


@contextlib.contextmanager
def between_steps() -> Iterator[Callable[[], None]]:
    """Within, an interruption waits until what this yields is called, or for the end.

    Where TensorFlow's C++ code has called Python, what a signal raises may end the
    process in a crash, and with it what was trained since the last checkpoint. A second
    signal does not wait.
    """
    came = False

    def note(signum, frame):
        nonlocal came
        if came:
            handlers[signum](signum, frame)
        came = True

    def interrupt():
        if came:
            raise KeyboardInterrupt

    handlers = {
        signum: signal.signal(signum, note)
        for signum in (signal.SIGINT, signal.SIGTERM)
        if callable(signal.getsignal(signum))
    }
    try:
        yield interrupt
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
    interrupt()
