"""What came out of the study's runs, in the form in which claims and pictures ask."""

import dataclasses
import itertools
import math
import pathlib
import statistics
from collections.abc import Iterable, Sequence

from state_of_sparsity.models.analysis.record import Record
from state_of_sparsity.models.analysis.records import read_layers, read_records
from state_of_sparsity.models.analysis.summary import Point, summarize
from study.plan import EXPERIMENTS, Run


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The runs of an experiment at one target sparsity, or weight of a penalty.

    Attributes:
      at: target sparsity or weight.
      records: of the runs, a seed each.
    """

    at: float
    records: tuple[Record, ...]

    @property
    def qualities(self) -> tuple[float, ...]:
        """Of each seed: accuracy in percent, or BLEU."""
        return tuple(record.quality for record in self.records)

    @property
    def sparsity(self) -> float:
        """The median of the seeds."""
        return statistics.median(record.sparsity for record in self.records)

    @property
    def layers(self) -> dict[str, float]:
        """The median sparsity of each tensor, in the order of the model."""
        found: dict[str, list[float]] = {}
        for record in self.records:
            for row in read_layers(record.source):
                found.setdefault(row["name"], []).append(float(row["sparsity"]))
        return {name: statistics.median(values) for name, values in found.items()}


class Results:
    """Outcomes by experiment, in order of sparsity.

    Args:
      runs: all of a dataset, finished.
      folder: of their folders.
    """

    def __init__(self, runs: Iterable[Run], folder: pathlib.Path):
        by_name = {run.configuration.name: run for run in runs}
        records, _ = read_records([folder / name for name in by_name])
        groups: dict[tuple[str, float], list[Record]] = {}
        for record in records:
            run = by_name[record.source.name]
            groups.setdefault((run.experiment, run.point), []).append(
                dataclasses.replace(
                    record, variant=EXPERIMENTS[run.experiment], group=str(run.point)
                )
            )
        self._outcomes: dict[str, list[Outcome]] = {}
        for (experiment, at), of_point in groups.items():
            outcome = Outcome(at, tuple(of_point))
            self._outcomes.setdefault(experiment, []).append(outcome)
        for outcomes in self._outcomes.values():
            outcomes.sort(key=lambda outcome: outcome.sparsity)
        self.metric = records[0].metric

    def __contains__(self, experiment: str) -> bool:
        return experiment in self._outcomes

    def __getitem__(self, experiment: str) -> Sequence[Outcome]:
        return self._outcomes[experiment]

    def points(self, experiments: Iterable[str]) -> list[Point]:
        """What pictures and tables show of some experiments, if they were run."""
        return summarize(
            [
                record
                for experiment in experiments
                for outcome in self._outcomes.get(experiment, ())
                for record in outcome.records
            ]
        )

    def nearest(self, experiment: str, sparsity: float) -> Record:
        """The middle run, by quality, of the outcome that is nearest to a sparsity."""
        outcome = min(
            self._outcomes[experiment], key=lambda o: abs(o.sparsity - sparsity)
        )
        by_quality = sorted(outcome.records, key=lambda record: record.quality)
        return by_quality[len(by_quality) // 2]

    def qualities_at(
        self, experiment: str, sparsity: float
    ) -> tuple[float, ...] | None:
        """Qualities of pruning at a sparsity between those of its outcomes.

        Linear in the logarithm of the density, the seeds of both neighbours in order of
        their quality. What is below the first is the dense model. None where it would
        be a guess.
        """
        outcomes = [*self._outcomes["dense"], *self._outcomes[experiment]]
        for below, above in itertools.pairwise(outcomes):
            if below.sparsity <= sparsity <= above.sparsity:
                span = math.log((1 - below.sparsity) / (1 - above.sparsity))
                share = math.log((1 - below.sparsity) / (1 - sparsity)) / span
                pairs = zip(
                    sorted(below.qualities), sorted(above.qualities), strict=True
                )
                return tuple((1 - share) * b + share * a for b, a in pairs)
        return None
