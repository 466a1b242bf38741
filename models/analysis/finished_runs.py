"""Finished runs as a table, from their folders and from published tables.

A row is a run, or published runs of which only one figure was published. What is not
known of it is empty. Beside `seed`, `steps` and the counts of parameters and operations
of a result.json there are these columns:

    source           the run's folder, or the published table
    published        whether it is from a published table
    technique        by its name in flags and tables, such as "fixed_mask"
    variant, group   what was tried, and what runs of one point have in common, in words
    model, dataset   such as "resnet50" and "imagenet2012"
    metric, quality  on the test split: an accuracy in percent, or BLEU
    statistic        what that is: of one "run", the "best" or the "mean" of several
    deviation        the standard deviation of a mean
    sparsity         share of zeros in the weights that could be made sparse
    counted_weights  how many these are
    runs             how many the row stands for
    failed_runs      those of them that came to nothing
    compression      all parameters for each that is left (Blalock et al. 2020)
    speed_up         in theory: operations of the dense model for each that is left;
                     of masks with a structure, both are left in the smaller model
    flops_share, training_flops_share    operations, as shares of the dense model's
    flags            of the run, as text by name
"""

import math
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping

import pandas as pd

from state_of_sparsity.models.published import tables as published
from state_of_sparsity.models.runs.variants import group, read_settings, variant
from state_of_sparsity.models.training.run_folder import DamagedError, RunFolder

_TEXTS = ("model", "dataset", "quality_metric")
_SCORES = ("quality", "sparsity", "parameters", "nonzero_parameters")
_FLOPS = ("flops", "sparse_flops", "training_flops", "dense_training_flops")
_OF_RESULT = (*_TEXTS, *_SCORES, *_FLOPS, "seed", "steps")
# Of the smaller model of a run whose masks have a structure.
_SMALLER = ("smaller_parameters", "smaller_flops")


def read_runs(
    paths: Iterable[str | os.PathLike], labels: Mapping[str, str] | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """Reads runs and published tables.

    Args:
      paths: folders of runs, folders that hold such folders at any depth, and
        published tables (.csv).
      labels: names of variants by a regular expression that is searched for in the
        path of a run's folder; the first that matches counts.

    Returns:
      The table of runs, and what was skipped: a line for each run without flags or a
      result.

    Raises:
      ValueError: if there is nothing to read in one of the paths, no run is finished,
        a file is damaged, or a label is no regular expression or matches no run.
      RunFolderError: if another version of the project began one of the runs.
    """
    paths = [pathlib.Path(path) for path in paths]
    if not paths:
        raise ValueError("Give folders of runs, or published tables (.csv).")
    files = {path.resolve(): path for path in paths if path.is_file()}
    folders = [f for path in paths if not path.is_file() for f in _runs_in(path)]
    rows, skipped = [], []
    # Each once, by whatever paths it was given.
    for folder in {folder.path.resolve(): folder for folder in folders}.values():
        if not folder.flags.is_file():
            skipped.append(f"{folder.path}: has no flags.txt")
        elif not folder.result.is_file():
            why = "failed" if folder.failure.is_file() else "not finished"
            skipped.append(f"{folder.path}: {why}")
        else:
            rows.append(_read_run(folder))
    _label(rows, labels or {})
    for path in files.values():
        rows += published.read(path).to_dict("records")
    if not rows:
        raise ValueError("\n  ".join(["There is no finished run.", *skipped]))
    return _table(rows), skipped


def _runs_in(path) -> Iterator[RunFolder]:
    """The runs in a folder, in order; there are none inside of a run."""
    if not path.is_dir():
        raise ValueError(f"There is nothing at {path}.")
    is_empty = True
    for place, folders, files in os.walk(path):
        if {"flags.txt", "result.json"} & set(files):
            folders.clear()
            is_empty = False
            yield RunFolder(place)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
    if is_empty:
        raise ValueError(
            f"{path} holds no runs: neither it nor a folder in it has flags.txt."
        )


def _read_run(folder: RunFolder) -> dict:
    folder.check_version()
    try:
        result = folder.read_result()
        _check(result)
    except (TypeError, ValueError) as error:
        named = str(error).removesuffix(".")
        if not isinstance(error, DamagedError):
            named = f"{folder.result} is damaged ({error})"
        raise ValueError(f"{named}: train the run anew, or leave it out.") from error
    settings = read_settings(folder)
    counted = folder.layers.is_file() and read_layers(folder.path)["size"].sum()
    # BLEU is a number from 0 to 100, accuracy a share.
    scale = 1 if result["quality_metric"] == "bleu" else 100
    return {
        **{name: result[name] for name in _OF_RESULT},
        **{name: result.get(name) for name in _SMALLER},
        "source": folder.path,
        "published": False,
        "technique": settings.flags["technique"],
        "variant": variant(settings),
        "group": group(settings, result["sparsity"]),
        "metric": result["quality_metric"],
        "quality": result["quality"] * scale,
        "statistic": "run",
        "counted_weights": counted or math.nan,
        "runs": 1,
        "failed_runs": 0,
        "flags": settings.flags,
    }


def _check(result):
    """Raises ValueError if something is missing in a result, or no number."""
    missing = [name for name in _OF_RESULT if name not in result]
    if missing:
        raise ValueError(f"{', '.join(missing)} missing")
    for name in _SCORES:
        if not math.isfinite(result[name]):
            raise ValueError(f"{name} is {result[name]}")
    if not 0 <= result["sparsity"] <= 1:
        raise ValueError(f"sparsity is {result['sparsity']}")


def read_layers(path: str | os.PathLike) -> pd.DataFrame:
    """The layers.csv in the folder of a run: a row for each tensor.

    Raises:
      ValueError: if there is none, or it is damaged.
    """
    layers = RunFolder(path).layers
    if not layers.is_file():
        raise ValueError(f"{path} has no layers.csv: it is no finished run.")
    try:
        found = pd.read_csv(layers, float_precision="round_trip")
        return found.astype({"name": str, "size": int, "sparsity": float})
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{layers} is damaged: it is no report of sparsity by layer."
        ) from error


