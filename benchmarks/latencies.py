"""Latencies of runs, and a picture of quality over them."""

import dataclasses
import statistics
import textwrap

import matplotlib.figure

from state_of_sparsity.models.analysis.axes import quality_label
from state_of_sparsity.models.analysis.record import Record
from state_of_sparsity.models.analysis.styles import styles
from state_of_sparsity.models.analysis.summary import summarize

_DENSE = "#000000"


@dataclasses.dataclass(frozen=True)
class Latency:
    """Medians of milliseconds of a run.

    Attributes:
      record: of the run.
      setting: batch and threads, in words.
      engine, onnxruntime: the milliseconds.
    """

    record: Record
    setting: str
    engine: float
    onnxruntime: float


def draw(latencies: list[Latency]) -> matplotlib.figure.Figure:
    """Draws quality over milliseconds, a panel for each batch and number of threads."""
    settings = list(dict.fromkeys(latency.setting for latency in latencies))
    size = 1.6 + 5 * len(settings), 4.4
    figure = matplotlib.figure.Figure(size, layout="constrained")
    panels = figure.subplots(1, len(settings), squeeze=False, sharey=True)[0]
    for axes, setting in zip(panels, settings, strict=True):
        _draw_panel(axes, [each for each in latencies if each.setting == setting])
        axes.set_title(setting, loc="left", fontsize=11)
    panels[0].set_ylabel(quality_label(latencies[0].record.metric))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    return figure


def _draw_panel(axes, latencies):
    """A line for each variant through medians of runs, which are small marks."""
    taken = {each.record.source: each for each in latencies}
    points = summarize([each.record for each in latencies])
    look = styles(point.variant for point in points)
    lines, marks = {}, []
    for point in points:
        here = [taken[record.source] for record in point.records]
        place = statistics.median(each.engine for each in here)
        marks.append((place, point.quality.median))
        if point.is_dense:
            dense = statistics.median(each.onnxruntime for each in here)
            marks.append((dense, point.quality.median))
            _draw_dense(axes, dense, place, point.quality.median)
            continue
        style = look[point.variant]
        places = [each.engine for each in here]
        qualities = [each.record.quality for each in here]
        axes.scatter(places, qualities, 9, style.colour, style.marker, alpha=0.5)
        of_point = point.spread("sparsity").median, *marks[-1]
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
        linestyle=":" if style.dotted else "-",
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
