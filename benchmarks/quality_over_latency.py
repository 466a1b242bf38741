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
import turns
from absl import app, flags
from latencies import Latency, draw

import state_of_sparsity as sos
from state_of_sparsity.bin.flags import UsageError
from state_of_sparsity.engines.tf_keras.backend import keras
from state_of_sparsity.models.analysis.axes import quality_label
from state_of_sparsity.models.analysis.record import Record
from state_of_sparsity.models.analysis.records import read_records
from state_of_sparsity.models.runs import folders
from state_of_sparsity.models.training.run_folder import RunFolderError
from state_of_sparsity.models.training.run_folder.checkpoint import CheckpointError

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
      record: of the run, with the quality that the engine has.
      files: what engines load, by engine.
      inputs: some images of the test split, by the name of the input.
    """

    record: Record
    files: dict[str, pathlib.Path]
    inputs: dict[str, np.ndarray]

    def batch(self, size: int) -> dict[str, np.ndarray]:
        """So many of the images, again and again if there are fewer."""
        return {
            name: np.resize(images, (size, *images.shape[1:]))
            for name, images in self.inputs.items()
        }


def finished_runs(folders: list[str]) -> list[Record]:
    """The runs of images in some folders.

    Raises:
      UsageError: naming the folder that has none, or others.
    """
    found = {}
    for folder in folders:
        try:
            records, skipped = read_records([folder])
            for record in records:
                folders.read_run(record.source, "train_resnet50")
        except (OSError, ValueError, RunFolderError, UsageError) as error:
            raise app.UsageError(f"--runs={folder}: {error}") from error
        found |= {record.source.resolve(): record for record in records}
        for line in skipped:
            print(f"Skipped: {line}", file=sys.stderr)
    by_dataset = {record.dataset: record.source for record in found.values()}
    if len(by_dataset) > 1:
        listed = ", ".join(f"{path} of {name}" for name, path in by_dataset.items())
        raise app.UsageError(f"--runs must be of one dataset. Received: {listed}")
    return list(found.values())


def prepared(record: Record, folder: pathlib.Path, batch: int, threads: int) -> Model:
    """The model of a run, its files written to a folder, and its quality computed.

    Raises:
      UsageError: naming the folder of a run that cannot be loaded.
    """
    try:
        task, model = folders.load_model(*folders.read_run(record.source))
    except (CheckpointError, UsageError) as error:
        raise app.UsageError(f"--runs={record.source}: {error}") from error
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
        dataclasses.replace(record, quality=quality),
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


def measure(models: list[Model], batch: int, threads: int) -> list[Latency]:
    """Latencies of all models, in turns."""
    jobs = {
        (number, engine): engines.ALL[engine](
            str(model.files[engine]), model.batch(batch), threads
        )
        for number, model in enumerate(models)
        for engine in _ENGINES
    }
    times = turns.take_turns(jobs, _ROUNDS.value, _CALLS.value)
    setting = f"batch {batch}, {threads} thread{'s' if threads > 1 else ''}"
    return [
        Latency(
            model.record,
            setting,
            **{e: 1000 * statistics.median(times[number, e]) for e in _ENGINES},
        )
        for number, model in enumerate(models)
    ]


def as_figures(models: list[Model], latencies: list[Latency]):
    """What was measured, run by run."""
    found = []
    for model in models:
        case = _name(model.record)
        size = model.files["engine"].stat().st_size / 1e6
        found += [
            figures.Figure(
                case, quality_label(model.record.metric), model.record.quality
            ),
            figures.Figure(case, "% sparsity", 100 * model.record.sparsity),
            figures.Figure(case, "MB of file", size),
        ]
        for latency in latencies:
            if latency.record is model.record:
                engine, other = latency.engine, latency.onnxruntime
                found += [
                    figures.Figure(case, f"ms, {latency.setting}", engine),
                    figures.Figure(
                        case, f"ms in ONNX Runtime, {latency.setting}", other
                    ),
                ]
    return found


def _name(record):
    return f"{record.variant} {record.sparsity:.1%} ({record.source.name})"


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments. Received: {argv[1:]}")
    records = finished_runs(_RUNS.value)
    batches, threads = ([int(n) for n in f.value] for f in (_BATCHES, _THREADS))
    latencies = []
    with tempfile.TemporaryDirectory() as folder:
        models = []
        for number, record in enumerate(records):
            place = pathlib.Path(folder, str(number))
            models.append(prepared(record, place, batches[0], threads[0]))
            print(f"{_name(models[-1].record)} is ready.", file=sys.stderr)
        for count in threads:
            for batch in batches:
                latencies += measure(models, batch, count)
        figures.publish(as_figures(models, latencies))
    if _PLOT.value:
        draw(latencies).savefig(_PLOT.value, dpi=150)


if __name__ == "__main__":
    app.run(main)
