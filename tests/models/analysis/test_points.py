"""From runs to points."""

import numpy as np
import pytest

from tests.models.analysis.conftest import ACCURACIES, points_of

ENDS = ("", "_low", "_high")


def spread(point, name):
    return tuple(getattr(point, f"{name}{end}") for end in ENDS)


def test_a_point_has_median_and_range_of_its_seeds(study):
    found = {
        (p.technique, round(p.sparsity_low, 2)): p
        for p in points_of(study).itertuples()
    }
    assert found.keys() == ACCURACIES.keys()
    for key, accuracies in ACCURACIES.items():
        percent = 100 * np.array(accuracies)
        expected = np.median(percent), percent.min(), percent.max()
        assert spread(found[key], "quality") == pytest.approx(expected)
        assert (found[key].runs, found[key].seeds) == (3, (0, 1, 2))
        # Of a learned technique it is at the median sparsity.
        learned = key[0] == "variational_dropout"
        reached = (0.81, 0.8, 0.82) if learned else (key[1],) * 3
        assert spread(found[key], "sparsity") == pytest.approx(reached)


def test_points_are_in_order_dense_first(study, make_run):
    make_run("study/erk", flags={"budget": "erk", "sparsity": 0.9})
    assert list(points_of(study).variant) == [
        "dense",
        "magnitude pruning",
        "magnitude pruning",
        "magnitude pruning, erk",
        "variational dropout",
    ]


def test_the_difference_to_dense_is_that_of_the_medians(study, make_run):
    dense, *others = points_of(study).itertuples()
    assert np.isnan(dense.quality_to_dense)
    for point in others:
        accuracies = ACCURACIES[point.technique, round(point.sparsity_low, 2)]
        expected = 100 * (np.median(accuracies) - 0.96)
        assert point.quality_to_dense == pytest.approx(expected)
    assert points_of(make_run("alone")).quality_to_dense.isna().all()


def test_of_two_dense_controls_that_of_as_many_steps_counts(study, make_run):
    long = {"technique": "dense", "train_steps": 1200}
    make_run("study/long", 0.99, 0.0, flags=long)
    make_run("study/pruned", 0.98, 0.7, flags={"train_steps": 1200, "sparsity": 0.7})
    points = points_of(study)
    found = points.set_index(["variant", "sparsity_low"]).quality_to_dense
    assert found["magnitude pruning", 0.7] == pytest.approx(-1)
    assert found["magnitude pruning", 0.9] == pytest.approx(-6)
    assert {*points.variant} >= {"dense, 600 steps", "dense, 1,200 steps"}


def test_flags_in_which_the_runs_of_a_point_differ_are_known(make_run, tmp_path):
    same = {"sparsity": 0.9, "frequency": 2}
    make_run("a", seed=0, flags=same | {"end_step": 500, "load_weights_from": "/a"})
    make_run("b", seed=1, flags=same | {"load_weights_from": "/b"})
    assert points_of(tmp_path).differing.item() == ("end_step",)


def test_a_published_mean_replaces_the_best_of_the_same_runs(published):
    points = points_of(*published, model="resnet50")
    found = {(p.variant, p.sparsity_low): p for p in points.itertuples()}
    ticket = found["lottery ticket", 0.9]
    assert (ticket.statistic, ticket.runs) == ("mean", 9)
    expected = (67.38, 67.38 - 0.2, 67.38 + 0.2)
    assert spread(ticket, "quality") == pytest.approx(expected)
    pruned = found["magnitude pruning", 0.9]
    assert (pruned.statistic, pruned.quality) == ("best", 73.91)
    assert pruned.quality_to_dense == pytest.approx(73.91 - 76.67)


def test_published_points_differ_from_the_published_dense_model(study, published):
    # As if digits were ImageNet.
    for path in study.glob("*/result.json"):
        path.write_text(path.read_text().replace("digits", "imagenet2012"))
    points = points_of(study, published[0], model="resnet50")
    dense = points[points.is_dense]
    assert list(zip(dense.label, dense.published, strict=True)) == [
        ("dense", False),
        ("dense (published)", True),
    ]
    pruned = points[points.variant == "magnitude pruning"].groupby("published")
    first = pruned.quality_to_dense.first()
    assert first[False] == pytest.approx(94 - 96)
    assert first[True] == pytest.approx(76.53 - 76.67)
