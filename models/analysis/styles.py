"""How a variant looks in each picture: always the same, so far as there are colours."""

import dataclasses
import itertools
from collections.abc import Iterable

import pandas as pd

from state_of_sparsity.models.runs.variants import LATER, PAPER, Settings, variant

# Paul Tol's "muted" scheme, which readers without full colour vision can tell apart
# (https://sronpersonalpages.nl/~pault/), and grey.
_COLOURS = (
    *("#332288", "#CC6677", "#117733", "#DDCC77", "#88CCEE"),
    *("#44AA99", "#882255", "#AA4499", "#999933", "#777777"),
)
MARKERS = "os^DvPXp>h<"


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
_PLAIN = [Style(*both) for both in zip(_COLOURS, MARKERS, strict=False)]
_DOTTED = [
    Style(colour, MARKERS[(place + turn) % len(MARKERS)], "dotted")
    for turn in range(1, len(MARKERS))
    for place, colour in enumerate(_COLOURS)
]
_OF_LATER = [variant(Settings({"technique": technique})) for technique in LATER]
_KNOWN = dict(zip([*PAPER, *_OF_LATER], [*_PLAIN, *_DOTTED], strict=False))
# What others take, in order: colours of the paper after those that are nobody's.
_FREE = [*_PLAIN[len(PAPER) :], *_PLAIN[: len(PAPER)], *_DOTTED]


def styles(variants: Iterable[str]) -> dict[str, Style]:
    """A style for each variant.

    Those of the paper and the later techniques have the same one in every picture. The
    others take what is left, in the order of their names: first colours that are free,
    then dotted lines. No two are alike until all are used up.
    """
    names = sorted(set(variants))
    given = {name: _KNOWN[name] for name in names if name in _KNOWN}
    free = itertools.cycle(style for style in _FREE if style not in given.values())
    others = [name for name in names if name not in given]
    return given | dict(zip(others, free, strict=False))


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
