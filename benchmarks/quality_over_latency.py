"""Quality of finished runs over latency, in our engine and beside ONNX Runtime.

  python benchmarks/quality_over_latency.py --runs=runs/dense,runs/pruned \
      --batches=8 --threads=1 --plot=quality_over_latency.png

A sparse model competes with every other one that is as fast, and not with those that
are as sparse. Runs are of `train_resnet50`, on one dataset, and a folder may hold
several. Quality is top-1 accuracy on the test split, as the engine computes it. All
models take turns in one process, each in the engine and, as a dense one, in ONNX
Runtime; a figure is the median of the milliseconds that a batch takes. Weights of small
models leave the caches between turns: let each run often in its own, by --calls=50.
"""

import dataclasses
import pathlib
import statistics
import sys
import tempfile

import engines
import figures
import numpy as np
import onnx
import pandas as pd
import turns
from absl import app, flags
from latencies import draw

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras
from state_of_sparsity.models.analysis.finished_runs import read_runs
from state_of_sparsity.models.analysis.points import quality_label
from state_of_sparsity.models.runs import folders as runs
from state_of_sparsity.models.training.run_folder import RunFolderError
from state_of_sparsity.models.training.run_folder.checkpoint import CheckpointError
from state_of_sparsity.models.usage import UsageError

_RUNS = flags.DEFINE_list("runs", None, "Folders of finished runs.", required=True)
_BATCHES = flags.DEFINE_list("batches", ["8"], "Images at a time.")
_THREADS = flags.DEFINE_list("threads", ["1"], "How many compute.")
_ROUNDS = flags.DEFINE_integer("rounds", 15, "How often each has a turn.")
_CALLS = flags.DEFINE_integer("calls", 3, "How often each runs in a turn.")
_PLOT = flags.DEFINE_string("plot", None, "PNG or SVG of quality over milliseconds.")
_ENGINES = ("onnxruntime", "engine")


@dataclasses.dataclass(frozen=True)
class Model:
    """The model of a run.

    Attributes:
      quality: that the engine has, in percent.
      files: what engines load, by engine.
      inputs: some images of the test split, by the name of the input.
    """

    quality: float
    files: dict[str, pathlib.Path]
    inputs: dict[str, np.ndarray]

    def batch(self, size: int) -> dict[str, np.ndarray]:
        """So many of the images, again and again if there are fewer."""
        return {
            name: np.resize(images, (size, *images.shape[1:]))
            for name, images in self.inputs.items()
        }


def finished_runs(folders: list[str]) -> pd.DataFrame:
    """The runs of images in some folders, a row each.

    Raises:
      UsageError: naming the folder that has none, or others.
    """
    tables = []
    for folder in folders:
        try:
            table, skipped = read_runs([folder])
            for source in table.source:
                runs.read_run(source, "train_resnet50")
        except (OSError, ValueError, RunFolderError, UsageError) as error:
            raise app.UsageError(f"--runs={folder}: {error}") from error
        tables.append(table)
        for line in skipped:
            print(f"Skipped: {line}", file=sys.stderr)
    found = pd.concat(tables, ignore_index=True)
    found = found[~found.source.map(pathlib.Path.resolve).duplicated()]
    of_datasets = found.drop_duplicates("dataset")
    if len(of_datasets) > 1:
        listed = ", ".join(
            f"{r.source} of {r.dataset}" for r in of_datasets.itertuples()
        )
        raise app.UsageError(f"--runs must be of one dataset. Received: {listed}")
    return found


def prepared(
    source: pathlib.Path, folder: pathlib.Path, batch: int, threads: int
) -> Model:
    """The model of a run, its files written to a folder, and its quality computed.

    Raises:
      UsageError: naming the folder of a run that cannot be loaded.
    """
    try:
        task, model = runs.load_model(*runs.read_run(source))
    except (CheckpointError, UsageError) as error:
        raise app.UsageError(f"--runs={source}: {error}") from error
    folder.mkdir()
    sparse, dense = folder / "model.sparse", folder / "model.onnx"
    sos.export(sos.strip(model), sparse, format="sparse")
    sos.runtime.to_onnx(sparse, dense)
    data = task.evaluation_data("test").unbatch().batch(batch)
    session = sos.runtime.load(sparse, threads)
    quality = 100 * _accuracy(session, data, batch)
    name = onnx.load(dense).graph.input[0].name
    images, _ = next(iter(data))
    keras.backend.clear_session()
    return Model(
        quality,
        {"engine": sparse, "onnxruntime": dense},
        {name: images.numpy()},
    )


def _accuracy(session, data, batch):
    right = []
    for images, labels in data:
        # Of one shape, for which the engine tunes once.
        missing = batch - len(labels)
        images = np.pad(images, [(0, missing), *[(0, 0)] * (images.ndim - 1)])
        (outputs,) = session.run(images).values()
        right.append(np.argmax(outputs[: len(labels)], -1) == labels)
    return np.mean(np.concatenate(right))


def measure(models: list[Model], batch: int, threads: int) -> pd.DataFrame:
    """Median milliseconds of all models by engine, in turns."""
    jobs = {
        (number, engine): engines.ALL[engine](
            str(model.files[engine]), model.batch(batch), threads
        )
        for number, model in enumerate(models)
        for engine in _ENGINES
    }
    times = turns.take_turns(jobs, _ROUNDS.value, _CALLS.value)
    return pd.DataFrame(
        {
            engine: [
                1000 * statistics.median(times[number, engine])
                for number in range(len(models))
            ]
            for engine in _ENGINES
        }
    ).assign(setting=f"batch {batch}, {threads} thread{'s' if threads > 1 else ''}")


def as_figures(models: list[Model], latencies: pd.DataFrame):
    """What was measured, run by run."""
    found = []
    label = quality_label(latencies)
    for model, (_, of_run) in zip(
        models, latencies.groupby("source", sort=False), strict=True
    ):
        run = of_run.iloc[0]
        case = _name(run)
        size = model.files["engine"].stat().st_size / 1e6
        found += [
            figures.Figure(case, label, run.quality),
            figures.Figure(case, "% sparsity", 100 * run.sparsity),
            figures.Figure(case, "MB of file", size),
        ]
        for latency in of_run.itertuples():
            unit = f"ms in ONNX Runtime, {latency.setting}"
            found += [
                figures.Figure(case, f"ms, {latency.setting}", latency.engine),
                figures.Figure(case, unit, latency.onnxruntime),
            ]
    return found


def _name(run):
    return f"{run.variant} {run.sparsity:.1%} ({run.source.name})"


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments. Received: {argv[1:]}")
    table = finished_runs(_RUNS.value).reset_index(drop=True)
    batches, threads = ([int(n) for n in f.value] for f in (_BATCHES, _THREADS))
    with tempfile.TemporaryDirectory() as folder:
        models = []
        for run in table.itertuples():
            place = pathlib.Path(folder, str(run.Index))
            models.append(prepared(run.source, place, batches[0], threads[0]))
            print(f"{_name(run)} is ready.", file=sys.stderr)
        table["quality"] = [model.quality for model in models]
        latencies = pd.concat(
            table.join(measure(models, batch, count))
            for count in threads
            for batch in batches
        )
        figures.publish(as_figures(models, latencies))
    if _PLOT.value:
        draw(latencies).savefig(_PLOT.value, dpi=150)


if __name__ == "__main__":
    app.run(main)
