"""The picture of a sparsity report: sparsity and size of each tensor."""

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter


def draw(report, path) -> None:
    """Draws a report, in the order of the model.

    Args:
      report: a `state_of_sparsity.report.SparsityReport`.
      path: of the picture; its ending (.png, .pdf, .svg) says the format.
    """
    layers = report.layers
    figure = Figure(figsize=(10, 1.4 + 0.18 * len(layers)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    _draw_sparsities(left, layers, report.sparsity)
    _draw_sizes(right, layers)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def _draw_sparsities(axes, layers, overall):
    places = range(len(layers))
    axes.barh(places, [100 * layer.sparsity for layer in layers], height=0.8)
    axes.axvline(100 * overall, color="black", linestyle="--", linewidth=1)
    axes.set(
        title=f"Sparsity by layer (dashed: {overall:.1%} overall)",
        xlabel="zeros (% of the weights of a tensor)",
        xlim=(0, 100),
        ylim=(len(layers) - 0.5, -0.5),
    )
    axes.set_yticks(places, [layer.name for layer in layers], fontsize=7)


def _draw_sizes(axes, layers):
    places = range(len(layers))
    kept = [layer.size - layer.zeros for layer in layers]
    zeros = [layer.zeros for layer in layers]
    axes.barh(places, kept, height=0.8, label="not zero")
    axes.barh(places, zeros, left=kept, height=0.8, color="0.85", label="zero")
    axes.set(title="Size of each tensor", xlabel="weights")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.legend(frameon=False, fontsize=7)
