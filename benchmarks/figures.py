"""The figures that a benchmark measured, printed and written as JSON."""

import dataclasses
import json
import pathlib
import statistics

from absl import flags

_JSON = flags.DEFINE_string("json", None, "File to write the figures to, too.")


@dataclasses.dataclass(frozen=True)
class Figure:
    """One figure.

    Args:
      case: what was measured, such as "variational_dropout".
      quantity: what of it, with its unit, such as "ms" or "over dense".
      value: in that unit.
    """

    case: str
    quantity: str
    value: float


def of_times(times: dict[str, list[float]]) -> list[Figure]:
    """Medians of seconds, and those of all others over that of the first.

    A ratio is the median of the ratios of the rounds.

    Args:
      times: as `turns.take_turns` returns them.
    """
    first = next(iter(times))
    found = []
    for name, values in times.items():
        found.append(Figure(name, "ms", 1000 * statistics.median(values)))
        if name != first:
            rounds = zip(values, times[first], strict=True)
            ratio = statistics.median(time / base for time, base in rounds)
            found.append(Figure(name, f"over {first}", ratio))
    return found


def as_text(value: float) -> str:
    """A value with three digits behind the point, fewer where there are many before."""
    return f"{value:,.{max(0, 4 - len(str(int(abs(value)))))}f}"


def publish(found: list[Figure]) -> None:
    """Prints the figures, and writes them where `--json` says."""
    wide = max(len(figure.case) for figure in found)
    for figure in found:
        print(f"{figure.case:<{wide}}  {as_text(figure.value):>10} {figure.quantity}")
    if _JSON.value:
        text = json.dumps([dataclasses.asdict(figure) for figure in found], indent=2)
        pathlib.Path(_JSON.value).write_text(text + "\n", encoding="utf-8")
