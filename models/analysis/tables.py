"""The table of a comparison, to read and to reckon with."""

import math

import pandas as pd

from state_of_sparsity.models.analysis.points import FIGURES, quality_label

NOTHING = "-"
_POINT = ["variant", "published", "statistic", "runs", "failed_runs", "seeds", "steps"]
_SPREADS = [name + end for name in FIGURES for end in ("", "_low", "_high")]
_CSV = [*_POINT, *_SPREADS, "quality_to_dense"]


def to_csv(points: pd.DataFrame) -> str:
    """The table as text with commas: a row per point, shares as fractions.

    Quality is an accuracy in percent, or BLEU. What is not known is empty.

    Args:
      points: of `summarize`.
    """
    is_median = points.statistic.eq("run") & (points.runs > 1)
    table = points.assign(
        statistic=points.statistic.mask(is_median, "median"),
        seeds=points.seeds.map(_spaced),
        steps=points.steps.map(_spaced),
    )
    return table[_CSV].to_csv(index=False, float_format="%.6g", lineterminator="\n")


def _spaced(numbers):
    return " ".join(map(str, numbers))


def readable(points: pd.DataFrame) -> pd.DataFrame:
    """The table for readers, as text.

    Columns of which nothing is known, as of published tables, are left out.

    Args:
      points: of `summarize`.
    """
    rows = list(points.itertuples())
    texts = pd.DataFrame(
        {
            "technique": points.label,
            "sparsity": _known(points.sparsity, _percent),
            "runs": [_runs(point) for point in rows],
            "seeds": points.seeds.map(_listed),
            "steps": points.steps.map(_listed),
            quality_label(points): [_quality(point) for point in rows],
            "to dense": _known(points.quality_to_dense, "{:+.2f}".format),
            "compression": _known(points.compression, "{:.2f}x".format),
            "speed-up": _known(points.speed_up, "{:.2f}x".format),
            "FLOPs": _known(points.flops_share, _percent),
            "training FLOPs": _known(points.training_flops_share, _percent),
        }
    )
    return texts.loc[:, (texts != NOTHING).any()]


def _known(numbers, text):
    return [NOTHING if math.isnan(number) else text(number) for number in numbers]


def _percent(share):
    return f"{100 * share:.2f} %"


def _listed(numbers):
    return ", ".join(f"{number:,}" for number in numbers) or NOTHING


def _runs(point):
    failed = f" ({point.failed_runs} failed)" if point.failed_runs else ""
    return f"{point.runs}{failed}"


def _quality(point):
    middle = f"{point.quality:.2f}"
    if point.statistic == "best":
        return f"{middle} best"
    if point.statistic == "mean":
        return f"{middle} ± {point.quality_high - point.quality:.2f}"
    if point.runs == 1:
        return middle
    return f"{middle} ({point.quality_low:.2f} to {point.quality_high:.2f})"


def to_markdown(points: pd.DataFrame) -> str:
    """The table and the notes to it, in Markdown."""
    texts = readable(points).map(lambda text: text.replace("|", "\\|"))
    table = texts.to_markdown(index=False, tablefmt="github", disable_numparse=True)
    return "\n".join([table, "", *(f"- {note}" for note in notes(points)), ""])


def notes(points: pd.DataFrame) -> list[str]:
    """What a reader of the table has to know: how its figures are meant."""
    found = [
        "Quality is of the deployed model on the test split: the median of the runs, "
        "in parentheses the lowest and the highest."
    ]
    if (points.statistic == "mean").any():
        found.append("With ±: the published mean and standard deviation of the runs.")
    if (points.statistic == "best").any():
        found.append("With “best”: the best published run of those that were tried.")
    found += _of_denominators(points)
    if points.flops_share.notna().any():
        found.append(
            "Compression is all parameters over those that are not zero. Speed-up is "
            "theoretical: FLOPs of inference of the dense model over those with the "
            "zeros skipped. Where whole channels, inputs or heads are masked, what is "
            "left is the smaller model. FLOPs and training FLOPs are shares of a dense "
            "model's, in training for as many steps."
        )
    if points.quality_to_dense.notna().any():
        found.append(
            "“To dense” is the difference to the dense model of as many steps, or to "
            "the only one, in points; published to published."
        )
    return found + [
        f"The runs of {point.variant} at {_percent(point.sparsity)} "
        f"differ in --{', --'.join(point.differing)}."
        for point in points.itertuples()
        if point.differing
    ]


def _of_denominators(points):
    counted, parameters = _or(points.counted_weights), _or(points.parameters)
    if counted:
        yield (
            f"Sparsity is over the {counted} weights that could be made sparse, "
            f"those that were left dense included, of {parameters} parameters."
        )
    if points.published.any():
        yield "Published sparsities are over what the paper counts."
        if points.metric[0] == "bleu":
            yield (
                "Published BLEU is that of evaluate_transformer "
                "--bleu=tokenized_compound_split, and that of our runs sacreBLEU's."
            )


def _or(counts):
    return " or ".join(f"{n:,}" for n in sorted(set().union(*counts)))
