"""Latencies of runs, and a picture of quality over them."""

import dataclasses
import statistics

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
    lines = {}
    for point in points:
        here = [taken[record.source] for record in point.records]
        if point.is_dense:
            _draw_dense(axes, point.quality.median, here)
            continue
        style = look[point.variant]
        places = [each.engine for each in here]
        qualities = [each.record.quality for each in here]
        axes.scatter(places, qualities, 9, style.colour, style.marker, alpha=0.5)
        place = statistics.median(places), point.quality.median, point
        lines.setdefault(point.variant, []).append(place)
    for variant, line in lines.items():
        style = look[variant]
        line.sort(key=lambda place: place[2].spread("sparsity").median)
        places, qualities, _ = zip(*line, strict=True)
        axes.plot(
            places,
            qualities,
            color=style.colour,
            marker=style.marker,
            linestyle=":" if style.dotted else "-",
            label=variant,
        )
        for place, quality, point in line:
            text = f"{point.spread('sparsity').median:.0%}"
            axes.annotate(text, (place, quality), (4, 4), textcoords="offset points")
    axes.set_xlabel("milliseconds of a batch")
    axes.set_xlim(left=0)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_dense(axes, quality, latencies):
    """The reference: level, and where ONNX Runtime is."""
    place = statistics.median(each.onnxruntime for each in latencies)
    axes.axhline(quality, color=_DENSE, linestyle="--", linewidth=0.8)
    axes.axvline(place, color=_DENSE, linestyle="--", linewidth=0.8)
    axes.plot(place, quality, "o", color=_DENSE, label="dense, ONNX Runtime")
    place = statistics.median(each.engine for each in latencies)
    axes.plot(place, quality, "o", color=_DENSE, mfc="white", label="dense, engine")
