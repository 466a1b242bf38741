"""Runs as a comparison sees them: from their folders, and from published tables."""

import csv
import dataclasses
import math
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from state_of_sparsity.models.analysis import published
from state_of_sparsity.models.analysis.record import Record
from state_of_sparsity.models.analysis.variants import group, read_settings, variant
from state_of_sparsity.models.training.run_folder import DamagedError, RunFolder

_NUMBERS = ("quality", "sparsity", "parameters", "nonzero_parameters")


def read_records(
    paths: Iterable[str | os.PathLike], labels: Mapping[str, str] | None = None
) -> tuple[list[Record], list[str]]:
    """Reads runs and published tables.

    Args:
      paths: folders of runs, folders that hold such folders at any depth, and
        published tables (.csv).
      labels: names of variants by a regular expression that is searched for in the
        path of a run's folder; the first that matches counts.

    Returns:
      The records, and what was skipped: a line for each run without flags or a result.

    Raises:
      ValueError: if there is nothing to read in one of the paths, no run is finished,
        a file is damaged, or a label is no regular expression or matches no run.
    """
    paths = [pathlib.Path(path) for path in paths]
    if not paths:
        raise ValueError("Give folders of runs, or published tables (.csv).")
    records: list[Record] = []
    skipped: list[str] = []
    for folder in _without_repeats(_run_folders(paths)):
        if not folder.flags.is_file():
            skipped.append(f"{folder.path}: has no flags.txt")
        elif not folder.result.is_file():
            why = "failed" if folder.failure.is_file() else "not finished"
            skipped.append(f"{folder.path}: {why}")
        else:
            records.append(_read_run(folder))
    records = _labelled(records, labels or {})
    for path in _without_repeats(path for path in paths if path.is_file()):
        records += published.read(path)
    if not records:
        raise ValueError("\n  ".join(["There is no finished run.", *skipped]))
    return records, skipped


def _run_folders(paths) -> Iterator[RunFolder]:
    for path in paths:
        if path.is_file():
            continue
        if not path.is_dir():
            raise ValueError(f"There is nothing at {path}.")
        found = list(_below(path))
        if not found:
            raise ValueError(
                f"{path} holds no runs: neither it nor a folder in it has flags.txt."
            )
        yield from found


def _below(path):
    """The runs in a folder, in order; there are none inside of a run."""
    for place, folders, files in os.walk(path):
        if {"flags.txt", "result.json"} & set(files):
            folders.clear()
            yield RunFolder(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def _without_repeats(items):
    """Folders and files, each once, by whatever paths they were given."""
    places = {}
    for item in items:
        places.setdefault(getattr(item, "path", item).resolve(), item)
    return list(places.values())


def _read_run(folder: RunFolder) -> Record:
    try:
        result = folder.read_result()
        _check(result)
    except DamagedError as error:
        raise _no_record(str(error).removesuffix(".")) from error
    except (TypeError, ValueError) as error:
        raise _no_record(f"{folder.result} is damaged ({error})") from error
    settings = read_settings(folder)
    metric = result["quality_metric"]
    return Record(
        source=folder.path,
        technique=settings.flags["technique"],
        variant=variant(settings),
        group=group(settings, result["sparsity"]),
        model=result["model"],
        dataset=result["dataset"],
        metric=metric,
        # BLEU is a number from 0 to 100, accuracy a share.
        quality=result["quality"] * (1 if metric == "bleu" else 100),
        sparsity=result["sparsity"],
        seed=result["seed"],
        steps=result["steps"],
        parameters=result["parameters"],
        nonzero_parameters=result["nonzero_parameters"],
        counted_weights=_counted(folder),
        flops=result["flops"],
        sparse_flops=result["sparse_flops"],
        # Runs of 0.1.0 did not count them.
        training_flops=result.get("training_flops"),
        dense_training_flops=result.get("dense_training_flops"),
        flags=settings.flags,
    )


def _no_record(reason):
    return ValueError(f"{reason}: train the run anew, or leave it out.")


def _check(result):
    """Raises ValueError if something is missing in a result, or no number."""
    texts = ("model", "dataset", "quality_metric")
    names = (*texts, *_NUMBERS, "seed", "steps", "flops", "sparse_flops")
    missing = [name for name in names if name not in result]
    if missing:
        raise ValueError(f"{', '.join(missing)} missing")
    for name in _NUMBERS:
        if not math.isfinite(result[name]):
            raise ValueError(f"{name} is {result[name]}")
    if not 0 <= result["sparsity"] <= 1:
        raise ValueError(f"sparsity is {result['sparsity']}")


def _counted(folder):
    """Over how many weights the sparsity of a run is."""
    if not folder.layers.is_file():
        return None
    return sum(int(row["size"]) for row in read_layers(folder.path))


def read_layers(path: str | os.PathLike) -> list[dict[str, str]]:
    """The rows of the layers.csv in the folder of a run.

    Raises:
      ValueError: if there is none, or it is damaged.
    """
    layers = RunFolder(path).layers
    if not layers.is_file():
        raise ValueError(f"{path} has no layers.csv: it is no finished run.")
    with layers.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"name", "size", "sparsity"} <= rows[0].keys():
        raise ValueError(f"{layers} is damaged: it is no report of sparsity by layer.")
    return rows


def _labelled(records, labels):
    used = set()
    labelled = []
    for record in records:
        pattern = next((p for p in labels if _matches(p, record)), None)
        used.add(pattern)
        name = record.variant if pattern is None else labels[pattern]
        labelled.append(dataclasses.replace(record, variant=name))
    unused = [pattern for pattern in labels if pattern not in used]
    if unused:
        raise ValueError(
            f"A label is of no run: {unused[0]!r} is found in the path of none of "
            f"{len(records)} runs, or in those only that an earlier label matches."
        )
    return labelled


def _matches(pattern, record):
    try:
        return re.search(pattern, record.source.as_posix())
    except re.error as error:
        raise ValueError(
            f"A label must be a regular expression. Received: {pattern!r} ({error})"
        ) from error


def runs_named(records: Sequence[Record], names: Iterable[str]) -> list[Record]:
    """The runs whose folders have these names or paths, in their order.

    A path may begin with any of its folders, if that says which run is meant.

    Raises:
      ValueError: if one is the name of no run, or of several; with their names.
    """
    runs = [record for record in records if not record.published]
    return [_run_named(runs, name) for name in names]


def _run_named(runs, name):
    path = pathlib.Path(name)
    found = [run for run in runs if run.source.resolve() == path.resolve()]
    found = found or [
        run for run in runs if run.source.parts[-len(path.parts) :] == path.parts
    ]
    if len(found) == 1:
        return found[0]
    problem = "more than one run" if found else "no run that was read"
    listed = ", ".join(str(run.source) for run in (found or runs)) or "none"
    raise ValueError(f"{name!r} is the name of {problem}. There are: {listed}")
