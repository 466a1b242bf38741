"""What came out of the study's runs, in the form in which claims and pictures ask."""

import dataclasses
import functools
import itertools
import math
import pathlib
from collections.abc import Iterable, Sequence

import pandas as pd

from state_of_sparsity.models.analysis.finished_runs import read_layers, read_runs
from state_of_sparsity.models.analysis.points import summarize
from state_of_sparsity.models.training.run_folder import RunFolder
from study.plan import EXPERIMENTS, Run, chosen

# How far from its target sparsity a trial may end.
_MET = 0.01


def validation_quality(folder: pathlib.Path, run: Run) -> float:
    """Of the last evaluation of a finished run: on the validation split."""
    path = folder / run.configuration.name
    return float(RunFolder(path).read_metrics()[-1]["quality"])


def merit(folder: pathlib.Path, run: Run) -> tuple[float, float]:
    """By what trials are compared: that they meet the target, then their quality.

    What comes within a point of the target sparsity meets it; else, nearer is better.
    """
    result = RunFolder(folder / run.configuration.name).read_result()
    sparsity, target = result["sparsity"], result["target_sparsity"]
    missed = 0.0 if target is None else max(abs(sparsity - target) - _MET, 0.0)
    return -missed, validation_quality(folder, run)


@dataclasses.dataclass(frozen=True)
class Trial:
    """Settings that were tried.

    Attributes:
      experiment: of which.
      settings: as flags, in words.
      sparsity: that it came to.
      quality: in validation.
      is_chosen: whether they are those of the experiment.
    """

    experiment: str
    settings: str
    sparsity: float
    quality: float
    is_chosen: bool


def tried(runs: Iterable[Run], folder: pathlib.Path) -> list[Trial]:
    """The trials among some runs.

    Args:
      runs: all of a dataset.
      folder: of their folders.
    """
    trials = [run for run in runs if run.trial is not None]
    best = chosen(trials, functools.partial(merit, folder))
    return [
        Trial(
            run.experiment,
            " ".join(f"{name}={value}" for name, value in run.trial.items()),
            RunFolder(folder / run.configuration.name).read_result()["sparsity"],
            validation_quality(folder, run),
            run is best[run.experiment],
        )
        for run in trials
    ]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The runs of an experiment at one target sparsity, or weight of a penalty.

    Attributes:
      at: target sparsity or weight.
      runs: the table of the runs, a seed each.
    """

    at: float
    runs: pd.DataFrame

    @property
    def qualities(self) -> tuple[float, ...]:
        """Of each seed: accuracy in percent, or BLEU."""
        return tuple(self.runs.quality)

    @property
    def sparsity(self) -> float:
        """The median of the seeds."""
        return self.runs.sparsity.median()

    @property
    def flops_share(self) -> float:
        """Of inference, as a share of the dense model's: the median of the seeds."""
        return self.runs.flops_share.median()

    @property
    def layers(self) -> dict[str, float]:
        """The median sparsity of each tensor, in the order of the model."""
        layers = pd.concat(map(read_layers, self.runs.source))
        return layers.groupby("name", sort=False).sparsity.median().to_dict()


class Results:
    """Outcomes by experiment, in order of sparsity.

    Args:
      runs: all of a dataset, finished.
      folder: of their folders.
    """

    def __init__(self, runs: Iterable[Run], folder: pathlib.Path):
        by_name = {run.configuration.name: run for run in runs}
        table, _ = read_runs([folder / name for name in by_name])
        planned = [by_name[source.name] for source in table.source]
        self._runs = table.assign(
            experiment=[run.experiment for run in planned],
            variant=[EXPERIMENTS[run.experiment] for run in planned],
            at=[run.point for run in planned],
            group=[str(run.point) for run in planned],
        )
        self._outcomes: dict[str, list[Outcome]] = {}
        for (experiment, at), of_point in self._runs.groupby(["experiment", "at"]):
            self._outcomes.setdefault(experiment, []).append(Outcome(at, of_point))
        for outcomes in self._outcomes.values():
            outcomes.sort(key=lambda outcome: outcome.sparsity)
        self.metric = table.metric[0]

    def __contains__(self, experiment: str) -> bool:
        return experiment in self._outcomes

    def __getitem__(self, experiment: str) -> Sequence[Outcome]:
        return self._outcomes[experiment]

    def points(self, experiments: Iterable[str]) -> pd.DataFrame:
        """What pictures and tables show of some experiments, if they were run."""
        return summarize(self._runs[self._runs.experiment.isin(list(experiments))])

    def nearest(self, experiment: str, sparsity: float) -> pd.DataFrame:
        """The middle run, by quality, of the outcome that is nearest to a sparsity."""
        outcome = min(
            self._outcomes[experiment], key=lambda o: abs(o.sparsity - sparsity)
        )
        by_quality = outcome.runs.sort_values("quality", kind="stable")
        return by_quality.iloc[[len(by_quality) // 2]]

    def qualities_at(
        self, experiment: str, sparsity: float
    ) -> tuple[float, ...] | None:
        """Qualities of pruning at a sparsity between those of its outcomes.

        Linear in the logarithm of the density, the seeds of both neighbours in order of
        their quality. What is below the first is the dense model. None where it would
        be a guess.
        """
        return self._between(experiment, lambda o: 1 - o.sparsity, 1 - sparsity)

    def qualities_at_flops(
        self, experiment: str, share: float
    ) -> tuple[float, ...] | None:
        """The same at a share of the dense model's FLOPs, linear in its logarithm."""
        return self._between(experiment, lambda o: o.flops_share, share)

    def _between(self, experiment, place, wanted):
        """Qualities where the place of an outcome, 1 if dense, would be the wanted."""
        outcomes = [*self._outcomes["dense"], *self._outcomes[experiment]]
        for above, below in itertools.pairwise(outcomes):
            if place(above) >= wanted >= place(below):
                span = math.log(place(above) / place(below))
                share = math.log(place(above) / wanted) / span
                pairs = zip(
                    sorted(above.qualities), sorted(below.qualities), strict=True
                )
                return tuple((1 - share) * a + share * b for a, b in pairs)
        return None
