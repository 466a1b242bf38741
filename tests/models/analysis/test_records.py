"""Reading runs and published tables."""

import json
import os
import subprocess
import sys

import pytest

from state_of_sparsity.models.analysis.record import Statistic
from state_of_sparsity.models.analysis.records import (
    read_layers,
    read_records,
    runs_named,
)


def test_a_run_is_read_from_its_folder(make_run):
    path = make_run("run", 0.875, 0.75, 3, flags={"sparsity": 0.75})
    (record,), skipped = read_records([path])
    assert not skipped
    assert (record.source, record.variant) == (path, "magnitude pruning")
    assert (record.model, record.dataset, record.metric) == (
        "resnet50",
        "digits",
        "top1",
    )
    assert (record.quality, record.sparsity, record.seed) == (87.5, 0.75, 3)
    assert (record.statistic, record.runs) == (Statistic.RUN, 1)
    assert not record.published
    # The layers have 100, 800 and 100 weights; 100 parameters are biases.
    assert (record.counted_weights, record.parameters) == (1_000, 1_100)
    assert record.compression == 1_100 / 350
    assert (record.speed_up, record.flops_share) == (4, 0.25)
    assert record.training_flops_share == 0.75


def test_bleu_is_no_share(make_run):
    path = make_run("run", 27.3, result={"quality_metric": "bleu"})
    assert read_records([path])[0][0].quality == 27.3


def test_a_run_of_0_1_0_has_no_operations_of_training(make_run):
    path = make_run("run")
    result = json.loads((path / "result.json").read_text())
    del result["training_flops"], result["dense_training_flops"]
    (path / "result.json").write_text(json.dumps(result))
    (record,), _ = read_records([path])
    assert record.training_flops_share is None
    assert record.flops_share == pytest.approx(0.1)


def test_runs_are_found_at_any_depth_and_read_once(make_run, tmp_path):
    make_run("a/b/one")
    make_run("a/two", seed=1)
    paths = [tmp_path, tmp_path / "a", tmp_path / "a" / "two", f"{tmp_path}/a/../a"]
    records, _ = read_records(paths)
    assert sorted(record.source.name for record in records) == ["one", "two"]


def test_what_is_inside_of_a_run_is_no_run(make_run):
    path = make_run("run")
    make_run("run/weights/other")
    assert [record.source for record in read_records([path])[0]] == [path]


def test_runs_without_a_result_or_flags_are_skipped_and_listed(make_run, tmp_path):
    make_run("done")
    (make_run("running") / "result.json").unlink()
    (make_run("strange") / "flags.txt").unlink()
    records, skipped = read_records([tmp_path])
    assert [record.source.name for record in records] == ["done"]
    assert skipped == [
        f"{tmp_path / 'running'}: not finished",
        f"{tmp_path / 'strange'}: has no flags.txt",
    ]


def test_runs_of_which_none_is_finished_are_an_error_that_lists_them(make_run):
    path = make_run("running")
    (path / "result.json").unlink()
    with pytest.raises(ValueError, match=r"no finished run\.\n.*running: not finished"):
        read_records([path])


def test_no_paths_are_refused():
    with pytest.raises(ValueError, match="Give folders of runs, or published tables"):
        read_records([])


def test_a_path_without_runs_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"nothing at {tmp_path / 'none'}"):
        read_records([tmp_path / "none"])
    with pytest.raises(ValueError, match=f"{tmp_path} holds no runs"):
        read_records([tmp_path])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("[]", "no result"),
        ('{"model": "resnet50"}', "dataset, quality_metric, quality, .* missing"),
    ],
)
def test_a_damaged_result_is_named(make_run, text, reason):
    path = make_run("run")
    (path / "result.json").write_text(text)
    with pytest.raises(ValueError, match=rf"run/result.json is damaged \(.*{reason}"):
        read_records([path])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("quality", float("nan")),
        ("quality", None),
        ("quality", "good"),
        ("sparsity", 1.5),
    ],
)
def test_a_figure_of_a_result_that_cannot_be_is_named(make_run, name, value):
    path = make_run("run", result={name: value})
    with pytest.raises(ValueError, match=r"run/result\.json is damaged"):
        read_records([path])


