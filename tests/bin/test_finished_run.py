"""A tiny ResNet from end to end: what it leaves, and what can be done with it."""

import csv
import json
import re

import numpy as np
import pytest

from state_of_sparsity.engines.tf_keras.backend import tf
from state_of_sparsity.models.runs import folders

# A LeNet is trained, evaluated and exported by the tests that take seconds.
pytestmark = pytest.mark.slow

# Channels of a ResNet-18 of width 0.05: round(64 * 2**stage * 0.05).
CHANNELS = (3, 6, 13, 26)


def kernel_sizes():
    """Weights of each kernel, by layer."""
    sizes = {"conv1": 7 * 7 * 3 * CHANNELS[0], "logits": CHANNELS[-1] * 10}
    inputs = CHANNELS[0]
    for stage, outputs in enumerate(CHANNELS, start=1):
        for block in (1, 2):
            name = f"stage{stage}_block{block}"
            sizes[f"{name}_conv1"] = 9 * inputs * outputs
            sizes[f"{name}_conv2"] = 9 * outputs * outputs
            if block == 1:
                sizes[f"{name}_shortcut"] = inputs * outputs
            inputs = outputs
    return sizes


def zeros_by_layer():
    target = {"conv1": 0.0, "logits": 0.5}
    return {
        name: round(target.get(name, 0.9) * size)
        for name, size in kernel_sizes().items()
    }


@pytest.fixture(scope="module")
def trained(command, tiny, overridden, tmp_path_factory):
    """The folder of a finished run, and the outcome of the command."""
    folder = tmp_path_factory.mktemp("runs") / "resnet"
    flags = (*tiny, *overridden, f"--output_dir={folder}")
    return folder, command("train_resnet50", *flags)


@pytest.fixture(scope="module")
def finished(trained):
    folder, outcome = trained
    assert outcome.code == 0, outcome
    return folder


@pytest.fixture(scope="module")
def result(finished):
    return json.loads((finished / "result.json").read_text())


@pytest.fixture(scope="module")
def sparse(finished):
    """The sparse model of the run, from its checkpoint."""
    return folders.load_model(*folders.read_run(finished))[1]


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_folder_holds_all_that_the_design_promises(finished):
    assert {path.name for path in finished.iterdir()} == {
        "flags.txt",
        "best",
        "checkpoints",
        "tensorboard",
        "metrics.csv",
        "result.json",
        "layers.csv",
        "masks.npz",
        "weights",
        "sparsity.png",
        "export",
    }


def test_the_command_shows_progress_and_a_summary_and_nothing_else(trained, result):
    folder, outcome = trained
    assert outcome.err == ""
    progress, summary = outcome.out.split("\nmodel ", maxsplit=1)
    assert "step 8 of 8: loss " in progress
    assert "top1 " in progress
    lines = dict(re.split(r" {2,}", line) for line in summary.splitlines()[1:])
    parameters, nonzero = result["parameters"], result["nonzero_parameters"]
    assert lines["test top1"] == f"{result['quality']:.2%}"
    assert lines["sparsity"] == f"{result['sparsity']:.2%}"
    assert lines["parameters"] == f"{parameters:,}"
    assert lines["non-zero parameters"].startswith(f"{nonzero:,} (")
    assert re.fullmatch(r"[\d.]+ MB, gzipped [\d.]+ MB", lines["export"])
    assert lines["run's folder"] == str(folder)


def test_result_counts_what_is_there(result):
    sizes, zeros = kernel_sizes(), zeros_by_layer()
    # Gamma and beta of a batch normalization for each output of a convolution.
    channels = sum(2 * c * 5 for c in CHANNELS) + 2 * CHANNELS[0]
    parameters = sum(sizes.values()) + channels + 10
    expected = {
        "technique": "magnitude_pruning",
        "model": "resnet18",
        "dataset": "digits",
        "steps": 8,
        "seed": 0,
        "quality_metric": "top1",
        "target_sparsity": 0.9,
        "parameters": parameters,
        "nonzero_parameters": parameters - sum(zeros.values()),
    }
    assert expected.items() <= result.items()
    # Over all that could be made sparse: conv1, too, which is dense.
    assert result["sparsity"] == pytest.approx(
        sum(zeros.values()) / sum(sizes.values())
    )
    # Single weights that are masked leave no smaller model.
    assert not [name for name in result if name.startswith("smaller")]
    # Of operations, others tell.
    assert result["sparse_flops"] < result["flops"]
    assert result["training_flops"] < result["dense_training_flops"]
    assert 0 <= result["quality"] <= 1
    assert result["seconds_per_step"] > 0


