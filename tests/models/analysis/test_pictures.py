"""Pictures: what is drawn where, and that it can be read."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from state_of_sparsity.models.analysis.axes import AXES, OVER_FLOPS, OVER_SPARSITY
from state_of_sparsity.models.analysis.finished_runs import read_runs, runs_named
from state_of_sparsity.models.analysis.pictures import draw_layers, draw_quality, save
from state_of_sparsity.models.analysis.points import summarize
from state_of_sparsity.models.analysis.styles import styles
from state_of_sparsity.models.runs.variants import LATER, PAPER, Settings, variant
from tests.models.analysis.conftest import ACCURACIES, LAYERS, PUBLISHED, points_of


def lines_of(figure):
    """The lines in the legend, by their names."""
    (axes,) = figure.axes
    handles, names = axes.get_legend_handles_labels()
    return dict(zip((name.replace("\n", " ") for name in names), handles, strict=True))


@pytest.fixture
def points(study):
    return points_of(study)


@pytest.mark.parametrize("axis", AXES, ids=lambda axis: axis.name)
def test_a_line_has_the_medians_of_its_seeds_over_density(points, axis):
    line = lines_of(draw_quality(points, axis))["magnitude pruning"]
    expected = [100 * np.median(ACCURACIES["magnitude_pruning", s]) for s in (0.5, 0.9)]
    # The share of FLOPs of these runs is their density.
    np.testing.assert_allclose(line.get_xdata(), [0.5, 0.1])
    np.testing.assert_allclose(line.get_ydata(), expected)


def test_bars_have_the_range_of_the_seeds(points):
    figure = draw_quality(points, OVER_SPARSITY)
    (axes,) = figure.axes
    segments = [bar for bars in axes.collections for bar in bars.get_segments()]
    places = {0.5: 0.5, 0.9: 0.1, 0.8: 0.19}
    expected = [
        (places[sparsity], 100 * min(values), 100 * max(values))
        for (_, sparsity), values in ACCURACIES.items()
        if sparsity
    ]
    found = [(low[0], low[1], high[1]) for low, high in segments]
    np.testing.assert_allclose(sorted(found), sorted(expected))
    # That of dense is a level in a band.
    np.testing.assert_allclose(lines_of(figure)["dense"].get_ydata(), [96, 96])
    (band,) = axes.patches
    np.testing.assert_allclose([band.get_y(), band.get_height()], [95, 2], rtol=1e-6)


def test_density_is_logarithmic_and_its_ticks_say_sparsity(published):
    (axes,) = draw_quality(
        points_of(published[0], model="resnet50"), OVER_SPARSITY
    ).axes
    assert axes.get_xscale() == "log"
    left, right = axes.get_xlim()
    assert left > 0.5 > 0.02 > right
    texts = [tick.get_text() for tick in axes.get_xticklabels()]
    assert texts == ["50 %", "70 %", "80 %", "90 %", "95 %", "98 %"]


def test_an_axis_of_one_point_has_a_tick(make_run):
    for sparsity in (0.01, 0.6, 0.93, 0.997):
        points = points_of(make_run(f"run_{sparsity}", sparsity=sparsity))
        for axis in AXES:
            (axes,) = draw_quality(points, axis).axes
            assert len(axes.get_xticks()) >= 1


@pytest.mark.parametrize(
    ("model", "last"), [("resnet50", 57.90), ("transformer", 16.37)]
)
def test_the_published_tables_make_the_figures_of_the_paper(published, model, last):
    points = points_of(*published, model=model)
    figure = draw_quality(points, OVER_SPARSITY)
    lines = lines_of(figure)
    techniques = {"dense", "magnitude pruning", "random pruning", "variational dropout"}
    assert lines.keys() >= techniques | {"lottery ticket", "scratch-e", "scratch-b"}
    assert ("L0 regularization" in lines) == (model == "transformer")
    found = lines["magnitude pruning"].get_xydata()[-1]
    np.testing.assert_allclose(found, [0.02, last])
    assert draw_quality(points, OVER_FLOPS) is None
    # Nothing covers anything else.
    FigureCanvasAgg(figure).draw()
    (axes,), (legend,) = figure.axes, figure.legends
    inside = axes.get_window_extent()
    assert not legend.get_window_extent().overlaps(inside)
    assert inside.width > figure.bbox.width / 2
    for labels in (axes.get_xticklabels(), axes.get_yticklabels(), legend.get_texts()):
        boxes = [label.get_window_extent() for label in labels if label.get_text()]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_published_lines_are_dashed_beside_our_own(study, published):
    for path in study.glob("*/result.json"):
        path.write_text(path.read_text().replace("digits", "imagenet2012"))
    points = points_of(study, published[0], model="resnet50")
    lines = lines_of(draw_quality(points, OVER_SPARSITY))
    own, theirs = lines["magnitude pruning"], lines["magnitude pruning (published)"]
    assert own.get_color() == theirs.get_color()
    assert (own.get_linestyle(), theirs.get_linestyle()) == ("-", "--")
    assert lines["dense (published)"].get_linestyle() == "--"


def test_a_point_at_which_nothing_is_left_is_not_on_the_axis(make_run, tmp_path):
    for sparsity in (0.9, 1.0):
        make_run(f"run_{sparsity}", sparsity=sparsity, flags={"sparsity": sparsity})
    points = points_of(tmp_path)
    assert len(points) == 2
    line = lines_of(draw_quality(points, OVER_SPARSITY))["magnitude pruning"]
    np.testing.assert_allclose(line.get_xdata(), [0.1])


def test_later_techniques_look_as_their_published_scores_in_every_picture():
    path = PUBLISHED[0].with_name("published_techniques.csv")
    names = set(points_of(path).variant)
    global_ones = {"AC/DC, global", "Feather, global", "ST-3, global"}
    assert names == global_ones | {
        *("ST-3, sigma, global", "RigL, erk", "STR", "SR-STE")
    }
    known = [*PAPER, *(variant(Settings({"technique": name})) for name in LATER)]
    assert global_ones <= set(known)
    alone = {name: styles([name])[name] for name in known}
    look = styles([*known, *map(str, range(20))])
    assert alone.items() <= look.items()
    assert len(set(look.values())) == len(look)


def test_variants_of_the_paper_look_the_same_in_every_picture():
    alone = {name: styles([name])[name] for name in PAPER}
    look = styles([*PAPER, *map(str, range(33))])
    assert alone.items() <= look.items()
    # Forty are told apart, and not by the colour alone: a second line of it is dotted.
    assert len(set(look.values())) == 40
    plain = [style.colour for style in look.values() if style.dash == "solid"]
    assert len(set(plain)) == len(plain) == 10


def test_layers_of_chosen_runs_are_drawn_in_the_order_of_the_model(make_run, tmp_path):
    sparsities = {"conv1/kernel": 0.5, "conv2/kernel": 0.95, "logits/kernel": 0.7}
    make_run("uneven", layers=sparsities, flags={"budget": "erk"})
    make_run("even", seed=4)
    runs, _ = read_runs([tmp_path])
    figure = draw_layers(runs_named(runs, ["uneven", "even"]), summarize(runs))
    lines = lines_of(figure)
    uneven = lines["magnitude pruning, erk, 90.0%, seed 0 (uneven)"]
    np.testing.assert_allclose(uneven.get_xdata(), [50, 95, 70])
    np.testing.assert_allclose(uneven.get_ydata(), [0, 1, 2])
    even = lines["magnitude pruning, 90.0%, seed 4 (even)"]
    np.testing.assert_allclose(even.get_xdata(), [90, 90, 90])
    assert even.get_color() != uneven.get_color()
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == list(LAYERS)
    assert axes.yaxis_inverted()


def test_a_run_has_the_colour_of_its_variant_in_the_picture_of_layers(study, make_run):
    make_run("study/erk", flags={"budget": "erk", "sparsity": 0.9})
    runs, _ = read_runs([study])
    points = summarize(runs)
    quality = lines_of(draw_quality(points, OVER_SPARSITY))["magnitude pruning, erk"]
    (layers,) = lines_of(draw_layers(runs_named(runs, ["erk"]), points)).values()
    assert quality.get_color() == layers.get_color()
    # Two runs of one variant are told apart.
    names = ["magnitude_pruning_0.5_0", "magnitude_pruning_0.9_0"]
    one, other = lines_of(draw_layers(runs_named(runs, names), points)).values()
    assert one.get_color() != other.get_color()


def test_pictures_are_png_and_svg_and_the_same_each_time(points, tmp_path):
    for name in ("one", "again"):
        paths = save(draw_quality(points, OVER_SPARSITY), tmp_path, name)
        assert [path.name for path in paths] == [f"{name}.png", f"{name}.svg"]
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "one.svg").read_text()
    assert text == (tmp_path / "again.svg").read_text()
    # Text that can be searched for, and selected.
    for expected in ("variational dropout", "top-1 accuracy (%)", "90 %"):
        assert expected in text
