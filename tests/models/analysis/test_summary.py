"""From runs to points."""

import dataclasses

import numpy as np
import pytest

from state_of_sparsity.models.analysis.record import Statistic
from state_of_sparsity.models.analysis.records import read_records
from state_of_sparsity.models.analysis.summary import (
    of_one_network,
    summarize,
)
from tests.models.analysis.conftest import ACCURACIES


def points_of(*paths, **chosen):
    return summarize(of_one_network(read_records(paths)[0], **chosen))


def test_a_point_has_median_and_range_of_its_seeds(study):
    found = {
        (p.records[0].technique, round(p.spread("sparsity").low, 2)): p
        for p in points_of(study)
    }
    assert found.keys() == ACCURACIES.keys()
    for key, accuracies in ACCURACIES.items():
        percent = 100 * np.array(accuracies)
        expected = [np.median(percent), percent.min(), percent.max()]
        quality = found[key].quality
        assert [quality.median, quality.low, quality.high] == pytest.approx(expected)
        assert (found[key].runs, found[key].seeds) == (3, [0, 1, 2])


def test_a_point_of_a_learned_technique_is_at_its_median_sparsity(study):
    point = points_of(study)[-1]
    assert point.variant == "variational dropout"
    reached = dataclasses.astuple(point.spread("sparsity"))
    assert reached == pytest.approx((0.81, 0.8, 0.82))


def test_points_are_in_order_dense_first(study, make_run):
    make_run("study/erk", flags={"budget": "erk", "sparsity": 0.9})
    names = [point.variant for point in points_of(study)]
    assert names == [
        "dense",
        "magnitude pruning",
        "magnitude pruning",
        "magnitude pruning, erk",
        "variational dropout",
    ]


def test_the_difference_to_dense_is_that_of_the_medians(study):
    dense, *others = points_of(study)
    assert dense.to_dense is None
    median = np.median(ACCURACIES["dense", 0.0])
    for point in others:
        accuracies = [record.quality / 100 for record in point.records]
        expected = 100 * (np.median(accuracies) - median)
        assert point.to_dense == pytest.approx(expected)


def test_of_two_dense_controls_that_of_as_many_steps_counts(study, make_run):
    long = {"technique": "dense", "train_steps": 1200}
    make_run("study/long", 0.99, 0.0, flags=long)
    make_run("study/pruned", 0.98, 0.7, flags={"train_steps": 1200, "sparsity": 0.7})
    found = {(p.variant, p.spread("sparsity").low): p for p in points_of(study)}
    assert found["magnitude pruning", 0.7].to_dense == pytest.approx(-1)
    assert found["magnitude pruning", 0.9].to_dense == pytest.approx(-6)
    assert {variant for variant, _ in found} >= {
        "dense, 600 steps",
        "dense, 1,200 steps",
    }


def test_without_a_dense_control_there_is_no_difference(make_run):
    (point,) = points_of(make_run("run"))
    assert point.to_dense is None


def test_flags_in_which_the_runs_of_a_point_differ_are_known(make_run, tmp_path):
    same = {"sparsity": 0.9, "frequency": 2}
    make_run("a", seed=0, flags=same | {"end_step": 500, "load_weights_from": "/a"})
    make_run("b", seed=1, flags=same | {"load_weights_from": "/b"})
    (point,) = points_of(tmp_path)
    assert point.differing == ["end_step"]


def test_a_published_mean_replaces_the_best_of_the_same_runs(published):
    found = {
        (p.variant, p.spread("sparsity").low): p
        for p in points_of(*published, model="resnet50")
    }
    ticket = found["lottery ticket", 0.9]
    assert (ticket.statistic, ticket.runs) == (Statistic.MEAN, 9)
    quality = dataclasses.astuple(ticket.quality)
    assert quality == pytest.approx((67.38, 67.38 - 0.2, 67.38 + 0.2))
    pruned = found["magnitude pruning", 0.9]
    assert (pruned.statistic, pruned.quality.median) == (Statistic.BEST, 73.91)
    assert pruned.to_dense == pytest.approx(73.91 - 76.67)


def test_published_points_differ_from_the_published_dense_model(study, published):
    # As if digits were ImageNet.
    for path in study.glob("*/result.json"):
        path.write_text(path.read_text().replace("digits", "imagenet2012"))
    points = points_of(study, published[0], model="resnet50")
    dense = [point for point in points if point.is_dense]
    assert [(point.variant, point.published) for point in dense] == [
        ("dense", False),
        ("dense", True),
    ]
    own, theirs = (
        next(
            p for p in points if p.variant == "magnitude pruning" and p.published is is_
        )
        for is_ in (False, True)
    )
    assert own.to_dense == pytest.approx(94 - 96)
    assert theirs.to_dense == pytest.approx(76.53 - 76.67)


def test_two_datasets_in_one_plot_are_refused_and_listed(study, published):
    records, _ = read_records([study, *published])
    with pytest.raises(ValueError, match="There are two datasets") as error:
        of_one_network(records)
    listed = str(error.value).splitlines()[1:]
    assert [line.split()[:2] for line in listed] == [
        ["--dataset=digits", "--model=resnet50"],
        ["--dataset=wmt14_translate/de-en", "--model=transformer"],
        ["--dataset=imagenet2012", "--model=resnet50"],
    ]
    assert {r.dataset for r in of_one_network(records, dataset="digits")} == {"digits"}
    (model,) = {r.model for r in of_one_network(records, model="transformer")}
    assert model == "transformer"
    with pytest.raises(ValueError, match="two datasets"):
        of_one_network(records, model="resnet50")


def test_two_measures_of_quality_are_refused(make_run, tmp_path):
    make_run("one")
    make_run("other", result={"quality_metric": "top5"})
    with pytest.raises(ValueError, match=r"(?s)measures of quality.*top1.*top5"):
        points_of(tmp_path)


def test_networks_of_two_sizes_are_refused(make_run, tmp_path):
    make_run("narrow")
    make_run("wide", result={"flops": 40_000})
    with pytest.raises(ValueError, match=r"(?s)10,000 FLOPs: 1\n.*40,000 FLOPs: 1"):
        points_of(tmp_path)


def test_a_choice_of_no_run_lists_what_there_is(study):
    records, _ = read_records([study])
    with pytest.raises(ValueError, match=r"(?s)--dataset=mnist.*--dataset=digits"):
        of_one_network(records, dataset="mnist")
