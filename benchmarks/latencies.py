"""Latencies of runs, and a picture of quality over them."""

import textwrap

import matplotlib.figure
import pandas as pd

from state_of_sparsity.models.analysis.points import quality_label, summarize
from state_of_sparsity.models.analysis.styles import styles

_DENSE = "#000000"


def draw(latencies: pd.DataFrame) -> matplotlib.figure.Figure:
    """Draws quality over milliseconds, a panel for each batch and number of threads.

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
    points = summarize(latencies)
    look = styles(points.variant)
    lines, marks = {}, []
    for point in points.itertuples():
        here = latencies[latencies.source.map(str).isin(point.sources)]
        place = here.engine.median()
        marks.append((place, point.quality))
        if point.is_dense:
            dense = here.onnxruntime.median()
            marks.append((dense, point.quality))
            _draw_dense(axes, dense, place, point.quality)
            continue
        style = look[point.variant]
        axes.scatter(
            here.engine, here.quality, 9, style.colour, style.marker, alpha=0.5
        )
        of_point = point.sparsity, *marks[-1]
        lines.setdefault(point.variant, []).append(of_point)
    for variant, line in lines.items():
        _draw_line(axes, sorted(line), look[variant], variant)
    axes.margins(0.12)
    _draw_front(axes, marks)
    axes.set_xlabel("milliseconds of a batch")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_dense(axes, place, place_in_engine, quality):
    """The reference: its quality is level, and its latency in ONNX Runtime upright."""
    axes.axhline(quality, color=_DENSE, linestyle="--", linewidth=0.8)
    axes.axvline(place, color=_DENSE, linestyle="--", linewidth=0.8)
    axes.plot(place, quality, "o", color=_DENSE, label="dense, ONNX Runtime")
    axes.plot(
        place_in_engine, quality, "o", color=_DENSE, mfc="w", label="dense, engine"
    )


def _draw_line(axes, line, style, variant):
    """A line from dense to sparse, whose points say their sparsity."""
    _, places, qualities = zip(*line, strict=True)
    axes.plot(
        places,
        qualities,
        color=style.colour,
        marker=style.marker,
        linestyle=style.dash,
        label=textwrap.fill(variant, 26),
    )
    for sparsity, *point in line:
        axes.annotate(
            f"{sparsity:.0%}",
            point,
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