def _label(rows, labels):
    """Gives runs the names of labels."""
    unnamed = rows
    for pattern, name in labels.items():
        try:
            found = [r for r in unnamed if re.search(pattern, r["source"].as_posix())]
        except re.error as error:
            raise ValueError(
                f"A label must be a regular expression. Received: {pattern!r} ({error})"
            ) from error
        if not found:
            raise ValueError(
                f"A label is of no run: {pattern!r} is found in the path of none of "
                f"{len(rows)} runs, or in those only that an earlier label matches."
            )
        for row in found:
            row["variant"] = name
        unnamed = [row for row in unnamed if row not in found]


def _table(rows):
    numbers = ["deviation", "counted_weights", *_SCORES, *_FLOPS, *_SMALLER]
    numbers += ["seed", "steps"]
    runs = pd.DataFrame(rows)
    runs = runs.reindex(columns=runs.columns.union(numbers))
    runs = runs.astype(dict.fromkeys(numbers, float))
    left = runs.smaller_parameters.fillna(runs.nonzero_parameters)
    flops = runs.smaller_flops.fillna(runs.sparse_flops)
    return runs.assign(
        compression=runs.parameters / left,
        speed_up=runs.flops / flops,
        flops_share=flops / runs.flops,
        training_flops_share=runs.training_flops / runs.dense_training_flops,
    )


def of_one_network(
    runs: pd.DataFrame, dataset: str | None = None, model: str | None = None
) -> pd.DataFrame:
    """The runs of a dataset and a model, which can be compared.

    Args:
      runs: of any.
      dataset: that is chosen; None if there is one only.
      model: likewise.

    Raises:
      ValueError: if no run is left, or runs of two datasets, models or measures of
        quality; with a list of what there is.
    """
    chosen = runs[
        runs.dataset.eq(dataset or runs.dataset) & runs.model.eq(model or runs.model)
    ]
    networks = _counts(chosen, ["dataset", "model", "metric"])
    if networks.empty:
        listed = _listed(_counts(runs, networks.index.names))
        raise ValueError(
            f"There is no finished run of --dataset={dataset or 'any'} --model="
            f"{model or 'any'}. There are:\n{listed}"
        )
    if len(networks) > 1:
        raise ValueError(
            "There are two datasets, models or measures of quality in one plot: choose "
            "with --dataset, --model, or fewer folders. There are:\n"
            + _listed(networks)
        )
    # Published networks do not say theirs.
    sizes = _counts(chosen, "flops")
    if len(sizes) > 1:
        listed = "\n".join(f"  {n:,.0f} FLOPs: {count}" for n, count in sizes.items())
        raise ValueError(
            "There are networks of several sizes in one plot: give the folders of one. "
            f"By operations of the dense model, there are these runs:\n{listed}"
        )
    return chosen


def _counts(runs, columns):
    return runs.groupby(columns, sort=False).size()


def _listed(networks):
    return "\n".join(
        f"  --dataset={dataset} --model={model} ({metric}): {count}"
        for (dataset, model, metric), count in networks.items()
    )


def runs_named(runs: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """The runs whose folders have these names or paths, in their order.

    A path may begin with any of its folders, if that says which run is meant.

    Raises:
      ValueError: if one is the name of no run, or of several; with their names.
    """
    own = runs.source[~runs.published]
    return runs.loc[[_index_of(own, pathlib.Path(name)) for name in names]]


def _index_of(sources, path):
    found = sources[[source.resolve() == path.resolve() for source in sources]]
    if found.empty:
        parts = path.parts
        found = sources[[source.parts[-len(parts) :] == parts for source in sources]]
    if len(found) == 1:
        return found.index[0]
    problem = "no run that was read" if found.empty else "more than one run"
    listed = ", ".join(map(str, sources if found.empty else found)) or "none"
    raise ValueError(f"{str(path)!r} is the name of {problem}. There are: {listed}")
