"""The published tables: which they are, and what their rows say.

`published_results.csv` has the best published score of each technique and sparsity, and
all scores of dense models. `published_scratch_and_lottery.csv` has mean, deviation and
best score of each group of runs of lottery tickets and of training from scratch. Both
are of Gale, Elsen & Hooker 2019 (arXiv 1902.09574), and in `bin/recipes/`.
"""

import csv
import pathlib
import re

from state_of_sparsity.models.analysis.record import Record, Statistic
from state_of_sparsity.models.analysis.variants import DENSE, in_words, target

# On what the published models were trained.
DATASETS = {"resnet50": "imagenet2012", "transformer": "wmt14_translate/de-en"}
_RESULTS = ("model", "technique", "sparsity", "metric", "score", "hyperparameters")
# Other names in the tables than in our own runs.
_NAMES = {
    "magnitude_pruning_extended": "magnitude pruning, extended",
    "scratch_e": "scratch-e",
    "scratch_b": "scratch-b",
}
_GROUPS = ("experiment", "initialization", "time_multiplier", "mean", "runs")


def read(path: pathlib.Path) -> list[Record]:
    """The records in a published table.

    Raises:
      ValueError: if it is none, or a row of it is damaged.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            make = _reader_of(path, reader.fieldnames or ())
            return [_record(path, reader.line_num, make, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no published table: {error}") from error


def _reader_of(path, header):
    if set(_RESULTS) <= set(header):
        return _result
    if set(_GROUPS) <= set(header):
        return _group
    raise ValueError(
        f"{path} is neither a run's folder nor a published table, which has the "
        f"columns {', '.join(_RESULTS)}, or {', '.join(_GROUPS)} and others. "
        f"Received: {', '.join(header)[:200]}"
    )


def _record(path, line, make, row):
    try:
        model, sparsity = row["model"], float(row["sparsity"])
        return Record(
            source=path,
            group=target(sparsity),
            model=model,
            dataset=DATASETS[model],
            metric=row["metric"],
            sparsity=sparsity,
            published=True,
            **make(row),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}, line {line}, is damaged: {error!r}") from error


def _result(row):
    technique = row["technique"]
    of_several = re.search(r"best of (\d+)", row["hyperparameters"])
    return {
        "technique": technique,
        "variant": _name(technique),
        "quality": float(row["score"]),
        "statistic": Statistic.RUN if technique == DENSE else Statistic.BEST,
        "runs": int(of_several[1]) if of_several else 1,
    }


def _group(row):
    parts = [_name(row["experiment"])]
    if row["learning_rate_schedule"] == "constant_final":
        parts.append("constant final rate")
    if row["initialization"] == "augmented":
        parts.append("augmented init")
    return {
        "technique": row["experiment"],
        "variant": ", ".join(parts),
        "quality": float(row["mean"]),
        "statistic": Statistic.MEAN,
        "deviation": float(row["standard_deviation"]),
        "runs": int(row["runs"]),
        "failed_runs": int(row["failed_runs"]),
    }


def _name(technique):
    return _NAMES.get(technique) or in_words(technique)
