"""Budgets: a sparsity for each layer, such that the whole model meets one.

A budget knows shapes and what their elements count, and neither scores nor schedules
nor engines. Another one is a class that says how dense layers are relative to each
other, and between which bounds; or, as `Global`, leaves that to the scores.
"""

import abc
import csv
import dataclasses
import math
import operator
from collections.abc import Mapping, Sequence
from typing import ClassVar

from state_of_sparsity import masks
from state_of_sparsity.checks import check_choice, check_fraction


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer as budgets see it.

    Attributes:
      path: names of the layers around it and of itself, joined by slashes.
      shapes: of its weights that could be made sparse.
      sparsity: if something else has said it; None if the budget may choose.
      uses: of each of them what an element counts: the multiply-adds that it takes part
        in, where a budget is of these; by default one.
    """

    path: str
    shapes: tuple[tuple[int, ...], ...]
    sparsity: float | None = None
    uses: tuple[int, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "uses", self.uses or (1,) * len(self.shapes))

    @property
    def size(self) -> int:
        """Number of its weights."""
        return sum(map(math.prod, self.shapes))

    @property
    def cost(self) -> int:
        """What they count."""
        return self._sum(math.prod)

    def zeros(self, sparsity: float) -> int:
        """What the weights count that are masked at a sparsity."""
        return self._sum(lambda shape: masks.zero_count(sparsity, math.prod(shape)))

    def _sum(self, number):
        return sum(map(operator.mul, map(number, self.shapes), self.uses))


class Budget(abc.ABC):
    """Distributes the weights that stay over the layers of a model.

    The density of a layer is proportional to `relative_density`, by one factor for the
    whole model, within `bounds`: what a bound cuts off is redistributed.

    Attributes:
      shares_threshold: whether the sparsity that layers get is that of all of them
        together, and the scores say, at each renewal, how sparse each becomes.
      of: what the sparsity is a share of: weights or flops.
    """

    shares_threshold: ClassVar[bool] = False
    of: ClassVar[str] = "weights"

    @abc.abstractmethod
    def relative_density(self, layer: Layer) -> float:
        """Density of a layer relative to others, positive."""

    def bounds(self, place: int, layers: Sequence[Layer]) -> tuple[float, float]:
        """Lowest and highest density of the layer at a place."""
        del place, layers
        return 0.0, 1.0

    def sparsities(self, layers: Sequence[Layer], target: float) -> dict[str, float]:
        """The sparsity of each layer, so that all together have the target's zeros.

        Args:
          layers: all of a model that could be made sparse, in its order.
          target: share of what all their weights count that goes, in [0, 1).

        Returns:
          By path. Each tensor keeps a weight at least. Layers that have a sparsity
          keep it.

        Raises:
          ValueError: if the target cannot be met, with the most and the least that can.
        """
        check_fraction("sparsity", target)
        limits = [self._limits(place, layers) for place in range(len(layers))]
        total = sum(layer.cost for layer in layers)
        kept = total - round(target * total)
        low, high = (sum(map(math.ceil, bound)) for bound in zip(*limits, strict=True))
        if not low <= kept <= high:
            raise ValueError(
                f"{type(self).__name__} cannot make {target:.2%} of the {self.of} "
                f"zero, but {1 - high / total:.2%} at least and {1 - low / total:.2%} "
                f"at most: {sum(x.sparsity is not None for x in layers)} of "
                f"{len(layers)} layers are left out of it."
            )
        wanted = [layer.cost * self.relative_density(layer) for layer in layers]
        counts = _rounded(_scaled(wanted, limits, kept), limits, kept)
        zeros = [layer.cost - n for layer, n in zip(layers, counts, strict=True)]
        _meet(layers, zeros, limits, total - kept)
        return {
            layer.path: n / layer.cost if layer.sparsity is None else layer.sparsity
            for layer, n in zip(layers, zeros, strict=True)
        }

    def _limits(self, place, layers):
        """Least and most that the weights count which a layer keeps."""
        layer = layers[place]
        if layer.sparsity is not None:
            kept = layer.cost - layer.zeros(layer.sparsity)
            return kept, kept
        low, high = self.bounds(place, layers)
        return max(low * layer.cost, sum(layer.uses)), high * layer.cost


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uniform(Budget):
    """The same sparsity for all layers.

    Attributes:
      of: weights, or flops: then the sparsity is the share of the multiply-adds that
        goes, where each weight counts as often as it is used for an example. What is
        only looked up, such as an embedding, stays dense.
    """

    of: str = "weights"

    def __post_init__(self):
        check_choice("of", self.of, ("weights", "flops"))

    def relative_density(self, layer):
        del layer
        return 1.0


@dataclasses.dataclass(frozen=True)
class FirstDenseLastCapped(Uniform):
    """The first layer dense, the last one at most so sparse, all others alike.

    The budget of the extended runs of ResNet-50 (Gale et al. 2019, arXiv 1902.09574,
    section 5).

    Attributes:
      cap: highest sparsity of the last layer.
      of: as of `Uniform`.
    """

    cap: float = 0.8

    def __post_init__(self):
        super().__post_init__()
        check_fraction("cap", self.cap)

    def bounds(self, place, layers):
        if place == 0:
            return 1.0, 1.0
        return (1.0 - self.cap if place == len(layers) - 1 else 0.0), 1.0


class ERK(Uniform):
    """Erdős-Rényi-Kernel: large kernels become sparser than small ones.

    Density proportional to `(sum of the dimensions) / (product of the dimensions)` of
    the kernel (Evci et al. 2020, arXiv 1911.11134, section 3).

    Attributes:
      of: as of `Uniform`.
    """

    def relative_density(self, layer):
        return sum(map(sum, layer.shapes)) / layer.size


class Global(Uniform):
    """One threshold over all layers: the lowest scores of the whole model go.

    Of all weights that no override names, the lowest scores are masked at a renewal, so
    many that the target is met to the weight. A layer whose scores are low becomes
    sparser than others; each tensor keeps a weight at least. Among equal scores, those
    of earlier layers go first, and within a layer the first ones. Of blocks, so large a
    share of all blocks goes. Gale et al. 2019 (arXiv 1902.09574) prune by layer; one
    threshold is the global pruning of Blalock et al. 2020 (arXiv 2003.03033).

    Of flops, the lowest scores go, so many that the multiply-adds which their weights
    take part in come within one unit of the target, from below.

    The layers count in one step of training, whose first layer says which one it is: a
    part of the model cannot be trained by itself.

    Attributes:
      of: as of `Uniform`.
    """

    shares_threshold = True

    def sparsities(self, layers, target):
        """As of `Budget`; but the share of all layers that have no sparsity, for each.

        The zeros of these layers together are that share of what their weights count.
        """
        found = super().sparsities(layers, target)
        free = [layer for layer in layers if layer.sparsity is None]
        zeros = round(target * sum(layer.cost for layer in layers))
        zeros -= sum(x.zeros(x.sparsity) for x in layers if x.sparsity is not None)
        cost = sum(layer.cost for layer in free)
        return found | {layer.path: zeros / cost for layer in free}


@dataclasses.dataclass(frozen=True)
class OWL(Uniform):
    """Outlier-weighed layers: more weights stay where inputs and weights stand out.

    Densities span twice `within`, linear in the share of outliers of a layer: scores
    `|W_ij| ‖x_i‖₂` above `multiple` times the mean of its scores (Yin et al. 2024,
    arXiv 2310.05175, section 3.3). A layer without such scores has the mean share. For
    `sos.one_shot` with data, which measures them.

    Attributes:
      multiple: of the mean, from which a score is an outlier.
      within: half of the span.
      outliers: the share of each layer, by path; None until it is measured.
      of: as of `Uniform`.
    """

    multiple: float = 5.0
    within: float = 0.08
    outliers: Mapping[str, float] | None = None

    def sparsities(self, layers, target):
        """As of `Budget`."""
        if self.outliers is None:
            raise ValueError(
                "sos.OWL measures outliers on data: it is a budget of sos.one_shot."
            )
        free = [layer for layer in layers if layer.sparsity is None]
        mean = sum(self.outliers.values()) / max(len(self.outliers), 1)
        shares = [self.outliers.get(layer.path, mean) for layer in free]
        span = max(shares) - min(shares) or 1.0
        wanted = [
            2 * self.within * (share - min(shares)) / span - target for share in shares
        ]
        costs = [layer.cost for layer in free]
        shift = sum(map(operator.mul, wanted, costs)) / sum(costs)
        densities = [1 - target + density - shift for density in wanted]
        table = {x.path: d for x, d in zip(free, densities, strict=True)}
        return _Relative(table, of=self.of).sparsities(layers, target)


@dataclasses.dataclass(frozen=True)
class _Relative(Uniform):
    """Densities in proportion to those of a table."""

    densities: Mapping[str, float]

    def relative_density(self, layer):
        return self.densities.get(layer.path, 1.0)


class Table(Budget):
    """A sparsity for each layer, such as those that another technique came to.

    Args:
      sparsities: by path of the layer, as in reports: the name without the attribute.
    """

    def __init__(self, sparsities: Mapping[str, float]):
        for name, sparsity in sparsities.items():
            check_fraction(f"sparsities[{name!r}]", sparsity)
        self._sparsities = dict(sparsities)

    @classmethod
    def from_csv(cls, path):
        """The sparsities in a file that `SparsityReport.to_csv` wrote.

        Each tensor keeps a weight, also where that report has none left.

        Raises:
          ValueError: for another file.
        """
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if not rows or not {"name", "size", "zeros"} <= rows[0].keys():
            raise ValueError(f"{str(path)!r} is no report of sparsity by layer.")
        sizes: dict[str, list[int]] = {}
        for row in rows:
            counts = sizes.setdefault(row["name"].rpartition("/")[0], [0, 0])
            size = int(row["size"])
            counts[0] += min(int(row["zeros"]), size - 1)
            counts[1] += size
        return cls({path: zeros / size for path, (zeros, size) in sizes.items()})

    def relative_density(self, layer):
        return 1.0 - self._sparsities[layer.path]

    def sparsities(self, layers, target=None):
        """As of `Budget`; what the table has for each layer, whatever the target."""
        del target
        free = [layer for layer in layers if layer.sparsity is None]
        missing = [x.path for x in free if x.path not in self._sparsities]
        if missing:
            raise ValueError(
                f"The table has no sparsity for {missing}. It has some for "
                f"{sorted(self._sparsities)}"
            )
        found = {x.path: self._sparsities[x.path] for x in free}
        return {x.path: found.get(x.path, x.sparsity) for x in layers}


def _scaled(wanted, limits, total):
    """`wanted`, scaled by one factor within limits so that they sum to a total."""

    def clipped(factor):
        return [
            min(max(factor * value, low), high)
            for value, (low, high) in zip(wanted, limits, strict=True)
        ]

    low, high = 0.0, 1.0
    while sum(clipped(high)) < total and high < 2.0**200:
        high *= 2.0
    for _ in range(200):
        middle = (low + high) / 2.0
        low, high = (middle, high) if sum(clipped(middle)) < total else (low, middle)
    return clipped(high)


def _rounded(values, limits, total):
    """Integers near the values, within limits, that sum to a total."""
    counts = [math.floor(value) for value in values]
    counts = [
        max(n, math.ceil(low)) for n, (low, _) in zip(counts, limits, strict=True)
    ]
    by_rest = sorted(
        range(len(values)), key=lambda place: counts[place] - values[place]
    )
    missing = total - sum(counts)
    while missing:
        sign = 1 if missing > 0 else -1
        for place in by_rest[::sign]:
            low, high = limits[place]
            if missing and low <= counts[place] + sign <= high:
                counts[place] += sign
                missing -= sign
    return counts


def _meet(layers, zeros, limits, total):
    """Changes the zeros of layers of several weights, which round for each of them."""
    free = [i for i, layer in enumerate(layers) if layer.sparsity is None]

    def present(place):
        layer = layers[place]
        return layer.zeros(zeros[place] / layer.cost)

    fixed = sum(x.zeros(x.sparsity) for x in layers if x.sparsity is not None)
    for _ in range(2 * len(layers)):
        missing = total - fixed - sum(map(present, free))
        if not missing:
            return
        sign = 1 if missing > 0 else -1
        for place in sorted(free, key=lambda place: len(layers[place].shapes)):
            low, high = limits[place]
            if low <= layers[place].cost - zeros[place] - sign <= high:
                zeros[place] += sign
                break
