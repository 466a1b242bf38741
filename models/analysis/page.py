"""A comparison as one page that needs nothing else: Plotly's pictures and table."""

import html
import math
import os
import pathlib
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from state_of_sparsity.models.analysis.axes import (
    AXES,
    Axis,
    is_marked,
    line_name,
    lines,
    quality_label,
    subject,
)
from state_of_sparsity.models.analysis.pictures import (
    layers_from,
    run_name,
    styles_of_runs,
)
from state_of_sparsity.models.analysis.record import Record
from state_of_sparsity.models.analysis.records import read_layers
from state_of_sparsity.models.analysis.styles import Style, styles
from state_of_sparsity.models.analysis.summary import Point
from state_of_sparsity.models.analysis.tables import columns, notes

_ROW = 26
_CONFIG = {
    "displaylogo": False,
    "responsive": True,
    # Plotly has a button that sends the data of a picture to its makers' servers.
    "showSendToCloud": False,
    "plotlyServerURL": "",
}
_MOST_SOURCES = 5
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font-family: sans-serif; max-width: 1200px; margin: 1em auto; }}
h1 {{ font-size: 1.4em; }}
h2 {{ font-size: 1.1em; }}
</style>
<script>{plotly}</script>
</head>
<body>
<h1>{title}</h1>
{sections}
</body>
</html>
"""


def write_page(
    points: Sequence[Point],
    path: str | os.PathLike,
    layers_of: Sequence[Record] = (),
    title: str = "",
) -> None:
    """Writes pictures that answer to the mouse, and a table that sorts.

    Args:
      points: of `summarize`.
      path: of the page.
      layers_of: runs whose sparsity by layer is drawn as well.
      title: in place of the names of model and dataset.
    """
    figures = {axis.title: _quality_figure(points, axis) for axis in AXES}
    if layers_of:
        figures["Sparsity by layer"] = _layers_figure(layers_of, points)
    figures["Table"] = _table_figure(points)
    sections = [
        f"<h2>{name}</h2>\n{_part(figure, name)}"
        for name, figure in figures.items()
        if figure is not None
    ]
    listed = "\n".join(f"<li>{html.escape(note)}</li>" for note in notes(points))
    text = _PAGE.format(
        title=html.escape(title or subject(points)),
        plotly=get_plotlyjs(),
        sections="\n".join([*sections, f"<ul>\n{listed}\n</ul>"]),
    )
    pathlib.Path(path).write_text(text, encoding="utf-8")


def _part(figure, name):
    # The same comparison is the same page: Plotly would draw a random name.
    place = name.lower().replace(" ", "-")
    return figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=place,
        config=_CONFIG,
    )


def _quality_figure(points: Sequence[Point], axis: Axis) -> go.Figure | None:
    found = lines(points, axis)
    if not found:
        return None
    look = styles(point.variant for point in points)
    limits = axis.limits(place for line in found.values() for place, _ in line)
    ticks = axis.ticks_between(limits)
    figure = go.Figure()
    for point in points:
        if point.is_dense:
            _add_dense(figure, point, points, limits)
    for name, line in found.items():
        first = line[0][1]
        _add_line(figure, line, look[first.variant], name, is_marked(first, points))
    figure.update_layout(
        template="plotly_white", height=520, margin={"t": 20}, hovermode="closest"
    )
    figure.update_xaxes(
        title=axis.label,
        type="log",
        range=[math.log10(limit) for limit in limits],
        tickvals=ticks,
        ticktext=[axis.text(tick) for tick in ticks],
    )
    figure.update_yaxes(title=quality_label(points[0].records[0].metric))
    return figure


def _add_dense(figure, point, points, limits):
    level = point.quality
    figure.add_hrect(
        y0=level.low, y1=level.high, fillcolor="black", opacity=0.1, line_width=0
    )
    figure.add_scatter(
        x=limits,
        y=[level.median] * 2,
        mode="lines",
        name=html.escape(line_name(point, points)),
        line={
            "color": "black",
            "width": 1.5,
            "dash": "dash" if is_marked(point, points) else "solid",
        },
        text=[_hover(point)] * 2,
        hovertemplate="%{text}<extra></extra>",
    )


def _add_line(figure, line, style: Style, name: str, marked: bool):
    spreads = [point.quality for _, point in line]
    figure.add_scatter(
        x=[place for place, _ in line],
        y=[spread.median for spread in spreads],
        error_y={
            "array": [spread.high - spread.median for spread in spreads],
            "arrayminus": [spread.median - spread.low for spread in spreads],
            "thickness": 1.2,
        },
        mode="lines+markers",
        name=html.escape(name),
        line={
            "color": style.colour,
            "dash": "dash" if marked else "dot" if style.dotted else "solid",
        },
        marker={"symbol": style.symbol + ("-open" if marked else ""), "size": 9},
        text=[_hover(point) for _, point in line],
        hovertemplate="%{text}<extra></extra>",
    )


def _hover(point):
    """The row of the table, and where it is from."""
    cells = {name: texts[0][0] for name, texts in columns([point]).items()}
    name = cells.pop("technique") + (", published" if point.published else "")
    parts = [f"<b>{html.escape(name)}</b>"]
    parts += [f"{name}: {html.escape(text)}" for name, text in cells.items()]
    sources = sorted({str(record.source) for record in point.records})
    parts += map(html.escape, sources[:_MOST_SOURCES])
    if len(sources) > _MOST_SOURCES:
        parts.append(f"and {len(sources) - _MOST_SOURCES} more")
    return "<br>".join(parts)


def _layers_figure(runs: Sequence[Record], points: Sequence[Point]) -> go.Figure:
    figure = go.Figure()
    look = styles_of_runs(runs, points)
    tables = [read_layers(run.source) for run in runs]
    layers = list(dict.fromkeys(row["name"] for rows in tables for row in rows))
    for run, rows in zip(runs, tables, strict=True):
        name = run_name(run)
        figure.add_scatter(
            x=[100 * float(row["sparsity"]) for row in rows],
            y=[row["name"] for row in rows],
            mode="lines+markers",
            name=html.escape(name),
            line={"color": look[name].colour, "width": 1},
            marker={"symbol": look[name].symbol, "size": 8},
            text=[f"{int(row['size']):,} weights" for row in rows],
            hovertemplate="%{y}: %{x:.2f} % of %{text}",
        )
    figure.update_layout(
        template="plotly_white", height=120 + 18 * len(layers), margin={"t": 20}
    )
    figure.update_xaxes(
        title="zeros (% of the weights of a tensor)",
        range=[layers_from(tables) - 1, 101],
    )
    figure.update_yaxes(
        categoryorder="array",
        categoryarray=layers,
        autorange="reversed",
        automargin=True,
        tickfont={"size": 10},
    )
    return figure


def _table_figure(points: Sequence[Point]) -> go.Figure:
    """Above each column is a button that sorts by it: up, then down."""
    table = columns(points)
    widths = [
        2 + max(len(text) for text in [name, *(text for text, _ in cells)])
        for name, cells in table.items()
    ]
    figure = go.Figure(
        go.Table(
            columnwidth=widths,
            header={"values": [f"<b>{html.escape(name)}</b>" for name in table]},
            cells={"values": _texts(table, range(len(points))), "height": _ROW},
        )
    )
    figure.update_traces(header_align="left", cells_align="left")
    figure.update_layout(
        height=_ROW * (len(points) + 3) + 60,
        margin={"l": 0, "r": 0, "t": 40, "b": 0},
        updatemenus=[
            _sort_button(table, name, sum(widths[:place]) / sum(widths))
            for place, name in enumerate(table)
        ],
    )
    return figure


def _sort_button(table, name, left):
    """What Plotly needs to show the rows in another order."""
    up = _order(table[name])
    known = [place for place in up if table[name][place][1] is not None]
    down = known[::-1] + up[len(known) :]
    arguments = [[{"cells.values": [_texts(table, order)]}] for order in (up, down)]
    return {
        "type": "buttons",
        "active": -1,
        "x": left,
        "xanchor": "left",
        "y": 1,
        "yanchor": "bottom",
        "pad": {"b": 4},
        "font": {"size": 10},
        "buttons": [
            {
                "label": "sort",
                "method": "restyle",
                "args": arguments[0],
                "args2": arguments[1],
            }
        ],
    }


def _order(cells):
    """The places of the rows in rising order, those without a value at the end."""
    values = [value for _, value in cells]
    known = [place for place, value in enumerate(values) if value is not None]
    unknown = [place for place, value in enumerate(values) if value is None]
    return sorted(known, key=values.__getitem__) + unknown


def _texts(table, order):
    return [[html.escape(cells[i][0]) for i in order] for cells in table.values()]
