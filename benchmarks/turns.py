"""Times of things that take turns in one process."""

import time
from collections.abc import Callable


def take_turns(
    jobs: dict[str, Callable], rounds: int, calls: int = 1
) -> dict[str, list[float]]:
    """Seconds per call of each job in each round.

    Whatever else the machine does hits all jobs alike.

    Args:
      jobs: by name; each takes no arguments.
      rounds: how often all of them take a turn.
      calls: of a job in a turn.
    """
    times = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            begin = time.perf_counter()
            for _ in range(calls):
                job()
            times[name].append((time.perf_counter() - begin) / calls)
    return times