def test_layers_lists_the_zeros_of_each_sparse_layer(finished):
    rows = table(finished / "layers.csv")
    assert list(rows[0]) == ["name", "shape", "size", "zeros", "sparsity", "technique"]
    sizes, zeros = kernel_sizes(), zeros_by_layer()
    listed = {row["name"].partition("/")[0]: row for row in rows}
    assert set(listed) >= set(sizes) - {"conv1"}
    for name in set(sizes) - {"conv1"}:
        row = listed[name]
        assert (int(row["size"]), int(row["zeros"])) == (sizes[name], zeros[name])
        assert float(row["sparsity"]) == pytest.approx(zeros[name] / sizes[name])
        assert row["technique"] == "magnitude_pruning"


def test_the_same_command_or_its_flags_again_say_that_the_run_is_finished(
    finished, command, tiny, overridden
):
    lines = (finished / "flags.txt").read_text().splitlines()
    assert lines[0].startswith("# Repeat this run: train_resnet50 --flagfile=")
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    for given in ([*tiny, *overridden], [f"--flagfile={finished / 'flags.txt'}"]):
        outcome = command("train_resnet50", *given, f"--output_dir={finished}")
        assert (outcome.code, outcome.err) == (0, "")
        assert "This run is finished; there is nothing left to do" in outcome.out
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*")} == before


def test_other_flags_in_the_same_folder_are_refused_and_listed(finished, refused, tiny):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    message = refused("train_resnet50", *tiny, "--seed=4", f"--output_dir={finished}")
    assert message.splitlines()[1:] == [
        "  --override: conv1=dense, logits=0.5 in the folder, (not set) now",
        "  --seed: 0 in the folder, 4 now",
    ]
    assert "Choose another --output_dir" in message
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*")} == before


def test_the_export_gives_the_deployed_logits(finished, sparse, images):
    served = tf.saved_model.load(str(finished / "export"))
    expected = sparse(images, training=False)
    np.testing.assert_allclose(served.serve(images), expected, atol=1e-5)
    sizes, zeros = kernel_sizes(), zeros_by_layer()
    exported = sorted(
        (v.shape.num_elements(), int(np.sum(v.numpy() == 0)))
        for v in served.variables
        if len(v.shape) > 1
    )
    assert exported == sorted((sizes[name], zeros[name]) for name in sizes)


def test_evaluating_gives_the_quality_of_the_result(finished, command, result):
    outcome = command("evaluate_resnet50", f"--run_dir={finished}")
    scores = json.loads(outcome.out)
    assert scores == {
        "run_dir": str(finished),
        "split": "test",
        "step": 8,
        "quality_metric": "top1",
        "quality": pytest.approx(result["quality"]),
        "sparsity": result["sparsity"],
    }


@pytest.mark.slow
def test_exporting_again_gives_the_same_logits(
    finished, command, tmp_path, refused, images
):
    path = tmp_path / "exported"
    arguments = (f"--model={finished}", f"--export_dir={path}")
    outcome = command("export_model", *arguments)
    assert re.fullmatch(rf"{path}: [\d.]+ MB, gzipped [\d.]+ MB\n", outcome.out), (
        outcome
    )
    served = [tf.saved_model.load(str(p)) for p in (path, finished / "export")]
    np.testing.assert_array_equal(*(model.serve(images) for model in served))
    message = refused("export_model", *arguments)
    assert f"--export_dir={path} holds saved_model.pb already" in message
    assert "--overwrite" in message
    assert command("export_model", *arguments, "--overwrite").code == 0


def test_the_report_of_a_run_is_its_layers_file(finished, command, tmp_path):
    outcome = command(
        "report_sparsity",
        f"--model={finished}",
        f"--csv={tmp_path / 'layers.csv'}",
        f"--plot={tmp_path / 'sparsity.svg'}",
    )
    assert (tmp_path / "layers.csv").read_text() == (
        finished / "layers.csv"
    ).read_text()
    assert "<svg" in (tmp_path / "sparsity.svg").read_text()
    for name, zeros in zeros_by_layer().items():
        if name != "conv1":
            (line,) = [x for x in outcome.out.splitlines() if x.startswith(f"{name}/")]
            assert f" {zeros:,} " in line
