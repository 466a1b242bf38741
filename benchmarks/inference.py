"""Speed, files and memory of sparse networks in the engine, and in dense ones.

python benchmarks/inference.py --networks=resnet50 --batches=1,8 --threads=1,2 \\
    --dense=onnxruntime --dense=openvino
python benchmarks/inference.py --networks= --files=pruned.sparse,dense.onnx

Weights of networks are random, and zeros where they fall; stem and classifier are
dense. Files are what `sos.export` wrote with format="sparse", or any ONNX files; dense
engines take the same weights as ONNX, but for TensorFlow and LiteRT, whose weights are
their own. Engines take turns in one process, and so share whatever else the machine
does. Loading ends with the first outputs: the first time, our engine tunes, and each
engine does what it does once in a process; again, it has done so. Memory is the peak of
a process that imports one engine, loads again, and runs.
"""

import dataclasses
import os
import pathlib
import sys
import tempfile
import time

import engine_alone
import engines
import figures
import numpy as np
import subjects
import turns
from absl import app, flags

from state_of_sparsity.runtime import load

_NETWORKS = flags.DEFINE_list(
    "networks", list(subjects.NETWORKS), "Which of the networks."
)
_SPARSITIES = flags.DEFINE_list(
    "sparsities", ["0", "0.5", "0.8", "0.9", "0.95", "0.98"], "Parts that are zero."
)
_FILES = flags.DEFINE_list("files", [], "Sparse files and ONNX files.")
_BATCHES = flags.DEFINE_list("batches", ["1", "8"], "Sizes of the batch.")
_LENGTH = flags.DEFINE_integer(
    "length", 64, "Other sizes that the inputs of files leave open."
)
_THREADS = flags.DEFINE_list("threads", ["1", "2"], "How many compute.")
_ENGINES = flags.DEFINE_multi_enum(
    "dense", ["onnxruntime"], list(engines.DENSE), "Dense engines, ONNX Runtime first."
)
_ROUNDS = flags.DEFINE_integer("rounds", 15, "How often each has a turn.")
_CALLS = flags.DEFINE_integer("calls", 3, "How often each runs in a turn.")
_MEMORY = flags.DEFINE_bool("memory", True, "Whether memory is measured.")
_PLOT = flags.DEFINE_string("plot", None, "PNG or SVG of milliseconds over sparsity.")
_PROFILE = flags.DEFINE_bool("profile", False, "Whether to print profiles.")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a time is in the picture: a panel, a line in it, and where that is.

    It is at percent of zeros; files, which are not one network, are side by side.
    """

    panel: str
    engine: str
    across: float | str
    milliseconds: float


def measure(subject: subjects.Subject, paths, batch: int, threads: int):
    """Figures of one model, and their places in the picture.

    Args:
      subject: the model.
      paths: of the file of each engine, ONNX Runtime first.
      batch: images or sentences.
      threads: that compute.
    """
    inputs = subject.inputs(batch, _LENGTH.value)
    setting = f"batch {batch} threads {threads}"
    case = f"{subject.name} {subject.sparsity:.4g} {setting}"
    jobs, costs = {}, {}
    for engine, path in paths.items():
        jobs[engine], costs[engine] = _loaded(engine, path, inputs, threads)
    ours, theirs = jobs["engine"](), jobs["onnxruntime"]()
    # The first of them is what the others are compared with.
    named = {f"{case} {engine}": jobs[engine] for engine in paths}
    found = figures.of_times(turns.take_turns(named, _ROUNDS.value, _CALLS.value))
    panel, across = f"{subject.group}, {setting}", 100 * subject.sparsity
    if subject.group == "files":
        across = "/".join(pathlib.Path(subject.name).parts[-2:]) + f"\n{across:.1f} %"
    places = [
        Place(panel, figure.case.split()[-1], across, figure.value)
        for figure in found
        if figure.quantity == "ms"
    ]
    for engine, values in costs.items():
        name = f"{case} {engine}"
        found += [figures.Figure(name, what, value) for what, value in values.items()]
    off = 1e6 * _difference(ours, theirs)
    found.append(figures.Figure(f"{case} engine", "1e-6 off, relative", off))
    if _PROFILE.value:
        print(load(paths["engine"], threads).profile(inputs))
    return found, places


def _loaded(engine, path, inputs, threads):
    """A call that runs a file in an engine, and what it takes to have it."""
    seconds = []
    for _ in range(2):
        begin = time.perf_counter()
        run = engines.ALL[engine](path, inputs, threads)
        seconds.append(time.perf_counter() - begin)
    costs = dict(zip(("s to load", "s to load again"), seconds, strict=True))
    costs["MB of files"] = _size(path) / 1e6
    if _MEMORY.value:
        costs["MiB at most"] = engine_alone.peak_memory(engine, path, inputs, threads)
    return run, costs


def _difference(ours, theirs):
    """The largest of all outputs, over the largest number of the output."""
    return max(
        float(np.abs(np.subtract(a, b, dtype=float)).max() / (np.abs(b).max() or 1))
        for a, b in zip(ours, theirs, strict=True)
    )


def _size(path):
    """Bytes of a file, or of all files in a folder."""
    if os.path.isfile(path):
        return os.path.getsize(path)
    files = [file for file in pathlib.Path(path).rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def plot(places: list[Place], path: str) -> None:
    """Draws milliseconds over sparsity, a line for each engine."""
    import matplotlib.figure

    lines = {}
    for place in places:
        line = lines.setdefault((place.panel, place.engine), [])
        line.append((place.across, place.milliseconds))
    panels = list(dict.fromkeys(panel for panel, _ in lines))
    drawing = matplotlib.figure.Figure((5 * len(panels), 4), layout="constrained")
    axes = drawing.subplots(1, len(panels), squeeze=False)[0]
    for (panel, engine), points in lines.items():
        axis = axes[panels.index(panel)]
        of_files = isinstance(points[0][0], str)
        style, label = ("o", "") if of_files else ("o-", "sparsity, %")
        axis.plot(*zip(*sorted(points), strict=True), style, label=engine)
        axis.set(title=panel, xlabel=label, ylabel="ms")
    for axis in axes:
        axis.margins(x=0.1)
        axis.set_ylim(bottom=0)
    axes[0].legend()
    drawing.savefig(path)


def _all_subjects():
    for name in _NETWORKS.value:
        for sparsity in map(float, _SPARSITIES.value):
            yield subjects.of_random(name, sparsity)
    for path in _FILES.value:
        yield subjects.of_file(path)


def _check_flags():
    """Raises UsageError before minutes are spent."""
    if _ENGINES.value[0] != "onnxruntime":
        raise app.UsageError("--dense=onnxruntime has to be the first one.")
    if unknown := set(_NETWORKS.value) - set(subjects.NETWORKS):
        known = ", ".join(subjects.NETWORKS)
        raise app.UsageError(
            f"--networks must be some of {known}. Received: {', '.join(unknown)}"
        )
    if not [*_NETWORKS.value, *_FILES.value]:
        raise app.UsageError("Give --networks or --files.")
    if in_tensorflow := {"tensorflow", "litert"} & set(_ENGINES.value):
        without = [*(set(_NETWORKS.value) - set(subjects.IN_KERAS)), *_FILES.value]
        if without:
            raise app.UsageError(
                f"--dense={min(in_tensorflow)} has no such network. "
                f"Received: {', '.join(without)}"
            )
    if "tensorflow" in _ENGINES.value and len(_THREADS.value) > 1:
        raise app.UsageError("--dense=tensorflow takes one number of --threads.")
    for path in _FILES.value:
        try:
            subjects.of_file(path)
        except (OSError, ValueError) as error:
            raise app.UsageError(f"--files: {error}") from error


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"There are no arguments but flags. Received: {argv[1:]}")
    _check_flags()
    if "tensorflow" in _ENGINES.value:
        # Before models are made.
        engines.limit_tensorflow(int(_THREADS.value[0]))
    found, places = [], []
    for subject in _all_subjects():
        fixed = subject.batch
        batches = _BATCHES.value if fixed is None else [fixed]
        with tempfile.TemporaryDirectory() as folder:
            wanted = [*_ENGINES.value, "engine"]
            paths = {engine: subject.write(engine, folder) for engine in wanted}
            for threads in map(int, _THREADS.value):
                for batch in map(int, batches):
                    new, where = measure(subject, paths, batch, threads)
                    found += new
                    places += where
                    print(
                        f"{new[-1].case}: {where[-1].milliseconds:.2f}", file=sys.stderr
                    )
    figures.publish(found)
    if _PLOT.value:
        plot(places, _PLOT.value)


if __name__ == "__main__":
    app.run(main)
