"""The published tables: which they are, and what their rows say.

`published_results.csv` has the best published score of each technique and sparsity, and
all scores of dense models. `published_scratch_and_lottery.csv` has mean, deviation and
best score of each group of runs of lottery tickets and of training from scratch. Both
are of Gale, Elsen & Hooker 2019 (arXiv 1902.09574). `published_techniques.csv` has
scores of later techniques, with their papers. All are in `bin/recipes/`.
"""

import pathlib

import pandas as pd

from state_of_sparsity.models.runs.variants import DENSE, in_words, target

# On what the published models were trained.
DATASETS = {"resnet50": "imagenet2012", "transformer": "wmt14_translate/de-en"}
_RESULTS = ("model", "technique", "sparsity", "metric", "score", "hyperparameters")
# Other names in the tables than in our own runs.
_NAMES = {
    "magnitude_pruning_extended": "magnitude pruning, extended",
    "scratch_e": "scratch-e",
    "scratch_b": "scratch-b",
    "acdc": "AC/DC, global",
    "feather": "Feather, global",
    "rigl_erk": "RigL, erk",
    "st3": "ST-3, global",
    "st3_sigma": "ST-3, sigma, global",
}
_GROUPS = ("experiment", "initialization", "time_multiplier", "mean", "runs")
_TEXTS = ["model", "technique", "variant", "metric", "statistic"]
_NUMBERS = ["sparsity", "quality", "deviation", "runs", "failed_runs"]


def read(path: pathlib.Path) -> pd.DataFrame:
    """The rows of a published table, with columns as of `finished_runs`.

    Raises:
      ValueError: if it is none, or a row of it is damaged.
    """
    try:
        table = pd.read_csv(path)
    except pd.errors.EmptyDataError:
        table = pd.DataFrame()
    except (UnicodeDecodeError, pd.errors.ParserError) as error:
        raise ValueError(f"{path} is no published table: {error}") from error
    if set(_RESULTS) <= set(table):
        runs = _results(table)
    elif set(_GROUPS) <= set(table):
        runs = _groups(table)
    else:
        raise ValueError(
            f"{path} is neither a run's folder nor a published table, which has the "
            f"columns {', '.join(_RESULTS)}, or {', '.join(_GROUPS)} and others. "
            f"Received: {', '.join(table)[:200]}"
        )
    numbers = runs[_NUMBERS].apply(pd.to_numeric, errors="coerce")
    is_damaged = numbers.isna().any(axis=1) | ~runs.model.isin(DATASETS)
    if is_damaged.any():
        line = is_damaged.idxmax() + 2
        raise ValueError(
            f"{path}, line {line}, is damaged: its model or a number is not known."
        )
    return runs[_TEXTS].assign(
        **numbers,
        source=path,
        published=True,
        dataset=runs.model.map(DATASETS),
        group=numbers.sparsity.map(target),
        flags=[{}] * len(runs),
    )


def _results(table):
    of_several = table.hyperparameters.astype(str).str.extract(r"best of (\d+)")[0]
    return table.rename(columns={"score": "quality"}).assign(
        variant=table.technique.map(_name),
        statistic=table.technique.map({DENSE: "run"}).fillna("best"),
        deviation=0.0,
        runs=of_several.fillna("1"),
        failed_runs=0,
    )


def _groups(table):
    is_constant = table.learning_rate_schedule == "constant_final"
    is_augmented = table.initialization == "augmented"
    names = {
        "experiment": "technique",
        "mean": "quality",
        "standard_deviation": "deviation",
    }
    return table.rename(columns=names).assign(
        variant=table.experiment.map(_name)
        + is_constant.map({True: ", constant final rate", False: ""})
        + is_augmented.map({True: ", augmented init", False: ""}),
        statistic="mean",
    )


def _name(technique):
    return _NAMES.get(technique) or in_words(str(technique))
