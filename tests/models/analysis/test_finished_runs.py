"""Reading runs and published tables, and choosing among them."""

import json
import os
import subprocess
import sys

import pytest

from state_of_sparsity.models.analysis.finished_runs import (
    of_one_network,
    read_layers,
    read_runs,
    runs_named,
)


def test_a_run_is_a_row(make_run):
    path = make_run("run", 0.875, 0.75, 3, flags={"sparsity": 0.75})
    runs, skipped = read_runs([path])
    (run,) = runs.itertuples()
    assert not skipped
    assert (run.source, run.variant) == (path, "magnitude pruning")
    assert (run.model, run.dataset, run.metric) == ("resnet50", "digits", "top1")
    assert (run.quality, run.sparsity, run.seed) == (87.5, 0.75, 3)
    assert (run.statistic, run.runs, run.published) == ("run", 1, False)
    # The layers have 100, 800 and 100 weights; 100 parameters are biases.
    assert (run.counted_weights, run.parameters) == (1_000, 1_100)
    assert run.compression == 1_100 / 350
    assert (run.speed_up, run.flops_share) == (4, 0.25)
    assert run.training_flops_share == 0.75
    # BLEU is no share.
    path = make_run("other", 27.3, result={"quality_metric": "bleu"})
    assert read_runs([path])[0].quality.item() == 27.3


def test_what_is_left_of_a_run_is_its_smaller_model_if_there_is_one(make_run):
    smaller = {"smaller_parameters": 275, "smaller_flops": 2_000}
    make_run("a", sparsity=0.5, result=smaller)
    path = make_run("b", sparsity=0.5).parent
    runs, _ = read_runs([path])
    assert runs.compression.tolist() == [4, 1_100 / 600]
    assert runs.speed_up.tolist() == [5, 2]
    assert runs.flops_share.tolist() == [0.2, 0.5]


def test_runs_are_found_at_any_depth_and_read_once(make_run, tmp_path):
    make_run("a/b/one")
    make_run("a/two", seed=1)
    # What is inside of a run is no run.
    make_run("a/two/rounds/0")
    paths = [tmp_path, tmp_path / "a", tmp_path / "a" / "two", f"{tmp_path}/a/../a"]
    runs, _ = read_runs(paths)
    assert sorted(source.name for source in runs.source) == ["one", "two"]


def test_runs_without_a_result_or_flags_are_skipped_and_listed(make_run, tmp_path):
    make_run("done")
    (make_run("running") / "result.json").unlink()
    (make_run("strange") / "flags.txt").unlink()
    runs, skipped = read_runs([tmp_path])
    assert [source.name for source in runs.source] == ["done"]
    assert skipped == [
        f"{tmp_path / 'running'}: not finished",
        f"{tmp_path / 'strange'}: has no flags.txt",
    ]
    with pytest.raises(ValueError, match=r"no finished run\.\n.*running: not finished"):
        read_runs([tmp_path / "running"])


def test_paths_without_runs_are_named(tmp_path):
    with pytest.raises(ValueError, match="Give folders of runs, or published tables"):
        read_runs([])
    with pytest.raises(ValueError, match=f"nothing at {tmp_path / 'none'}"):
        read_runs([tmp_path / "none"])
    with pytest.raises(ValueError, match=f"{tmp_path} holds no runs"):
        read_runs([tmp_path])


def test_a_damaged_result_is_named(make_run):
    result = make_run("run") / "result.json"
    whole = json.loads(result.read_text())
    for text, reason in (
        ("", "Expecting value"),
        ("[]", "no result"),
        ('{"model": "resnet50"}', "dataset, quality_metric, quality, .* missing"),
        (json.dumps(whole | {"quality": float("nan")}), "quality is nan"),
        (json.dumps(whole | {"quality": "good"}), "must be real number"),
        (json.dumps(whole | {"sparsity": 1.5}), "sparsity is 1.5"),
    ):
        result.write_text(text)
        message = rf"run/result.json is damaged \(.*{reason}.*: train the run anew"
        with pytest.raises(ValueError, match=message):
            read_runs([result.parent])


def test_labels_rename_by_path_and_the_first_counts(make_run, tmp_path):
    for name in ("early_1", "early_2", "late"):
        make_run(name)
    labels = {r"early_\d": "early", "early_1": "never", "late$": "late"}
    with pytest.raises(ValueError, match="'early_1' is found in the path of none"):
        read_runs([tmp_path], labels)
    del labels["early_1"]
    runs, _ = read_runs([tmp_path], labels)
    assert list(runs.variant) == ["early", "early", "late"]
    with pytest.raises(ValueError, match=r"regular expression. Received: '\('"):
        read_runs([tmp_path], {"(": "name"})