def test_labels_rename_by_path_and_the_first_counts(make_run, tmp_path):
    for name in ("early_1", "early_2", "late"):
        make_run(name)
    labels = {r"early_\d": "early", "early_1": "never", "late$": "late"}
    with pytest.raises(ValueError, match="'early_1' is found in the path of none"):
        read_records([tmp_path], labels)
    del labels["early_1"]
    records, _ = read_records([tmp_path], labels)
    assert [record.variant for record in records] == ["early", "early", "late"]


def test_a_label_that_is_no_expression_is_refused(make_run):
    with pytest.raises(ValueError, match=r"regular expression. Received: '\('"):
        read_records([make_run("run")], {"(": "name"})


def test_the_published_tables_are_read_row_by_row(published):
    records, skipped = read_records(published)
    assert not skipped
    assert all(record.published for record in records)
    lines = [path.read_text().splitlines()[1:] for path in published]
    assert len(records) == sum(map(len, lines))
    (best,) = (
        r
        for r in records
        if (r.model, r.technique, r.sparsity)
        == ("transformer", "magnitude_pruning", 0.9)
    )
    assert (best.quality, best.statistic, best.metric) == (
        23.26,
        Statistic.BEST,
        "bleu",
    )
    assert best.dataset == "wmt14_translate/de-en"
    assert best.flops_share is None


def test_published_groups_have_mean_deviation_and_runs(published):
    records, _ = read_records(published[1:])
    found = {(r.model, r.variant, r.sparsity): r for r in records}
    group = found["resnet50", "scratch-b, constant final rate, augmented init", 0.9]
    assert (group.quality, group.deviation, group.runs) == (67.62, 0.19, 9)
    failed = found["transformer", "scratch-e", 0.8]
    assert (failed.runs, failed.failed_runs) == (25, 1)
    assert {r.statistic for r in records} == {Statistic.MEAN}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "neither a run's folder nor a published table"),
        ("step,loss\n1,2\n", "Received: step, loss"),
        (
            "model,technique,sparsity,metric,score,hyperparameters\n"
            "resnet50,dense,0.0,top1,76,\nresnet50,dense,none,top1,76,\n",
            "table.csv, line 3, is damaged",
        ),
        (
            "model,technique,sparsity,metric,score,hyperparameters\n"
            "vgg16,dense,0.0,top1,76,\n",
            "table.csv, line 2, is damaged: KeyError",
        ),
    ],
)
def test_another_table_is_refused(tmp_path, text, expected):
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(ValueError, match=expected):
        read_records([tmp_path / "table.csv"])


def test_a_picture_is_no_table(tmp_path):
    (tmp_path / "plot.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match=r"plot\.png is no published table"):
        read_records([tmp_path / "plot.png"])


def test_runs_are_chosen_by_path_and_by_the_end_of_it(study):
    records, _ = read_records([study])
    name = "magnitude_pruning_0.9_1"
    for text in (name, f"study/{name}", study / name):
        (run,) = runs_named(records, [text])
        assert run.source == study / name


def test_a_run_that_was_not_read_is_an_error_that_lists_those_that_were(study):
    records, _ = read_records([study])
    with pytest.raises(ValueError, match=r"'none' is the name of no run .*dense_0.0_0"):
        runs_named(records, ["none"])


def test_a_name_of_two_runs_is_an_error_that_lists_them(make_run, tmp_path):
    for seed in (0, 1):
        make_run(f"{seed}/run", seed=seed)
    records, _ = read_records([tmp_path])
    with pytest.raises(ValueError, match=r"more than one run.*0/run, .*1/run"):
        runs_named(records, ["run"])


def test_layers_that_are_missing_or_damaged_are_named(make_run):
    path = make_run("run")
    (path / "layers.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"layers\.csv is damaged"):
        read_layers(path)
    (path / "layers.csv").unlink()
    with pytest.raises(ValueError, match=r"run has no layers\.csv"):
        read_layers(path)


def test_the_analysis_imports_no_framework(tmp_path):
    modules = "axes, page, pictures, records, summary, tables"
    script = (
        f"import sys; from state_of_sparsity.models.analysis import {modules}; "
        "assert not {'keras', 'tf_keras', 'tensorflow', 'absl'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ)
