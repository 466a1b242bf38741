"""How a variant looks in each picture: always the same, so far as there are colours."""

import dataclasses
import itertools
from collections.abc import Iterable

import pandas as pd

from state_of_sparsity.models.runs.variants import PAPER

# Paul Tol's "muted" scheme, which readers without full colour vision can tell apart
# (https://sronpersonalpages.nl/~pault/), and grey.
_COLOURS = (
    *("#332288", "#CC6677", "#117733", "#DDCC77", "#88CCEE"),
    *("#44AA99", "#882255", "#AA4499", "#999933", "#777777"),
)
_MARKERS = "os^DvPXp>h<"


@dataclasses.dataclass(frozen=True)
class Style:
    """Colour and marker of a line, as Matplotlib calls them.

    Attributes:
      colour: as "#rrggbb".
      marker: its shape.
      dash: "solid", "dotted" or "dashed".
      hollow: whether the marker is.
    """

    colour: str
    marker: str
    dash: str = "solid"
    hollow: bool = False


_DENSE = Style("#000000", "o")
_OF_PAPER = {
    name: Style(*both) for name, *both in zip(PAPER, _COLOURS, _MARKERS, strict=False)
}


def styles(variants: Iterable[str]) -> dict[str, Style]:
    """A style for each variant.

    Those of the paper have the same one in every picture. The others take what is
    left, in the order of their names: first colours that are free, then dotted lines.
    No two are alike until all are used up.
    """
    names = sorted(set(variants))
    given = {name: _OF_PAPER[name] for name in names if name in _OF_PAPER}
    free = itertools.cycle(_free(given.values()))
    others = [name for name in names if name not in given]
    return given | dict(zip(others, free, strict=False))


def _free(used):
    """The styles that are left, those that are least like the used ones first."""
    colours, markers = [s.colour for s in used], [s.marker for s in used]
    kept = [style.colour for style in _OF_PAPER.values()]
    free = [colour for colour in _COLOURS if colour not in colours]
    free.sort(key=kept.__contains__)
    markers = [*(m for m in _MARKERS if m not in markers), *markers]
    plain = [Style(*both) for both in zip(free, markers, strict=False)]
    return plain + [
        Style(colour, markers[(place + turn) % len(markers)], "dotted")
        for turn in range(len(markers))
        for place, colour in enumerate(_COLOURS, len(plain))
    ]


def styles_of(points: pd.DataFrame) -> dict[str, Style]:
    """A style for each label of points: its variant's, if marked dashed and hollow."""
    look = styles(points.variant)
    found = {}
    for point in points.itertuples():
        style = _DENSE if point.is_dense else look[point.variant]
        if point.marked:
            style = dataclasses.replace(style, dash="dashed", hollow=True)
        found[point.label] = style
    return found
