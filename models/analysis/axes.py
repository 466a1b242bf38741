"""What quality is drawn over: density and operations, from dense to sparse."""

import dataclasses

import pandas as pd

_SPARSITIES = (0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
_SHARES = (1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)


@dataclasses.dataclass(frozen=True)
class Axis:
    """An axis on a log scale whose low end is at the right.

    Attributes:
      name: of the files that are drawn.
      title: of a picture.
      label: of the axis.
      figure: column of points that is drawn.
      ticks: where there may be ticks, by what they say.
    """

    name: str
    title: str
    label: str
    figure: str
    ticks: dict[str, float]

    def curves(self, points: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """The lines of a picture.

        Args:
          points: of `summarize`.

        Returns:
          By label, the points of a line in order, with a column `place`. What is dense
          is not in it; nor is what a log axis does not have, since nothing is left, or
          what has no such figure.
        """
        figure = points[self.figure]
        place = 1 - figure if self.figure == "sparsity" else figure
        drawn = points.assign(place=place)[~points.is_dense & (place > 0)]
        return {
            label: line.sort_values("place", ascending=False)
            for label, line in drawn.groupby("label", sort=False)
        }

    def limits(self, lines: dict[str, pd.DataFrame]) -> tuple[float, float]:
        """The left and the right end of an axis with these lines."""
        places = pd.concat(line.place for line in lines.values())
        low, high = places.min(), places.max()
        # A single point has a tick beside it, too.
        margin = max((high / low) ** 0.05, 1.1) if high > 1.5 * low else 1.6
        return high * margin, low / margin

    def ticks_within(self, left: float, right: float) -> dict[str, float]:
        """The ticks between the ends of an axis."""
        return {t: place for t, place in self.ticks.items() if right <= place <= left}


OVER_SPARSITY = Axis(
    "quality_over_sparsity",
    "Quality over sparsity",
    "sparsity (log axis of density)",
    "sparsity",
    {f"{100 * sparsity:.6g} %": 1 - sparsity for sparsity in _SPARSITIES},
)
OVER_FLOPS = Axis(
    "quality_over_flops",
    "Quality over operations of inference",
    "FLOPs of inference, of dense (log axis)",
    "flops_share",
    {f"{100 * share:.6g} %": share for share in _SHARES},
)
AXES = (OVER_SPARSITY, OVER_FLOPS)
