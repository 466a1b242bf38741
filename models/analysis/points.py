"""Runs to points: what came out at a sparsity, over the seeds.

What is reported follows Blalock et al. 2020, "What is the State of Neural Network
Pruning?": how many runs are behind a point and how far they spread, compression and
theoretical speed-up, and quality beside that of a dense control.
"""

import math

import pandas as pd

from state_of_sparsity.models.runs.variants import DENSE, INCIDENTAL, order

# What a point has the median of, and with "_low" and "_high" the ends of their range.
FIGURES = (
    "quality",
    "sparsity",
    "flops_share",
    "training_flops_share",
    "compression",
    "speed_up",
)
_SAME = ("technique", "statistic", "model", "dataset", "metric")
_COUNTS = ("seed", "steps", "counted_weights", "parameters")
_QUALITY = {"top1": "top-1 accuracy (%)", "bleu": "BLEU"}


def quality_label(points: pd.DataFrame) -> str:
    """What quality is called along its axis."""
    metric = points.metric.iloc[0]
    return _QUALITY.get(metric, f"{metric} (%)")


def subject(points: pd.DataFrame) -> str:
    """What all points are of: the model and its data."""
    return f"{points.model.iloc[0]} on {points.dataset.iloc[0]}"


def summarize(runs: pd.DataFrame) -> pd.DataFrame:
    """The points of a comparison: dense ones first, then by variant and sparsity.

    Args:
      runs: of one network; see `finished_runs.of_one_network`.

    Returns:
      A table with a row for each variant and group of runs. Beside what these have in
      common it has their `FIGURES`, empty unless all runs have them; of a published
      mean, quality is that mean, and its range the standard deviation. Further columns:

        is_dense: whether it is a dense model.
        label: of a legend: the variant, marked if only some points are published.
        marked: whether it is.
        runs, failed_runs: how many in all.
        seeds, steps, counted_weights, parameters: tuples of all values.
        sources: of all runs, as text.
        differing: the flags in which the runs differ, apart from seed and places.
        quality_to_dense: quality minus that of the dense control, which is the dense
          point of as many steps, or the only one, published or not as the point itself;
          empty if there is no such control, and of dense points.
    """
    keys = ["published", "variant", "group"]
    is_mean = runs.statistic == "mean"
    # The table of means has the best of the same runs, too.
    has_mean = is_mean.groupby([runs[key] for key in keys]).transform("any")
    groups = runs[is_mean | ~has_mean].groupby(keys, sort=False)
    figures = groups[list(FIGURES)]
    points = pd.concat(
        [
            groups[list(_SAME)].first(),
            groups[["runs", "failed_runs"]].sum(),
            groups[list(_COUNTS)].agg(_all_of).rename(columns={"seed": "seeds"}),
            groups.source.agg(_all_texts).rename("sources"),
            groups["flags"].agg(_differing).rename("differing"),
            figures.median(skipna=False),
            figures.min(skipna=False).add_suffix("_low"),
            figures.max(skipna=False).add_suffix("_high"),
        ],
        axis=1,
    )
    # Known of published means, of which each is a row of its own.
    deviations = groups.deviation.max().fillna(0)
    points["quality_low"] -= deviations
    points["quality_high"] += deviations
    return _in_order(_beside_dense(points.reset_index()))


def _all_of(values):
    return tuple(sorted(values.dropna().astype(int).unique()))


def _all_texts(values):
    return tuple(sorted(set(map(str, values))))


def _differing(flags):
    names = {name for of_run in flags for name in of_run} - {*INCIDENTAL}
    return tuple(
        sorted(n for n in names if len({of_run.get(n) for of_run in flags}) > 1)
    )


def _beside_dense(points):
    """Dense models trained for different times are variants of their own."""
    points["is_dense"] = points.technique == DENSE
    dense = list(points[points.is_dense].itertuples())
    points["quality_to_dense"] = [_to_dense(p, dense) for p in points.itertuples()]
    alike = points.groupby(["published", "is_dense"]).variant.transform("size")
    texts = points.steps.map(
        lambda steps: f", {steps[0]:,} steps" if steps else ", steps unknown"
    )
    points["variant"] += texts.where(points.is_dense & (alike > 1), "")
    return points


def _to_dense(point, dense):
    candidates = [other for other in dense if other.published == point.published]
    if len(candidates) > 1:
        candidates = [other for other in candidates if other.steps == point.steps]
    if point.is_dense or len(candidates) != 1:
        return math.nan
    return point.quality - candidates[0].quality


def _in_order(points):
    points["marked"] = points.published & ~points.published.all()
    published = points.variant + " (published)"
    points["label"] = points.variant.mask(points.marked, published)
    rows = points[["is_dense", "published", "variant", "sparsity"]].iterrows()
    keys = {
        place: (not row.is_dense, row.published, *order(row.variant), row.sparsity)
        for place, row in rows
    }
    return points.loc[sorted(keys, key=keys.get)].reset_index(drop=True)