def test_the_published_tables_are_read_row_by_row(published):
    runs, skipped = read_runs(published)
    assert not skipped
    assert runs.published.all()
    lines = [path.read_text().splitlines()[1:] for path in published]
    assert len(runs) == sum(map(len, lines))
    assert runs.flops_share.isna().all()
    pruned = runs[(runs.technique == "magnitude_pruning") & (runs.sparsity == 0.9)]
    (best,) = pruned[pruned.model == "transformer"].itertuples()
    assert (best.quality, best.statistic, best.metric) == (23.26, "best", "bleu")
    assert best.dataset == "wmt14_translate/de-en"


def test_published_groups_have_mean_deviation_and_runs(published):
    runs, _ = read_runs(published[1:])
    found = {(r.model, r.variant, r.sparsity): r for r in runs.itertuples()}
    group = found["resnet50", "scratch-b, constant final rate, augmented init", 0.9]
    assert (group.quality, group.deviation, group.runs) == (67.62, 0.19, 9)
    failed = found["transformer", "scratch-e", 0.8]
    assert (failed.runs, failed.failed_runs) == (25, 1)
    assert set(runs.statistic) == {"mean"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "neither a run's folder nor a published table"),
        ("\x89PNG\r\n", "table.csv is no published table"),
        ("step,loss\n1,2\n", "Received: step, loss"),
        (
            "model,technique,sparsity,metric,score,hyperparameters\n"
            "resnet50,dense,0.0,top1,76,\nresnet50,dense,none,top1,76,\n",
            "table.csv, line 3, is damaged",
        ),
        (
            "model,technique,sparsity,metric,score,hyperparameters\n"
            "vgg16,dense,0.0,top1,76,\n",
            "table.csv, line 2, is damaged",
        ),
    ],
)
def test_another_table_is_refused(tmp_path, text, expected):
    (tmp_path / "table.csv").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=expected):
        read_runs([tmp_path / "table.csv"])


def test_runs_are_chosen_by_path_and_by_the_end_of_it(study):
    runs, _ = read_runs([study])
    name = "magnitude_pruning_0.9_1"
    for text in (name, f"study/{name}", study / name):
        assert runs_named(runs, [text]).source.item() == study / name
    with pytest.raises(ValueError, match=r"'none' is the name of no run .*dense_0.0_0"):
        runs_named(runs, ["none"])


def test_a_name_of_two_runs_is_an_error_that_lists_them(make_run, tmp_path):
    for seed in (0, 1):
        make_run(f"{seed}/run", seed=seed)
    runs, _ = read_runs([tmp_path])
    with pytest.raises(ValueError, match=r"more than one run.*0/run, .*1/run"):
        runs_named(runs, ["run"])


def test_two_datasets_are_refused_and_listed(study, published):
    runs, _ = read_runs([study, *published])
    with pytest.raises(ValueError, match="There are two datasets") as error:
        of_one_network(runs)
    listed = str(error.value).splitlines()[1:]
    assert [line.split()[:2] for line in listed] == [
        ["--dataset=digits", "--model=resnet50"],
        ["--dataset=wmt14_translate/de-en", "--model=transformer"],
        ["--dataset=imagenet2012", "--model=resnet50"],
    ]
    assert set(of_one_network(runs, dataset="digits").dataset) == {"digits"}
    assert set(of_one_network(runs, model="transformer").model) == {"transformer"}
    with pytest.raises(ValueError, match="two datasets"):
        of_one_network(runs, model="resnet50")
    with pytest.raises(ValueError, match=r"(?s)--dataset=mnist.*--dataset=digits"):
        of_one_network(runs, dataset="mnist")


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"quality_metric": "top5"}, r"(?s)measures of quality.*top1.*top5"),
        ({"flops": 40_000}, r"(?s)10,000 FLOPs: 1\n.*40,000 FLOPs: 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(make_run, tmp_path, result, message):
    make_run("one")
    make_run("other", result=result)
    with pytest.raises(ValueError, match=message):
        of_one_network(read_runs([tmp_path])[0])


def test_layers_that_are_missing_or_damaged_are_named(make_run):
    path = make_run("run")
    (path / "layers.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"layers\.csv is damaged"):
        read_layers(path)
    (path / "layers.csv").unlink()
    with pytest.raises(ValueError, match=r"run has no layers\.csv"):
        read_layers(path)


def test_the_analysis_imports_no_framework(tmp_path):
    modules = "axes, finished_runs, page, pictures, points, tables"
    script = (
        f"import sys; from state_of_sparsity.models.analysis import {modules}; "
        "assert not {'keras', 'tf_keras', 'tensorflow', 'absl'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ)
