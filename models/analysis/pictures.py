"""Pictures of a comparison: quality over sparsity and over FLOPs, and layers.

A line has the median of the runs of each point, its bars their range; of published
groups they are mean and standard deviation. Dense models are level.
"""

import math
import os
import pathlib
import textwrap
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from state_of_sparsity.models.analysis.axes import (
    Axis,
    is_marked,
    line_name,
    lines,
    quality_label,
    subject,
)
from state_of_sparsity.models.analysis.record import Record
from state_of_sparsity.models.analysis.records import read_layers
from state_of_sparsity.models.analysis.styles import Style, styles
from state_of_sparsity.models.analysis.summary import Point

FORMATS = ("png", "svg")
_DENSE = "#000000"
_DASHES = (0, (4, 2))
_DOTS = (0, (1, 1))
# A picture of the same runs is the same file, and its text is text in SVG as well.
_SETTINGS = {
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "state_of_sparsity",
}


def draw_quality(points: Sequence[Point], axis: Axis, title: str = "") -> Figure | None:
    """Draws quality over sparsity or over FLOPs, a line for each variant.

    Args:
      points: of `summarize`.
      axis: `OVER_SPARSITY` or `OVER_FLOPS`.
      title: in place of that of the axis.

    Returns:
      The figure; None if no point has what it is over.
    """
    found = lines(points, axis)
    if not found:
        return None
    look = styles(point.variant for point in points)
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(9, 4.8), layout="constrained")
        axes = figure.add_subplot()
        _set_axes(axes, axis, [place for line in found.values() for place, _ in line])
        for point in points:
            if point.is_dense:
                _draw_dense(axes, point, points)
        for name, line in found.items():
            first = line[0][1]
            marked = is_marked(first, points)
            _draw_line(axes, line, look[first.variant], name, marked)
        axes.set_title(
            title or f"{axis.title}: {subject(points)}", loc="left", fontsize=11
        )
        axes.set_ylabel(quality_label(points[0].records[0].metric))
        only_published = all(point.published for point in points)
        _add_legend(figure, "published" if only_published else None)
    return figure


def _draw_dense(axes: Axes, point: Point, points: Sequence[Point]):
    level = point.quality
    axes.axhline(
        level.median,
        color=_DENSE,
        linestyle=_DASHES if is_marked(point, points) else "solid",
        linewidth=1.2,
        label=_wrapped(line_name(point, points)),
    )
    axes.axhspan(level.low, level.high, color=_DENSE, alpha=0.1, linewidth=0)


def _draw_line(axes: Axes, line, style: Style, name: str, marked: bool):
    places = [place for place, _ in line]
    spreads = [point.quality for _, point in line]
    axes.plot(
        places,
        [spread.median for spread in spreads],
        color=style.colour,
        marker=style.marker,
        markersize=6,
        markeredgecolor=style.colour if marked else "white",
        markerfacecolor="white" if marked else style.colour,
        markeredgewidth=1.2 if marked else 0.6,
        linestyle=_DASHES if marked else _DOTS if style.dotted else "solid",
        linewidth=1.8,
        label=_wrapped(name),
    )
    for place, spread in zip(places, spreads, strict=True):
        if spread.high > spread.low:
            _draw_range(axes, place, spread, style)


def _wrapped(name):
    # A legend takes its width from the axes.
    return textwrap.fill(name, 34)


def _draw_range(axes, place, spread, style):
    axes.errorbar(
        place,
        spread.median,
        yerr=[[spread.median - spread.low], [spread.high - spread.median]],
        fmt="none",
        ecolor=style.colour,
        elinewidth=1.2,
        capsize=3,
    )


def _set_axes(axes: Axes, axis: Axis, places):
    limits = axis.limits(places)
    axes.set_xscale("log")
    axes.set_xlim(*limits)
    axes.xaxis.set_major_locator(FixedLocator(axis.ticks_between(limits)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: axis.text(place)))
    axes.set_xlabel(axis.label)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _add_legend(figure: Figure, title: str | None):
    figure.legend(loc="outside right upper", frameon=False, title=title, fontsize=9)


def draw_layers(
    runs: Sequence[Record], points: Sequence[Point] = (), title: str = ""
) -> Figure:
    """Draws the sparsity of each layer of some runs, in the order of the model.

    Args:
      runs: records of runs, whose folders have layers.csv.
      points: of the other pictures, whose variants look the same here.
      title: of the picture.

    Raises:
      ValueError: if the layers.csv of a run is missing or damaged.
    """
    tables = [read_layers(run.source) for run in runs]
    layers = list(dict.fromkeys(row["name"] for rows in tables for row in rows))
    look = styles_of_runs(runs, points)
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(9, 1.6 + 0.18 * len(layers)), layout="constrained")
        axes = figure.add_subplot()
        for run, rows in zip(runs, tables, strict=True):
            _draw_run(axes, run, rows, layers, look[run_name(run)])
        axes.set(
            xlabel="zeros (% of the weights of a tensor); dashed: of the whole model",
            xlim=(layers_from(tables) - 1, 101),
            ylim=(len(layers) - 0.5, -0.5),
        )
        axes.set_title(title or "Sparsity by layer", loc="left", fontsize=11)
        axes.set_yticks(range(len(layers)), layers, fontsize=7)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper left", frameon=False, fontsize=9)
    return figure


def _draw_run(axes: Axes, run: Record, rows, layers, style: Style):
    axes.plot(
        [100 * float(row["sparsity"]) for row in rows],
        [layers.index(row["name"]) for row in rows],
        color=style.colour,
        marker=style.marker,
        markersize=5,
        markeredgewidth=0,
        linestyle=_DOTS if style.dotted else "solid",
        linewidth=0.8,
        label=run_name(run),
    )
    whole = 100 * run.sparsity
    axes.axvline(whole, color=style.colour, linestyle=_DASHES, linewidth=1)


def layers_from(tables) -> float:
    """Where the axis of sparsity by layer begins, in percent: at a multiple of ten."""
    least = min(float(row["sparsity"]) for rows in tables for row in rows)
    return 10 * math.floor(10 * least)


def run_name(run: Record) -> str:
    """What a legend calls a single run."""
    return f"{run.variant}, {run.sparsity:.1%}, seed {run.seed} ({run.source.name})"


def styles_of_runs(
    runs: Sequence[Record], points: Sequence[Point] = ()
) -> dict[str, Style]:
    """A style for each run: its variant's, unless several runs are of that one."""
    variants = [run.variant for run in runs]
    keys = {
        run_name(run): run.variant
        if variants.count(run.variant) == 1
        else run_name(run)
        for run in runs
    }
    look = styles([*keys.values(), *(point.variant for point in points)])
    return {name: look[key] for name, key in keys.items()}


def save(figure: Figure, folder: str | os.PathLike, name: str) -> list[pathlib.Path]:
    """Writes a figure as PNG and SVG, and returns the files."""
    paths = [pathlib.Path(folder) / f"{name}.{ending}" for ending in FORMATS]
    with matplotlib.rc_context(_SETTINGS):
        for path in paths:
            # Without a date, the same picture is the same file.
            metadata = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(path, dpi=150, metadata=metadata)
    return paths
