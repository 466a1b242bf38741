"""Threads that help with programs, and sleep when there are none for a while."""

import threading
import weakref

import numpy as np

from state_of_sparsity.runtime import kernels

# How often a thread looks for a program before it sleeps: some ten microseconds, what
# ONNX Runtime may take between two programs, and no longer than it would miss the core.
_LOOKS = 1000


class Team:
    """The calling thread and some that help it, from the first program on.

    Args:
      threads: how many they are together, at least 1.
    """

    def __init__(self, threads: int):
        self.threads = threads
        self._enter = None
        self._control = np.zeros(kernels.CONTROL_WORDS, np.int64)
        self._address = self._control.ctypes.data if threads > 1 else 0
        self._helpers = threads - 1
        self._wake = threading.Semaphore(0)

    def run(self, address: int) -> None:
        """Runs a program, with the help of whoever is awake by then."""
        if self._enter is None:
            self._start()
        asleep = self._helpers - self._control[kernels.WATCHING]
        if asleep > 0:
            self._wake.release(int(asleep))
        self._enter(self._address, address, 0, 0)

    def _start(self) -> None:
        self._enter = kernels.compiled()
        for member in range(1, 1 + self._helpers):
            arguments = (self._enter, self._control, self._wake, member)
            threading.Thread(target=_help, args=arguments, daemon=True).start()
        weakref.finalize(self, _stop, self._control, self._wake, self._helpers)


def _help(enter, control, wake, member) -> None:
    while True:
        wake.acquire()
        if control[kernels.STOP]:
            return
        enter(control.ctypes.data, 0, member, _LOOKS)


def _stop(control, wake, helpers) -> None:
    control[kernels.STOP] = 1
    for _ in range(helpers):
        wake.release()
