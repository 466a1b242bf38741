"""Runs to points: what came out at a sparsity, over the seeds.

What is reported follows Blalock et al. 2020, "What is the State of Neural Network
Pruning?": how many runs are behind a point and how far they spread, compression and
theoretical speed-up, and quality beside that of a dense control.
"""

import collections
import dataclasses
import statistics
from collections.abc import Iterable, Sequence

from state_of_sparsity.models.analysis.record import Record, Statistic
from state_of_sparsity.models.analysis.variants import DENSE, INCIDENTAL, order


@dataclasses.dataclass(frozen=True)
class Spread:
    """The middle of some figures, and the lowest and the highest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Spread | None":
        """That of values; None unless all are known."""
        values = list(values)
        if None in values:
            return None
        return cls(statistics.median(values), min(values), max(values))


@dataclasses.dataclass(frozen=True)
class Point:
    """Runs of one variant at one sparsity.

    Attributes:
      variant: what was tried; see `variants.variant`.
      records: the runs.
      quality: of the runs; of a published mean, that mean, minus and plus the standard
        deviation.
      to_dense: quality minus that of the dense control, which is the dense point of as
        many steps, or the only one, published or not as the point itself; None if there
        is no such control, and of dense points.
    """

    variant: str
    records: tuple[Record, ...]
    quality: Spread
    to_dense: float | None = None

    @property
    def is_dense(self) -> bool:
        return self.records[0].technique == DENSE

    @property
    def published(self) -> bool:
        return self.records[0].published

    @property
    def statistic(self) -> Statistic:
        return self.records[0].statistic

    @property
    def runs(self) -> int:
        return sum(record.runs for record in self.records)

    @property
    def failed_runs(self) -> int:
        return sum(record.failed_runs for record in self.records)

    @property
    def seeds(self) -> list[int]:
        return sorted({r.seed for r in self.records if r.seed is not None})

    @property
    def steps(self) -> list[int]:
        """Numbers of training steps, one unless runs differ in it."""
        return sorted({r.steps for r in self.records if r.steps is not None})

    @property
    def differing(self) -> list[str]:
        """The flags in which the runs differ, apart from seed and places."""
        names = {name for record in self.records for name in record.flags}
        return sorted(
            name
            for name in names.difference(INCIDENTAL)
            if len({record.flags.get(name) for record in self.records}) > 1
        )

    def spread(self, name: str) -> Spread | None:
        """That of a figure of the records, such as "sparsity"; None if not all have it.

        Args:
          name: of an attribute of `Record`.
        """
        return Spread.of(getattr(record, name) for record in self.records)


def of_one_network(
    records: Sequence[Record], dataset: str | None = None, model: str | None = None
) -> list[Record]:
    """The records of a dataset and a model, which can be compared.

    Args:
      records: of any.
      dataset: that is chosen; None if there is one only.
      model: likewise.

    Raises:
      ValueError: if no record is left, or records of two datasets, models or measures
        of quality; with a list of what there is.
    """
    chosen = [
        record
        for record in records
        if dataset in (None, record.dataset) and model in (None, record.model)
    ]
    networks = _counts(chosen, lambda r: (r.dataset, r.model, r.metric))
    if not networks:
        raise ValueError(
            f"There is no finished run of --dataset={dataset or 'any'} --model="
            f"{model or 'any'}. There are:\n{_listed(records)}"
        )
    if len(networks) > 1:
        raise ValueError(
            "There are two datasets, models or measures of quality in one plot: choose "
            f"with --dataset, --model, or fewer folders. There are:\n{_listed(chosen)}"
        )
    # Published networks do not say theirs.
    sizes = _counts([r for r in chosen if r.flops is not None], lambda r: r.flops)
    if len(sizes) > 1:
        listed = "\n".join(f"  {n:,} FLOPs: {count}" for n, count in sizes.items())
        raise ValueError(
            "There are networks of several sizes in one plot: give the folders of one. "
            f"By operations of the dense model, there are these runs:\n{listed}"
        )
    return chosen


def _counts(records, key):
    return collections.Counter(map(key, records))


def _listed(records):
    networks = _counts(records, lambda r: (r.dataset, r.model, r.metric))
    return "\n".join(
        f"  --dataset={dataset} --model={model} ({metric}): {count}"
        for (dataset, model, metric), count in networks.items()
    )


def summarize(records: Sequence[Record]) -> list[Point]:
    """The points of a comparison: dense ones first, then by variant and sparsity.

    Args:
      records: of one network; see `of_one_network`.
    """
    groups: dict[tuple, list[Record]] = {}
    for record in records:
        key = record.published, record.variant, record.group
        groups.setdefault(key, []).append(record)
    points = [_point(group) for group in groups.values()]
    dense = [point for point in points if point.is_dense]
    points = [
        dataclasses.replace(point, to_dense=_to_dense(point, dense)) for point in points
    ]
    points = [_with_steps(point, dense) for point in points]
    return sorted(points, key=_order)


def _point(records):
    means = [r for r in records if r.statistic is Statistic.MEAN]
    # The table of means has the best of the same runs, too.
    records = means or records
    values = [record.quality for record in records]
    quality = Spread.of(values)
    if means:
        mean, deviation = statistics.mean(values), max(r.deviation for r in means)
        quality = Spread(mean, mean - deviation, mean + deviation)
    return Point(records[0].variant, tuple(records), quality)


def _to_dense(point, dense):
    if point.is_dense:
        return None
    candidates = [other for other in dense if other.published == point.published]
    if len(candidates) > 1:
        candidates = [other for other in candidates if other.steps == point.steps]
    if len(candidates) != 1:
        return None
    return point.quality.median - candidates[0].quality.median


def _with_steps(point, dense):
    """Dense models trained for different times are variants of their own."""
    if point.is_dense and sum(d.published == point.published for d in dense) > 1:
        steps = f"{point.steps[0]:,} steps" if point.steps else "steps unknown"
        return dataclasses.replace(point, variant=f"{point.variant}, {steps}")
    return point


def _order(point):
    return (
        not point.is_dense,
        point.published,
        *order(point.variant),
        point.spread("sparsity").median,
    )
