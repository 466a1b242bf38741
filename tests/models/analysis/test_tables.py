"""The table, to read and to reckon with."""

import csv
import io
import re

import numpy as np
import pytest

from state_of_sparsity.models.analysis.tables import to_csv, to_markdown
from tests.models.analysis.conftest import ACCURACIES, points_of


def without_padding(text):
    return re.sub(" +", " ", text)


def test_the_csv_has_what_comparisons_are_judged_by(study):
    rows = list(csv.DictReader(io.StringIO(to_csv(points_of(study)))))
    assert len(rows) == len(ACCURACIES)
    row = rows[2]
    assert (row["variant"], row["sparsity"]) == ("magnitude pruning", "0.9")
    assert (row["runs"], row["seeds"], row["statistic"]) == ("3", "0 1 2", "median")
    accuracies = ACCURACIES["magnitude_pruning", 0.9]
    found = [float(row[n]) for n in ("quality", "quality_low", "quality_high")]
    expected = [np.median(accuracies), min(accuracies), max(accuracies)]
    np.testing.assert_allclose(found, 100 * np.array(expected))
    assert float(row["quality_to_dense"]) == pytest.approx(90 - 96)
    assert float(row["compression"]) == pytest.approx(1_100 / 200, rel=1e-5)
    assert (row["speed_up"], row["flops_share"]) == ("10", "0.1")
    assert row["training_flops_share"] == "0.75"
    assert row["steps"] == "600"


def test_what_was_not_published_is_empty(published):
    rows = list(
        csv.DictReader(io.StringIO(to_csv(points_of(published[1], model="resnet50"))))
    )
    assert {row["flops_share"] for row in rows} == {""}
    assert {row["quality_to_dense"] for row in rows} == {""}
    assert {row["statistic"] for row in rows} == {"mean"}


def test_the_markdown_table_has_a_row_for_each_point(study):
    lines = without_padding(to_markdown(points_of(study))).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + len(ACCURACIES)
    assert len({line.count("|") for line in table}) == 1
    expected = (
        "| magnitude pruning | 90.00 % | 3 | 0, 1, 2 | 600 | 90.00 (88.00 to 92.00) "
        "| -6.00 | 5.50x | 10.00x | 10.00 % | 75.00 % |"
    )
    assert table[4] == expected


def test_notes_say_the_denominator_of_sparsity(study):
    text = to_markdown(points_of(study))
    assert "over the 1,000 weights that could be made sparse" in text
    assert "of 1,100 parameters" in text


def test_notes_say_in_which_flags_the_runs_of_a_point_differ(make_run, tmp_path):
    for seed, end in enumerate((400, 500)):
        flags = {"sparsity": 0.9, "end_step": end}
        make_run(f"run_{seed}", seed=seed, flags=flags)
    text = to_markdown(points_of(tmp_path))
    assert "runs of magnitude pruning at 90.00 % differ in --end_step." in text


def test_published_figures_say_what_they_are(published):
    text = without_padding(to_markdown(points_of(*published, model="transformer")))
    assert "| 25 (1 failed) | 22.70 ± 0.16 |" in text
    assert "| 23.26 best |" in text
    assert "the published mean and standard deviation" in text
    # Nothing of them is known.
    assert "speed-up" not in text.splitlines()[0]


def test_a_bar_in_a_name_does_not_break_the_table(make_run):
    points = points_of(make_run("run"), labels={"run": "a|b"})
    assert r"| a\|b " in to_markdown(points)
