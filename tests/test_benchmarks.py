"""Benchmarks run, and write their figures."""

import functools
import importlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest

from state_of_sparsity import runtime
from tests.runtime import networks

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"


def started(*command, **variables):
    """A script with its flags, run by Python with no backend chosen, unless here."""
    environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    environment |= variables
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True
    )


def run(script, *flags, status=0):
    """What a benchmark prints."""
    pytest.importorskip("tensorflow")
    done = started(BENCHMARKS / script, *flags)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    # Messages are broken into lines.
    return " ".join(done.stderr.split()) if status else done.stdout


refusal = functools.partial(run, status=1)


def figures_of(path):
    """Values by case and quantity, of a file of `--json`."""
    found = json.loads(path.read_text("utf-8"))
    return {(figure["case"], figure["quantity"]): figure["value"] for figure in found}


@pytest.mark.slow
def test_all_benchmarks_write_one_table_and_compare_it_with_the_last(tmp_path):
    tiny = ("--rounds=2", "--length=3", "--width=8", "--layers=1", "--batch_size=2")
    flags = [f"--output={tmp_path}", "--only=^greedy"]
    flags += [f"--flag={flag}" for flag in tiny]
    first = run("run_all.py", *flags)
    path = next(tmp_path.glob("*.json"))
    written = json.loads(path.read_text("utf-8"))
    values = {(f["case"], f["quantity"]): f["value"] for f in written["figures"]}
    assert values.keys() == {
        ("cached", "ms"),
        ("recomputed", "ms"),
        ("recomputed", "over cached"),
    }
    assert min(values.values()) > 0
    assert {"processor", "cores", "memory", "tensorflow"} <= written["machine"].keys()
    assert "| greedy decoding | recomputed | over cached |" in first

    for figure in written["figures"]:
        figure["value"] = 2 * figure["value"]
    earlier = tmp_path / "earlier"
    earlier.write_text(json.dumps(written), "utf-8")
    second = run("run_all.py", *flags, f"--earlier={earlier}")
    (row,) = [line for line in second.splitlines() if "recomputed | ms" in line]
    *_, value, before, over, _ = row.split("|")
    assert float(over) == pytest.approx(float(value) / float(before), abs=0.01)
    assert float(before) == pytest.approx(2 * values["recomputed", "ms"], abs=0.01)


@pytest.mark.slow
def test_step_times_stand_beside_first_steps_and_the_peak_of_memory(tmp_path):
    path = tmp_path / "figures.json"
    tiny = ("--model=cnn", "--rounds=1", "--steps=1", "--batch_size=4")
    run("step_time.py", *tiny, "--techniques=l0_regularization", f"--json={path}")
    values = figures_of(path)
    peak = values["l0_regularization", "MiB at most"]
    ratio = values["l0_regularization", "memory over dense"]
    assert ratio == pytest.approx(peak / values["dense", "MiB at most"])
    assert values["l0_regularization", "over dense"] > 0
    first = values["l0_regularization", "s at first"] / values["dense", "s at first"]
    assert values["l0_regularization", "at first over dense"] == pytest.approx(first)


@pytest.mark.slow
def test_a_masked_model_stands_beside_the_smaller_one(tmp_path):
    path = tmp_path / "figures.json"
    tiny = ("--layers=1", "--width=128", "--vocabulary=16", "--length=4", "--rounds=2")
    run("shrunk_models.py", "--models=gpt2", *tiny, f"--json={path}")
    values = figures_of(path)
    masked, smaller = (
        1e6 * values[f"gpt2 {kind}", "million parameters"]
        for kind in ("masked", "smaller")
    )
    # One head of two, of three projections with their biases and the outputs', and
    # half of the 512 units.
    assert masked - smaller == pytest.approx(64 * (4 * 128 + 3) + 256 * (2 * 128 + 1))
    assert values["gpt2 smaller", "1e-6 off, relative"] < 10
    assert values["gpt2 smaller", "over gpt2 masked"] > 0


def test_peak_of_memory_is_that_of_the_process_and_not_of_its_parent():
    ballast = np.ones(2**26)  # 512 MiB
    code = (
        f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import memory; "
        "memory.peak(); taken = bytearray({}); del taken; print(memory.peak())"
    )
    without, taken = (
        float(started("-c", code.format(size)).stdout) for size in (0, 100 * 2**20)
    )
    assert ballast.nbytes / 2**20 > 500 > 200 > without
    assert taken - without == pytest.approx(100, abs=5)


@pytest.fixture
def files(tmp_path):
    """A sparse file and an ONNX file, whose inputs have open sizes."""
    weights = networks.numbers(64, 48, density=0.1)
    model = networks.model(
        [("MatMul", ["x", "w"], ["y"], {})],
        {"w": weights},
        {"x": ["batch", "length", 64]},
        {"y": ["batch", "length", 48]},
    )
    onnx.save(model, tmp_path / "model.onnx")
    runtime.write(model, tmp_path / "model.sparse")
    sparsity = 1 - np.count_nonzero(weights) / weights.size
    return tmp_path / "model.sparse", tmp_path / "model.onnx", sparsity


