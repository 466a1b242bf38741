"""How a variant looks in each picture: always the same, so far as there are colours."""

import dataclasses
import itertools
from collections.abc import Iterable

from state_of_sparsity.models.analysis.variants import PAPER

# Grey, and Paul Tol's "muted" scheme, which readers without full colour vision can tell
# apart (https://sronpersonalpages.nl/~pault/).
_INDIGO, _CYAN, _TEAL = "#332288", "#88CCEE", "#44AA99"
_GREEN, _OLIVE, _SAND = "#117733", "#999933", "#DDCC77"
_ROSE, _WINE, _PURPLE = "#CC6677", "#882255", "#AA4499"
_GREY = "#777777"
_COLOURS = (
    _INDIGO,
    _ROSE,
    _GREEN,
    _SAND,
    _CYAN,
    _TEAL,
    _WINE,
    _PURPLE,
    _OLIVE,
    _GREY,
)
# The names of markers in Matplotlib and in Plotly.
_MARKERS = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "D": "diamond",
    "v": "triangle-down",
    "P": "cross",
    "X": "x",
    "p": "pentagon",
    ">": "triangle-right",
    "h": "hexagon",
    "<": "triangle-left",
}


@dataclasses.dataclass(frozen=True)
class Style:
    """Colour and marker of a line.

    Attributes:
      colour: as "#rrggbb".
      marker: as Matplotlib calls it.
      dotted: whether the line is, since there is another one of its colour.
    """

    colour: str
    marker: str
    dotted: bool = False

    @property
    def symbol(self) -> str:
        """The marker, as Plotly calls it."""
        return _MARKERS[self.marker]


# In the order in which the variants of the paper and all colours and markers are.
_KNOWN = {
    name: Style(colour, marker)
    for name, colour, marker in zip(PAPER, _COLOURS, _MARKERS, strict=False)
}


def styles(variants: Iterable[str]) -> dict[str, Style]:
    """A style for each variant.

    Those of the paper have the same one in every picture. The others take what is
    left, in the order of their names: first colours that are free, then the same with
    dotted lines. No two are alike until all combinations are used up.
    """
    names = sorted(set(variants))
    given = {name: _KNOWN[name] for name in names if name in _KNOWN}
    others = [name for name in names if name not in _KNOWN]
    free = itertools.cycle(_free(list(given.values())))
    return given | dict(zip(others, free, strict=False))


def _free(used):
    """The styles that are left, those that are least like the used ones first."""
    colours = [style.colour for style in used]
    markers = [style.marker for style in used]
    of_the_paper = [style.colour for style in _KNOWN.values()]
    free_colours = sorted(
        (colour for colour in _COLOURS if colour not in colours),
        key=lambda colour: colour in of_the_paper,
    )
    free_markers = [marker for marker in _MARKERS if marker not in markers]
    in_order = [*free_markers, *markers]
    plain = [Style(colour, in_order[i]) for i, colour in enumerate(free_colours)]
    dotted = [
        Style(colour, in_order[(place + turn) % len(in_order)], dotted=True)
        for turn in range(len(in_order))
        for place, colour in enumerate(_COLOURS, len(plain))
    ]
    return plain + dotted
