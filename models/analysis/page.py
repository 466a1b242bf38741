"""A comparison as a page that needs nothing else: pictures, and a table that sorts."""

import html
import os
import pathlib
import tempfile
from collections.abc import Mapping
from xml.etree import ElementTree

import pandas as pd
from matplotlib.figure import Figure

from state_of_sparsity.models.analysis.pictures import ids, save
from state_of_sparsity.models.analysis.points import subject
from state_of_sparsity.models.analysis.tables import NOTHING, notes, readable

_MOST_SOURCES = 5
_SVG = "http://www.w3.org/2000/svg"
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font-family: sans-serif; max-width: 1200px; margin: 1em auto; }}
h1 {{ font-size: 1.4em; }}
h2 {{ font-size: 1.1em; }}
#table {{ border-collapse: collapse; font-size: 0.8em; }}
#table td, #table th {{ padding: 0.3em; }}
#table th {{ cursor: pointer; }}
</style>
</head>
<body>
<h1>{title}</h1>
{sections}
</body>
</html>
"""
# What is no number is sorted as text; empty cells stay below the others.
_SORTING = """<script>
const rows = [...document.querySelectorAll("#table tbody tr")];
document.querySelectorAll("#table th").forEach((heading, column) => {
  let sign = -1;
  heading.title = "sort";
  heading.onclick = () => {
    sign = -sign;
    const order = (one, other) => {
      const [a, b] = [one, other].map((row) => row.cells[column].textContent);
      const [x, y] = [a, b].map((text) => parseFloat(text.replaceAll(",", "")));
      return isNaN(x) || isNaN(y)
        ? isNaN(x) - isNaN(y) || sign * a.localeCompare(b)
        : sign * (x - y);
    };
    [...rows].sort(order).forEach((row) => row.parentNode.append(row));
  };
});
</script>"""


def write_page(
    points: pd.DataFrame,
    path: str | os.PathLike,
    figures: Mapping[str, Figure],
    title: str = "",
) -> None:
    """Writes pictures whose points say what they are, and a table that sorts.

    Args:
      points: of `summarize`.
      path: of the page.
      figures: of `pictures`, by heading.
      title: in place of the names of model and dataset.
    """
    said = _said(points)
    sections = {name: _with_titles(figure, said) for name, figure in figures.items()}
    with pd.option_context("display.max_colwidth", None):
        table = readable(points).to_html(index=False, table_id="table", justify="left")
    listed = "\n".join(f"<li>{html.escape(note)}</li>" for note in notes(points))
    sections["Table"] = f"{table}\n{_SORTING}\n<ul>\n{listed}\n</ul>"
    text = _PAGE.format(
        title=html.escape(title or subject(points)),
        sections="\n".join(f"<h2>{n}</h2>\n{text}" for n, text in sections.items()),
    )
    pathlib.Path(path).write_text(text, encoding="utf-8")


def _said(points) -> dict[str, str]:
    """What points say, by id: their rows of the table, and where they are from."""
    found = {}
    rows = readable(points).to_dict("records")
    for id_, row, sources in zip(ids(points), rows, points.sources, strict=True):
        lines = [f"{name}: {text}" for name, text in row.items() if text != NOTHING]
        lines += sources[:_MOST_SOURCES]
        if len(sources) > _MOST_SOURCES:
            lines.append(f"and {len(sources) - _MOST_SOURCES} more")
        found[id_] = "\n".join(lines)
    return found


def _with_titles(figure: Figure, said: Mapping[str, str]) -> str:
    """A picture whose marks have titles, which browsers show below the mouse."""
    with tempfile.TemporaryDirectory() as folder:
        *_, path = save(figure, folder, "picture")
        ElementTree.register_namespace("", _SVG)
        root = ElementTree.parse(path).getroot()
    for group in root.iter(f"{{{_SVG}}}g"):
        # A level has no marks.
        marks = list(group.iter(f"{{{_SVG}}}use")) or [group]
        for mark, id_ in zip(marks, group.get("id", "").split(), strict=False):
            if id_ in said:
                ElementTree.SubElement(mark, f"{{{_SVG}}}title").text = said[id_]
    return ElementTree.tostring(root, encoding="unicode")