@pytest.mark.slow
def test_inference_of_files_has_times_sizes_and_memory(files, tmp_path):
    sparse, dense, sparsity = files
    path, picture = tmp_path / "figures.json", tmp_path / "picture.svg"
    before = {file: file.read_bytes() for file in (sparse, dense)}
    run(
        "inference.py",
        "--networks=",
        f"--files={sparse},{dense}",
        *("--batches=2", "--threads=1", "--length=5", "--rounds=2", "--calls=1"),
        *(f"--json={path}", f"--plot={picture}"),
    )
    values = figures_of(path)
    for file in (sparse, dense):
        case = f"{file} {sparsity:.4g} batch 2 threads 1"
        ours, theirs = (
            {quantity: v for (c, quantity), v in values.items() if c == f"{case} {e}"}
            for e in ("engine", "onnxruntime")
        )
        common = {"ms", "s to load", "s to load again", "MB of files", "MiB at most"}
        assert theirs.keys() == common
        assert ours.keys() - common == {
            f"over {case} onnxruntime",
            "1e-6 off, relative",
        }
        assert min(theirs.values()) > 0
        assert ours["1e-6 off, relative"] < 10
        assert theirs["MB of files"] == pytest.approx(
            len(before[dense]) / 1e6, abs=1e-4
        )
        # Numba and what it needs.
        assert ours["MiB at most"] > theirs["MiB at most"] + 20
    text = picture.read_text("utf-8")
    for file in (sparse, dense):
        assert f"<!-- {file.parent.name}/{file.name} -->" in text
    # What is tuned is not kept beside files of the user's.
    assert before == {p: p.read_bytes() for p in tmp_path.glob("model*")}


@pytest.mark.slow
def test_inference_refuses_files_that_it_cannot_measure(files, tmp_path):
    sparse, *_ = files
    wrong = tmp_path / "wrong.sparse"
    wrong.write_text("no model", "utf-8")
    assert str(wrong) in refusal("inference.py", "--networks=", f"--files={wrong}")
    engines = "--dense=onnxruntime", "--dense=litert"
    message = refusal("inference.py", "--networks=", f"--files={sparse}", *engines)
    assert "--dense=litert" in message
    assert str(sparse) in message


def test_front_has_what_nothing_beats_in_latency_and_quality(monkeypatch):
    pytest.importorskip("tensorflow")
    monkeypatch.syspath_prepend(BENCHMARKS)
    front = importlib.import_module("latencies").front
    marks = [(3.0, 80.0), (1.0, 60.0), (2.0, 50.0), (1.0, 70.0), (4.0, 80.0)]
    assert front(marks) == [(1.0, 70.0), (3.0, 80.0)]
    assert front([(2.0, 60.0), (1.0, 60.0)]) == [(1.0, 60.0)]


@pytest.mark.slow
def test_quality_over_latency_is_that_of_the_runs(tmp_path):
    # In this process, which has imported TensorFlow.
    pytest.importorskip("tensorflow")
    command = importlib.import_module("tests.bin.conftest").run_binary
    names = "dense", "magnitude_pruning"
    folders = {name: tmp_path / "runs" / name for name in names}
    for technique, folder in folders.items():
        trained = command(
            *("train_resnet50", f"--technique={technique}", f"--output_dir={folder}"),
            *("--network=lenet5", "--width=0.1", "--train_steps=20", "--eval_steps=20"),
            "--batch_size=32",
        )
        assert trained.code == 0, trained.err
    path, picture = tmp_path / "figures.json", tmp_path / "picture.svg"
    run(
        "quality_over_latency.py",
        f"--runs={tmp_path / 'runs'}",
        *("--batches=4,3", "--rounds=2", "--calls=1"),
        *(f"--json={path}", f"--plot={picture}"),
    )
    values = figures_of(path)
    for technique, folder in folders.items():
        result = json.loads((folder / "result.json").read_text("utf-8"))
        (case,) = {case for case, _ in values if case.endswith(f"({technique})")}
        # Two of the 270 images of the test split may be near the border.
        quality = values[case, "top-1 accuracy (%)"]
        assert quality == pytest.approx(100 * result["quality"], abs=0.75)
        assert values[case, "% sparsity"] == pytest.approx(100 * result["sparsity"])
        for batch in (4, 3):
            for engine in ("", " in ONNX Runtime"):
                assert values[case, f"ms{engine}, batch {batch}, 1 thread"] > 0
    text = picture.read_text("utf-8")
    assert text.count("<!-- magnitude pruning -->") == 1
    assert text.count("<!-- dense, ONNX Runtime -->") == 1

    unfinished = tmp_path / "unfinished"
    shutil.copytree(folders["dense"], unfinished)
    (unfinished / "result.json").unlink()
    nothing = tmp_path / "nothing"
    for folder in (unfinished, nothing):
        folders_ = f"--runs={folders['dense']},{folder}"
        assert f"--runs={folder}:" in refusal("quality_over_latency.py", folders_)


@pytest.mark.slow
def test_language_models_lose_less_to_techniques_that_correct_and_recover(tmp_path):
    path = tmp_path / "figures.json"
    small = ("--layers=1", "--width=48", "--steps=300", "--examples=32")
    flags = (*small, "--seeds=0", "--sparsities=0.9", "--recovery=60", f"--json={path}")
    done = started(BENCHMARKS / "language_model.py", *flags, KERAS_BACKEND="jax")
    assert done.returncode == 0, done.stderr
    found = {case.removeprefix("0.9 "): v for (case, _), v in figures_of(path).items()}
    # Of 256 values, an untrained model knows nothing.
    assert found["dense"] < 15
    assert found["SparseGPT"] < min(found["magnitude"], found["Wanda"])
    for name in ("magnitude", "Wanda", "SparseGPT"):
        assert found["dense"] < found[f"{name}, refit"] < found[name]
    for name in ("LoRA", "all weights"):
        assert found[f"recovered, {name}"] < found["SparseGPT, refit"]
