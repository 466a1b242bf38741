"""What came out of the study's runs, in the form in which claims and pictures ask."""

import dataclasses
import itertools
import math
import pathlib
import statistics
from collections.abc import Iterable, Sequence

from state_of_sparsity.models.training.run_folder import RunFolder
from study.plan import Run


@dataclasses.dataclass(frozen=True)
class Point:
    """The runs of an experiment at one target sparsity, or weight of a penalty.

    Attributes:
      at: target sparsity or weight.
      sparsity: median of the seeds.
      qualities: of each seed, in percent, or BLEU.
      flops: median share of the dense operations in inference.
      training_flops: median share of those of a dense run of the usual length.
      layers: median sparsity by name of the tensor, in the order of the model.
    """

    at: float
    sparsity: float
    qualities: tuple[float, ...]
    flops: float
    training_flops: float
    layers: dict[str, float]

    @property
    def quality(self) -> float:
        return statistics.median(self.qualities)

    @property
    def low(self) -> float:
        return min(self.qualities)

    @property
    def high(self) -> float:
        return max(self.qualities)


class Results:
    """Points by experiment, in order of sparsity.

    Args:
      runs: all of a dataset, finished.
      folder: of their folders.
    """

    def __init__(self, runs: Iterable[Run], folder: pathlib.Path):
        groups: dict[tuple[str, float], list[RunFolder]] = {}
        for run in runs:
            run_folder = RunFolder(folder / run.configuration.name)
            groups.setdefault((run.experiment, run.point), []).append(run_folder)
        self.folders = groups
        (dense,) = (f for (name, _), f in groups.items() if name == "dense")
        usual = statistics.median(_result(f)["training_flops"] for f in dense)
        self.metric = _result(dense[0])["quality_metric"]
        self.model = _result(dense[0])["model"]
        self.parameters = _result(dense[0])["parameters"]
        self._points: dict[str, list[Point]] = {}
        for (experiment, at), folders in groups.items():
            point = _point(at, folders, usual)
            self._points.setdefault(experiment, []).append(point)
        for points in self._points.values():
            points.sort(key=lambda point: point.sparsity)

    def __contains__(self, experiment: str) -> bool:
        return experiment in self._points

    def __getitem__(self, experiment: str) -> Sequence[Point]:
        return self._points[experiment]

    @property
    def experiments(self) -> list[str]:
        return list(self._points)

    @property
    def dense(self) -> Point:
        return self._points["dense"][0]

    def at(self, experiment: str, at: float) -> Point:
        """The point of an experiment at a target or weight."""
        return next(p for p in self._points[experiment] if p.at == at)

    def qualities_at(self, experiment: str, sparsity: float) -> tuple[float, ...] | None:
        """Qualities of an experiment at a sparsity between those of its points.

        Linear in the logarithm of the density, the seeds of both neighbours in order of
        their quality. None where it would be a guess.
        """
        points = self._points[experiment]
        for below, above in itertools.pairwise(points):
            if below.sparsity <= sparsity <= above.sparsity:
                span = math.log((1 - below.sparsity) / (1 - above.sparsity))
                share = math.log((1 - below.sparsity) / (1 - sparsity)) / span
                pairs = zip(
                    sorted(below.qualities), sorted(above.qualities), strict=True
                )
                return tuple((1 - share) * b + share * a for b, a in pairs)
        return None


def _result(folder):
    return folder.read_result()


def _point(at, folders, usual_training_flops):
    results = [_result(folder) for folder in folders]
    percent = 1.0 if results[0]["quality_metric"] == "bleu" else 100.0

    def median(value):
        return statistics.median(map(value, results))

    return Point(
        at=at,
        sparsity=median(lambda r: r["sparsity"]),
        qualities=tuple(r["quality"] * percent for r in results),
        flops=median(lambda r: r["sparse_flops"] / r["flops"]),
        training_flops=median(lambda r: r["training_flops"] / usual_training_flops),
        layers=_layers(folders),
    )


def _layers(folders):
    sparsities: dict[str, list[float]] = {}
    for folder in folders:
        lines = folder.layers.read_text(encoding="utf-8").splitlines()
        names = lines[0].split(",")
        for line in lines[1:]:
            row = dict(zip(names, line.split(","), strict=True))
            sparsities.setdefault(row["name"], []).append(float(row["sparsity"]))
    return {name: statistics.median(values) for name, values in sparsities.items()}
