"""Pictures of a comparison: quality over sparsity and over FLOPs, and layers.

A line has the median of the runs of each point, its bars their range; of published
groups they are mean and standard deviation. Dense models are level.
"""

import math
import os
import pathlib
import textwrap

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from state_of_sparsity.models.analysis.axes import Axis
from state_of_sparsity.models.analysis.finished_runs import read_layers
from state_of_sparsity.models.analysis.points import quality_label, subject
from state_of_sparsity.models.analysis.styles import Style, styles, styles_of

FORMATS = ("png", "svg")
_DASHES = {"solid": "solid", "dashed": (0, (4, 2)), "dotted": (0, (1, 1))}
# A picture of the same runs is the same file, and its text is text in SVG as well.
_SETTINGS = {
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "state_of_sparsity",
}


def draw_quality(points: pd.DataFrame, axis: Axis, title: str = "") -> Figure | None:
    """Draws quality over sparsity or over FLOPs, a line for each variant.

    Args:
      points: of `summarize`.
      axis: `OVER_SPARSITY` or `OVER_FLOPS`.
      title: in place of that of the axis.

    Returns:
      The figure; None if no point has what it is over.
    """
    lines = axis.curves(points)
    if not lines:
        return None
    look = styles_of(points)
    with matplotlib.rc_context(_SETTINGS):
        figure, axes = _empty(4.8, title or f"{axis.title}: {subject(points)}")
        _set_places(axes, axis, *axis.limits(lines))
        for point in points[points.is_dense].itertuples():
            _draw_dense(axes, point, look[point.label])
        for label, line in lines.items():
            _draw_line(axes, line, look[label])
        axes.set_ylabel(quality_label(points))
        legend = "published" if points.published.all() else None
        figure.legend(
            loc="outside right upper", frameon=False, title=legend, fontsize=9
        )
    return figure


def _empty(height, title):
    figure = Figure(figsize=(9, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _set_places(axes: Axes, axis: Axis, left: float, right: float):
    ticks = axis.ticks_within(left, right)
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    axes.set_xticks(list(ticks.values()), list(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(axis.label)
    axes.set_axisbelow(True)


def _draw_dense(axes: Axes, point, style: Style):
    axes.axhline(point.quality, linewidth=1.2, **_look(style, point.label))
    ends = point.quality_low, point.quality_high
    axes.axhspan(*ends, color=style.colour, alpha=0.1, linewidth=0)


def _draw_line(axes: Axes, line: pd.DataFrame, style: Style):
    axes.plot(
        line.place,
        line.quality,
        marker=style.marker,
        markersize=6,
        markeredgecolor=style.colour if style.hollow else "white",
        markerfacecolor="white" if style.hollow else style.colour,
        markeredgewidth=1.2 if style.hollow else 0.6,
        linewidth=1.8,
        **_look(style, line.label.iloc[0]),
    )
    line = line[line.quality_high > line.quality_low]
    axes.errorbar(
        line.place,
        line.quality,
        yerr=[line.quality - line.quality_low, line.quality_high - line.quality],
        fmt="none",
        ecolor=style.colour,
        elinewidth=1.2,
        capsize=3,
    )


def _look(style: Style, label: str):
    # A legend takes its width from the axes.
    wrapped = textwrap.fill(label, 34)
    return {"color": style.colour, "linestyle": _DASHES[style.dash], "label": wrapped}


def draw_layers(runs: pd.DataFrame, points: pd.DataFrame, title: str = "") -> Figure:
    """Draws the sparsity of each layer of some runs, in the order of the model.

    Args:
      runs: whose folders have layers.csv.
      points: of the other pictures, whose variants look the same here.
      title: of the picture.

    Raises:
      ValueError: if the layers.csv of a run is missing or damaged.
    """
    tables = [read_layers(source) for source in runs.source]
    layers = list(pd.concat(tables).name.unique())
    look = styles_of_runs(runs, points)
    with matplotlib.rc_context(_SETTINGS):
        figure, axes = _empty(1.6 + 0.18 * len(layers), title or "Sparsity by layer")
        for table, (label, style), whole in zip(
            tables, look, runs.sparsity, strict=True
        ):
            axes.plot(
                100 * table.sparsity,
                table.name.map(layers.index),
                marker=style.marker,
                markersize=5,
                markeredgewidth=0,
                linewidth=0.8,
                color=style.colour,
                linestyle=_DASHES[style.dash],
                label=label,
            )
            axes.axvline(100 * whole, linewidth=1, color=style.colour, linestyle="--")
        axes.set(
            xlabel="zeros (% of the weights of a tensor); dashed: of the whole model",
            # From a multiple of ten.
            xlim=(10 * math.floor(10 * min(t.sparsity.min() for t in tables)) - 1, 101),
            ylim=(len(layers) - 0.5, -0.5),
        )
        axes.set_yticks(range(len(layers)), layers, fontsize=7)
        figure.legend(loc="outside upper left", frameon=False, fontsize=9)
    return figure


def styles_of_runs(runs: pd.DataFrame, points: pd.DataFrame) -> list[tuple[str, Style]]:
    """Name and style of each run: its variant's, unless several are of that one."""
    labels = [
        f"{run.variant}, {run.sparsity:.1%}, seed {run.seed:.0f} ({run.source.name})"
        for run in runs.itertuples()
    ]
    keys = runs.variant.mask(runs.variant.duplicated(keep=False), labels)
    look = styles([*keys, *points.variant])
    return [(label, look[key]) for label, key in zip(labels, keys, strict=True)]


def save(figure: Figure, folder: str | os.PathLike, name: str) -> list[pathlib.Path]:
    """Writes a figure as PNG and SVG, and returns the files."""
    paths = [pathlib.Path(folder) / f"{name}.{ending}" for ending in FORMATS]
    with matplotlib.rc_context(_SETTINGS):
        for path in paths:
            # Without a date, the same picture is the same file.
            metadata = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(path, dpi=150, metadata=metadata)
    return paths
