"""The axes of pictures and pages: density from dense to sparse, on a log scale."""

import dataclasses
from collections.abc import Iterable, Sequence

from state_of_sparsity.models.analysis.summary import Point, Spread

_SPARSITIES = (0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
_SHARES = (1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
_QUALITY = {"top1": "top-1 accuracy (%)", "bleu": "BLEU"}


@dataclasses.dataclass(frozen=True)
class Axis:
    """What quality is drawn over, on a log scale whose low end is at the right.

    Attributes:
      name: of the files that are drawn.
      title: of a picture.
      label: of the axis.
      figure: attribute of a `Record` that is drawn.
      is_sparsity: whether the axis has density, and its ticks say sparsity.
      ticks: where there may be ticks, as values of the axis.
    """

    name: str
    title: str
    label: str
    figure: str
    is_sparsity: bool
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Where a figure is on the axis."""
        return 1 - value if self.is_sparsity else value

    def text(self, place: float) -> str:
        """What a tick says."""
        return f"{100 * (1 - place if self.is_sparsity else place):.6g} %"

    def limits(self, places: Iterable[float]) -> tuple[float, float]:
        """The left and the right end of an axis with points at these places."""
        places = list(places)
        low, high = min(places), max(places)
        # A single point has a tick beside it, too.
        margin = max((high / low) ** 0.05, 1.1) if high > 1.5 * low else 1.6
        return high * margin, low / margin

    def ticks_between(self, limits: tuple[float, float]) -> list[float]:
        """The ticks of an axis with these ends."""
        left, right = limits
        return [tick for tick in self.ticks if right <= tick <= left]


OVER_SPARSITY = Axis(
    "quality_over_sparsity",
    "Quality over sparsity",
    "sparsity (log axis of density)",
    "sparsity",
    True,
    tuple(1 - sparsity for sparsity in _SPARSITIES),
)
OVER_FLOPS = Axis(
    "quality_over_flops",
    "Quality over operations of inference",
    "FLOPs of inference, of dense (log axis)",
    "flops_share",
    False,
    _SHARES,
)
AXES = (OVER_SPARSITY, OVER_FLOPS)


def quality_label(metric: str) -> str:
    """What quality is called along its axis."""
    return _QUALITY.get(metric, f"{metric} (%)")


def lines(points: Sequence[Point], axis: Axis) -> dict[str, list[tuple[float, Point]]]:
    """The lines of a picture.

    Returns:
      By name, pairs of place and point, in order. Points that a log axis does not have,
      since nothing is left, are not in it; nor is what is dense, or has no such figure.
    """
    found: dict[str, list[tuple[float, Point]]] = {}
    for point in points:
        figure = point.spread(axis.figure)
        if not point.is_dense and _can_be_drawn(figure, axis):
            line = found.setdefault(line_name(point, points), [])
            line.append((axis.place(figure.median), point))
    for line in found.values():
        line.sort(key=lambda pair: -pair[0])
    return found


def _can_be_drawn(figure: Spread | None, axis: Axis) -> bool:
    return figure is not None and axis.place(figure.median) > 0


def subject(points: Sequence[Point]) -> str:
    """What all points are of: the model and its data."""
    record = points[0].records[0]
    return f"{record.model} on {record.dataset}"


def line_name(point: Point, points: Sequence[Point]) -> str:
    """What a legend calls the line of a point: it marks published ones beside ours."""
    return f"{point.variant} (published)" if is_marked(point, points) else point.variant


def is_marked(point: Point, points: Sequence[Point]) -> bool:
    """Whether a point was published, and not all of them were."""
    return point.published and not all(other.published for other in points)
