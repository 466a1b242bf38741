"""A comparison as one page that needs nothing else: Plotly's pictures and table."""

import html
import math
import os
import pathlib

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from state_of_sparsity.models.analysis.axes import AXES, Axis
from state_of_sparsity.models.analysis.finished_runs import read_layers
from state_of_sparsity.models.analysis.pictures import styles_of_runs
from state_of_sparsity.models.analysis.points import quality_label, subject
from state_of_sparsity.models.analysis.styles import MARKERS, Style, styles_of
from state_of_sparsity.models.analysis.tables import NOTHING, notes, readable

_ROW = 26
_CONFIG = {
    "displaylogo": False,
    "responsive": True,
    # Plotly has a button that sends the data of a picture to its makers' servers.
    "showSendToCloud": False,
    "plotlyServerURL": "",
}
_MOST_SOURCES = 5
_DASHES = {"solid": "solid", "dashed": "dash", "dotted": "dot"}
_SYMBOLS = (
    *("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x"),
    *("pentagon", "triangle-right", "hexagon", "triangle-left"),
)
# What columns of the table sort by.
_SORTED_BY = {
    "technique": "label",
    "to dense": "quality_to_dense",
    "speed-up": "speed_up",
    "FLOPs": "flops_share",
    "training FLOPs": "training_flops_share",
}
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>body {{ font-family: sans-serif; max-width: 1200px; margin: 1em auto; }}</style>
<script>{plotly}</script>
</head>
<body>
<h1>{title}</h1>
{sections}
</body>
</html>
"""


def write_page(
    points: pd.DataFrame,
    path: str | os.PathLike,
    layers_of: pd.DataFrame | None = None,
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
    if layers_of is not None:
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
        full_html=False, include_plotlyjs=False, div_id=place, config=_CONFIG
    )


def _quality_figure(points: pd.DataFrame, axis: Axis) -> go.Figure | None:
    lines = axis.curves(points)
    if not lines:
        return None
    look, said = styles_of(points), _said(points)
    left, right = axis.limits(lines)
    figure = go.Figure()
    for place, point in points[points.is_dense].iterrows():
        ends = {"y0": point.quality_low, "y1": point.quality_high}
        figure.add_hrect(**ends, fillcolor="black", opacity=0.1, line_width=0)
        figure.add_scatter(
            x=[left, right],
            y=[point.quality] * 2,
            mode="lines",
            text=[said[place]] * 2,
            **_look(look[point.label], point.label),
        )
    for label, line in lines.items():
        figure.add_scatter(
            x=line.place.tolist(),
            y=line.quality.tolist(),
            error_y={
                "array": (line.quality_high - line.quality).tolist(),
                "arrayminus": (line.quality - line.quality_low).tolist(),
            },
            mode="lines+markers",
            text=[said[place] for place in line.index],
            **_look(look[label], label),
        )
    figure.update_traces(hovertemplate="%{text}<extra></extra>")
    figure.update_layout(
        template="plotly_white", height=520, margin={"t": 20}, hovermode="closest"
    )
    ticks = axis.ticks_within(left, right)
    figure.update_xaxes(
        title=axis.label,
        type="log",
        range=[math.log10(left), math.log10(right)],
        tickvals=list(ticks.values()),
        ticktext=list(ticks),
    )
    figure.update_yaxes(title=quality_label(points))
    return figure


def _look(style: Style, name: str):
    symbol = _SYMBOLS[MARKERS.index(style.marker)] + ("-open" if style.hollow else "")
    return {
        "name": html.escape(name),
        "line": {"color": style.colour, "dash": _DASHES[style.dash]},
        "marker": {"symbol": symbol, "size": 8},
    }


def _said(points) -> dict[int, str]:
    """What points say: their rows of the table, and where they are from."""
    found = {}
    rows = readable(points).to_dict("records")
    for place, row, sources in zip(points.index, rows, points.sources, strict=True):
        lines = [f"{name}: {text}" for name, text in row.items() if text != NOTHING]
        lines += sources[:_MOST_SOURCES]
        if len(sources) > _MOST_SOURCES:
            lines.append(f"and {len(sources) - _MOST_SOURCES} more")
        found[place] = "<br>".join(map(html.escape, lines))
    return found


def _layers_figure(runs: pd.DataFrame, points: pd.DataFrame) -> go.Figure:
    figure = go.Figure()
    tables = [read_layers(path) for path in runs.source]
    layers = list(dict.fromkeys(name for table in tables for name in table.name))
    look = styles_of_runs(runs, points)
    for table, (name, style) in zip(tables, look, strict=True):
        figure.add_scatter(
            x=(100 * table.sparsity).tolist(),
            y=table.name.tolist(),
            mode="lines+markers",
            text=[f"{size:,} weights" for size in table["size"]],
            hovertemplate="%{y}: %{x:.2f} % of %{text}",
            **_look(style, name),
        )
    figure.update_layout(
        template="plotly_white", height=120 + 18 * len(layers), margin={"t": 20}
    )
    figure.update_xaxes(title="zeros (% of the weights of a tensor)")
    order = {"categoryorder": "array", "categoryarray": layers}
    figure.update_yaxes(**order, autorange="reversed", automargin=True)
    return figure


def _table_figure(points: pd.DataFrame) -> go.Figure:
    """Above each column is a button that sorts by it: up, then down."""
    table = readable(points)
    widths = [2 + max(map(len, [name, *table[name]])) for name in table]
    texts = table.map(html.escape)
    buttons = []
    for place, name in enumerate(table):
        column = _SORTED_BY.get(name, name)
        values = points[column if column in points else "quality"]
        # What is not known stays below.
        known = values[table[name] != NOTHING].sort_values(kind="stable").index
        unknown = values.index.difference(known)
        orders = [[*known, *unknown], [*known[::-1], *unknown]]
        up, down = ([{"cells.values": [texts.loc[o].T.values]}] for o in orders)
        button = {"label": "sort", "method": "restyle", "args": up, "args2": down}
        buttons.append(
            {
                "type": "buttons",
                "active": -1,
                "x": sum(widths[:place]) / sum(widths),
                "xanchor": "left",
                "y": 1,
                "yanchor": "bottom",
                "font": {"size": 10},
                "buttons": [button],
            }
        )
    header = {"values": [f"<b>{html.escape(name)}</b>" for name in table]}
    cells = {"values": texts.T.values, "height": _ROW}
    figure = go.Figure(go.Table(columnwidth=widths, header=header, cells=cells))
    figure.update_traces(header_align="left", cells_align="left")
    figure.update_layout(
        height=_ROW * (len(points) + 3) + 60,
        margin={"l": 0, "r": 0, "t": 40, "b": 0},
        updatemenus=buttons,
    )
    return figure
