"""Folders of runs that nobody trained, and the published tables."""

import json
import pathlib
import types

import pytest

import state_of_sparsity as sos
import state_of_sparsity.bin
from state_of_sparsity.models.analysis.finished_runs import of_one_network, read_runs
from state_of_sparsity.models.analysis.points import summarize

_RECIPES = pathlib.Path(state_of_sparsity.bin.__file__).parent / "recipes"
PUBLISHED = [
    _RECIPES / "published_results.csv",
    _RECIPES / "published_scratch_and_lottery.csv",
]
_NOTHING = types.MappingProxyType({})
LAYERS = {"conv1/kernel": 100, "conv2/kernel": 800, "logits/kernel": 100}
FLAGS = {
    "dataset": "digits",
    "train_steps": 600,
    "decay_epochs": "20.0,26.0",
    "technique": "magnitude_pruning",
}


def write_run(
    path, quality, sparsity, seed=0, flags=_NOTHING, result=_NOTHING, layers=_NOTHING
):
    """Writes what a finished run leaves behind, and returns its folder.

    Args:
      path: of its folder.
      quality: accuracy.
      sparsity: that it came to, of weights and of FLOPs.
      seed: of the run.
      flags: in place of `FLAGS` or beside them.
      result: what result.json has in place of what follows from the rest.
      layers: sparsities by layer in place of the run's.
    """
    path.mkdir(parents=True)
    flags = {**FLAGS, "seed": seed, **flags}
    lines = [f"--{name}={value}" for name, value in flags.items()]
    head = ["# train_resnet50", f"# Begun with state-of-sparsity {sos.__version__}."]
    (path / "flags.txt").write_text("\n".join([*head, *lines]))
    found = dict.fromkeys(LAYERS, sparsity) | layers
    rows = [f"{n},{LAYERS[n]},{LAYERS[n]},0,{s},x" for n, s in found.items()]
    header = "name,shape,size,zeros,sparsity,technique"
    (path / "layers.csv").write_text("\n".join([header, *rows]))
    steps = flags["train_steps"]
    content = {
        "model": "resnet50",
        "dataset": flags["dataset"],
        "steps": steps,
        "seed": seed,
        "quality_metric": "top1",
        "quality": quality,
        "sparsity": sparsity,
        "parameters": 1_100,
        "nonzero_parameters": 100 + round(1_000 * (1 - sparsity)),
        "flops": 10_000,
        "sparse_flops": round(10_000 * (1 - sparsity)),
        "training_flops": 300 * steps,
        "dense_training_flops": 400 * steps,
    }
    (path / "result.json").write_text(json.dumps({**content, **result}))
    return path


@pytest.fixture
def make_run(tmp_path):
    """Writes a run into a folder of this name; see `write_run`."""

    def make(name, quality=0.9, sparsity=0.9, seed=0, **keywords):
        return write_run(tmp_path / name, quality, sparsity, seed, **keywords)

    return make


def points_of(*paths, labels=None, **chosen):
    """The points of the runs in some folders and tables."""
    return summarize(of_one_network(read_runs(paths, labels)[0], **chosen))


# Accuracies of three seeds, in their order, by technique and sparsity.
ACCURACIES = {
    ("dense", 0.0): (0.96, 0.97, 0.95),
    ("magnitude_pruning", 0.5): (0.95, 0.91, 0.94),
    ("magnitude_pruning", 0.9): (0.90, 0.92, 0.88),
    ("variational_dropout", 0.8): (0.93, 0.94, 0.89),
}


def write_study(folder):
    """Writes the runs of `ACCURACIES`."""
    for (technique, sparsity), accuracies in ACCURACIES.items():
        for seed, accuracy in enumerate(accuracies):
            learned = technique == "variational_dropout"
            flags = {"technique": technique}
            if "pruning" in technique:
                flags["sparsity"] = sparsity
            # What a technique learns is not quite the same for each seed.
            reached = sparsity + 0.01 * seed * learned
            path = folder / f"{technique}_{sparsity}_{seed}"
            write_run(path, accuracy, reached, seed, flags)
    return folder


@pytest.fixture
def study(tmp_path):
    """The folder of the runs of `ACCURACIES`."""
    return write_study(tmp_path / "study")


@pytest.fixture
def published():
    """The published tables."""
    return PUBLISHED
