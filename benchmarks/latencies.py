"""Latencies of runs, and a picture of quality over them."""

import textwrap

import matplotlib.figure
import pandas as pd

from state_of_sparsity.models.analysis.points import quality_label
from state_of_sparsity.models.analysis.styles import Style, styles
from state_of_sparsity.models.runs.variants import DENSE

_DENSE, _BLACK = "dense, ONNX Runtime", Style("#000000", "o")


def draw(latencies: pd.DataFrame) -> matplotlib.figure.Figure:
    """Draws quality over milliseconds, a panel for each batch and number of threads.

    Sparse models are run by the engine, and dense ones, of one size or of several, by
    ONNX Runtime.

    Args:
      latencies: a table of finished runs with their `setting`, batch and threads in
        words, and medians of milliseconds, `engine` and `onnxruntime`.
    """
    settings = list(latencies.setting.unique())
    size = 1.6 + 5 * len(settings), 4.4
    figure = matplotlib.figure.Figure(size, layout="constrained")
    panels = figure.subplots(1, len(settings), squeeze=False, sharey=True)[0]
    for axes, setting in zip(panels, settings, strict=True):
        _draw_panel(axes, latencies[latencies.setting == setting])
        axes.set_title(setting, loc="left", fontsize=11)
    panels[0].set_ylabel(quality_label(latencies))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    return figure


def _draw_panel(axes, latencies):
    """A line for each variant through medians of runs, which are small marks."""
    is_dense = latencies.technique == DENSE
    runs = latencies.assign(
        line=latencies.variant.mask(is_dense, _DENSE),
        place=latencies.engine.mask(is_dense, latencies.onnxruntime),
        label=latencies.sparsity.map("{:.0%}".format),
    )
    sizes = latencies.parameters.map(lambda number: f"{number / 1e6:.2g} M")
    runs["label"] = runs.label.mask(is_dense, sizes)
    # Those of one target differ in sparsity by a rounding.
    runs["point"] = runs.group.mask(is_dense, sizes)
    points = runs.groupby(["line", "point"], sort=False).agg(
        {"place": "median", "quality": "median", "label": "first"}
    )
    look = styles(runs.line[~is_dense])
    for name, line in points.groupby("line", sort=False):
        _draw_line(axes, line.sort_values("place"), look.get(name, _BLACK), name)
    axes.scatter(runs.place, runs.quality, 9, "#888888", zorder=1)
    axes.margins(0.12)
    _draw_front(axes, list(zip(points.place, points.quality, strict=True)))
    axes.set_xlabel("milliseconds of a batch")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_line(axes, line, style, name):
    """A line whose points say their sparsity, or how many parameters they have."""
    axes.plot(
        line.place,
        line.quality,
        color=style.colour,
        marker=style.marker,
        linestyle=style.dash,
        label=textwrap.fill(name, 26),
    )
    for point in line.itertuples():
        axes.annotate(
            point.label,
            (point.place, point.quality),
            (5, -9),
            textcoords="offset points",
            color=style.colour,
            fontsize=8,
        )


def _draw_front(axes, marks):
    right = axes.get_xlim()[1]
    found = front(marks)
    places, qualities = zip(*found, (right, found[-1][1]), strict=True)
    steps = {"drawstyle": "steps-post", "linewidth": 6, "zorder": 0.5}
    axes.plot(places, qualities, color="#e4e4e4", label="Pareto front", **steps)
    axes.set_xlim(right=right)


def front(marks: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of pairs of latency and quality, those that no other one beats in both.

    They are in the order of latency.
    """
    found = []
    for place, quality in sorted(marks, key=lambda mark: (mark[0], -mark[1])):
        if not found or quality > found[-1][1]:
            found.append((place, quality))
    return found
