"""Times of things that take turns in one process, as the benchmarks print them."""

import statistics
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


def print_ratios(times: dict[str, list[float]]) -> None:
    """Prints the medians, and those of all others over that of the first."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    first, *others = times
    for name, value in medians.items():
        print(f"{name:<20}{1000 * value:10.1f} ms")
    for name in others:
        rounds = zip(times[name], times[first], strict=True)
        by_round = statistics.median(time / base for time, base in rounds)
        ratio = medians[name] / medians[first]
        print(f"{name} / {first}: {ratio:.3f}, by round {by_round:.3f}")
