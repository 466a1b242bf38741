"""The table of a comparison, to read and to reckon with."""

import csv
import io
from collections.abc import Callable, Sequence

from state_of_sparsity.models.analysis.axes import line_name, quality_label
from state_of_sparsity.models.analysis.record import Statistic
from state_of_sparsity.models.analysis.summary import Point, Spread

_NOTHING = "-"
# Columns of the CSV that are spreads: of which figure of the records.
_SPREADS = (
    "sparsity",
    "flops_share",
    "training_flops_share",
    "compression",
    "speed_up",
)
_CSV = (
    "variant",
    "published",
    "statistic",
    "runs",
    "failed_runs",
    "seeds",
    "steps",
    "quality",
    "quality_low",
    "quality_high",
    "quality_to_dense",
    *(f"{name}{end}" for name in _SPREADS for end in ("", "_low", "_high")),
)


def to_csv(points: Sequence[Point]) -> str:
    """The table as text with commas: a row per point, shares as fractions.

    Quality is an accuracy in percent, or BLEU. What is not known is empty.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, _CSV, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_csv_row(point) for point in points)
    return text.getvalue()


def _csv_row(point):
    row = {
        "variant": point.variant,
        "published": point.published,
        "statistic": _statistic(point),
        "runs": point.runs,
        "failed_runs": point.failed_runs,
        "seeds": " ".join(map(str, point.seeds)),
        "steps": " ".join(map(str, point.steps)),
        **_columns("quality", point.quality),
        "quality_to_dense": _number(point.to_dense),
    }
    for name in _SPREADS:
        row |= _columns(name, point.spread(name))
    return row


def _columns(name, spread):
    values = (spread.median, spread.low, spread.high) if spread else (None,) * 3
    return {
        f"{name}{end}": _number(value)
        for end, value in zip(("", "_low", "_high"), values, strict=True)
    }


def _number(value):
    return "" if value is None else f"{value:.6g}"


def _statistic(point):
    """What the quality of a point is, in a word."""
    if point.statistic is Statistic.RUN:
        return "median" if point.runs > 1 else "run"
    return {Statistic.BEST: "best", Statistic.MEAN: "mean"}[point.statistic]


def columns(points: Sequence[Point]) -> dict[str, list[tuple[str, object]]]:
    """The table for readers.

    Returns:
      By the heading of a column, a pair for each point: the text of its cell, and by
      what it is sorted, a number or a text; None where it is empty.
    """
    names = {
        "technique": lambda p: (line_name(p, points),) * 2,
        "sparsity": lambda p: _cell(p.spread("sparsity"), _percent),
        "runs": lambda p: (_runs(p), p.runs),
        "seeds": lambda p: _list(p.seeds),
        "steps": lambda p: _list(p.steps),
        quality_label(points[0].records[0].metric): _quality,
        "to dense": lambda p: _optional(p.to_dense, "{:+.2f}"),
        "compression": lambda p: _cell(p.spread("compression"), _times),
        "speed-up": lambda p: _cell(p.spread("speed_up"), _times),
        "FLOPs": lambda p: _cell(p.spread("flops_share"), _percent),
        "training FLOPs": lambda p: _cell(p.spread("training_flops_share"), _percent),
    }
    found = {name: [make(point) for point in points] for name, make in names.items()}
    # Published tables leave most of them empty.
    return {n: cells for n, cells in found.items() if {c[1] for c in cells} != {None}}


def _cell(spread: Spread | None, text: Callable[[float], str]):
    return (_NOTHING, None) if spread is None else (text(spread.median), spread.median)


def _percent(share):
    return f"{100 * share:.2f} %"


def _times(factor):
    return f"{factor:.2f}x"


def _optional(value, text):
    return (_NOTHING, None) if value is None else (text.format(value), value)


def _runs(point):
    return (
        f"{point.runs} ({point.failed_runs} failed)"
        if point.failed_runs
        else str(point.runs)
    )


def _list(numbers):
    if not numbers:
        return _NOTHING, None
    return ", ".join(f"{number:,}" for number in numbers), numbers[0]


def _quality(point):
    spread = point.quality
    middle = f"{spread.median:.2f}"
    if point.statistic is Statistic.BEST:
        return f"{middle} best", spread.median
    if point.statistic is Statistic.MEAN:
        return f"{middle} ± {spread.high - spread.median:.2f}", spread.median
    if point.runs == 1:
        return middle, spread.median
    return f"{middle} ({spread.low:.2f} to {spread.high:.2f})", spread.median


def to_markdown(points: Sequence[Point]) -> str:
    """The table and the notes to it, in Markdown."""
    table = columns(points)
    rows = [list(table), ["---"] * len(table)]
    rows += zip(*([text for text, _ in cells] for cells in table.values()), strict=True)
    lines = [f"| {' | '.join(map(_escaped, row))} |" for row in rows]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes(points)), ""])


def _escaped(text):
    return text.replace("|", "\\|")


def notes(points: Sequence[Point]) -> list[str]:
    """What a reader of the table has to know: how its figures are meant."""
    found = [
        "Quality is of the deployed model on the test split: the median of the runs, "
        "in parentheses the lowest and the highest."
    ]
    statistics = {point.statistic for point in points}
    if Statistic.MEAN in statistics:
        found.append("With ±: the published mean and standard deviation of the runs.")
    if Statistic.BEST in statistics:
        found.append("With “best”: the best published run of those that were tried.")
    found += _of_denominators(points)
    if any(point.spread("flops_share") for point in points):
        found.append(
            "Compression is all parameters over those that are not zero. Speed-up is "
            "theoretical: FLOPs of inference of the dense model over those with the "
            "zeros skipped. FLOPs and training FLOPs are shares of a dense model's, in "
            "training for as many steps."
        )
    if any(point.to_dense is not None for point in points):
        found.append(
            "“To dense” is the difference to the dense model of as many steps, or to "
            "the only one, in points; published to published."
        )
    return found + _of_differing(points)


def _of_denominators(points):
    records = [record for point in points for record in point.records]
    counted = {r.counted_weights for r in records if r.counted_weights is not None}
    parameters = {r.parameters for r in records if r.parameters is not None}
    notes_ = []
    if counted:
        notes_.append(
            f"Sparsity is over the {_or(counted)} weights that could be made sparse, "
            f"those that were left dense included, of {_or(parameters)} parameters."
        )
    if any(point.published for point in points):
        notes_.append("Published sparsities are over what the paper counts.")
        if points[0].records[0].metric == "bleu":
            notes_.append(
                "Published BLEU is that of evaluate_transformer "
                "--bleu=tokenized_compound_split, and that of our runs sacreBLEU's."
            )
    return notes_


def _or(numbers):
    return " or ".join(f"{number:,}" for number in sorted(numbers))


def _of_differing(points):
    return [
        f"The runs of {point.variant} at {_percent(point.spread('sparsity').median)} "
        f"differ in --{', --'.join(point.differing)}."
        for point in points
        if point.differing
    ]
