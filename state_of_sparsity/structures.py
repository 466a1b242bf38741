"""Patterns in which weights are masked: singly, in slices or blocks, or m of every n.

A structure knows shapes and scores, not what a score means nor when it is asked.
Another pattern is a class that derives from `SingleWeights`.
"""

import collections
import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from keras import ops

from state_of_sparsity import masks
from state_of_sparsity.checks import check_choice
from state_of_sparsity.companions import Companions

# Of the patterns that a name is enough for.
NAMES = ("weights", "inputs", "channels", "heads")
# Every class of patterns by its name, for configurations that were saved.
_CLASSES: dict[str, type["SingleWeights"]] = {}


def from_config(config: dict) -> "SingleWeights":
    """The pattern that `SingleWeights.get_config` described."""
    config = dict(config)
    name = config.pop("class_name")
    if name not in _CLASSES:
        raise ValueError(
            f"Unknown structure {name!r}: import the module that defines it first."
        )
    # JSON has no tuples.
    return _CLASSES[name](**{key: _tuples(value) for key, value in config.items()})


@dataclasses.dataclass(frozen=True)
class SingleWeights:
    """Every weight is masked by itself.

    Attributes:
      companions: the layers whose weights it masks together, if it is of several.
    """

    companions: ClassVar[Companions | None] = None

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        _CLASSES[cls.__name__] = cls

    def get_config(self) -> dict:
        """Its class and fields."""
        return {"class_name": type(self).__name__, **dataclasses.asdict(self)}

    def for_site(self, site) -> "SingleWeights":
        """The pattern for the weights of one site of a model."""
        del site
        return self

    def refusal(self, shape: tuple[int, ...]) -> str | None:
        """Why a weight of this shape cannot be masked so, or None if it can."""
        del shape

    def masked_share(self, sparsities: np.ndarray, shape: tuple[int, ...]):
        """The share of a weight that is masked at each of several sparsities."""
        units = self.units(shape)
        return np.minimum(np.round(sparsities * units), units - 1) / units

    def units(self, shape: tuple[int, ...]) -> int:
        """How many units, which are masked as a whole, a weight has."""
        return math.prod(shape)

    def unit_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of a tensor with a value for each unit, which broadcasts to a weight.

        Of blocks and groups there is none.
        """
        return shape

    def price(self, shape: tuple[int, ...]) -> int:
        """What a unit counts beside those of other weights: one, or its weights."""
        del shape
        return 1

    def unit_scores(self, scores):
        """What each unit is worth, from what its weights are."""
        return scores

    def mask(self, scores, zeros):
        """Boolean mask of the shape of the scores: true where a weight stays.

        Args:
          scores: float tensor.
          zeros: integer scalar, the number of units that go.
        """
        return ops.logical_not(masks.lowest(scores, zeros))

    # Of several weights that are masked together: of each by itself.

    def pools(
        self, shapes: Sequence[tuple[int, ...]], uses: Sequence[int]
    ) -> list[tuple[int, int]]:
        """Of each pool of units that are compared, how many it has, and their price.

        Args:
          shapes: of the weights.
          uses: by which the price of a unit is multiplied, for each weight.
        """
        pairs = zip(shapes, uses, strict=True)
        return [(self.units(shape), self.price(shape) * n) for shape, n in pairs]

    def scores_of_pools(self, scores) -> list:
        """What the units of each pool are worth, from what the weights are."""
        return [self.unit_scores(tensor) for tensor in scores]

    def masks(self, scores, zeros) -> list:
        """The mask of each weight, where so many units of each pool go."""
        return [self.mask(*pair) for pair in zip(scores, zeros, strict=True)]


@dataclasses.dataclass(frozen=True)
class Blocks(SingleWeights):
    """Whole blocks of a matrix are masked.

    Attributes:
      size: height and width of a block. Blocks that reach beyond an edge are cut.
      pooling: "AVG" or "MAX": what of its weights' scores a block counts.
    """

    size: tuple[int, int]
    pooling: str

    def refusal(self, shape):
        return None if len(shape) == 2 else f"blocks of {self.size} need matrices"

    def units(self, shape):
        return math.prod(self._grid(shape))

    def mask(self, scores, zeros):
        kept = super().mask(self.unit_scores(scores), zeros)
        for axis, repeats in enumerate(self.size):
            kept = ops.repeat(kept, repeats, axis=axis)
        return kept[: scores.shape[0], : scores.shape[1]]

    def _grid(self, shape):
        return tuple(
            -(-side // length) for side, length in zip(shape, self.size, strict=True)
        )

    def unit_scores(self, scores):
        # What an edge cuts off a block does not count. TF-MOT pads at both ends, which
        # can shift the blocks against the mask's.
        (rows, columns), (height, width) = self._grid(scores.shape), self.size
        padding = (
            (0, rows * height - scores.shape[0]),
            (0, columns * width - scores.shape[1]),
        )

        def by_block(reduce, values, fill):
            padded = ops.pad(values, padding, constant_values=fill)
            blocks = ops.reshape(padded, (rows, height, columns, width))
            return reduce(blocks, axis=(1, 3))

        scores = ops.cast(scores, "float32")
        if self.pooling == "MAX":
            return by_block(ops.max, scores, -float("inf"))
        counts = by_block(ops.sum, ops.ones_like(scores), 0.0)
        return by_block(ops.sum, scores, 0.0) / counts


@dataclasses.dataclass(frozen=True)
class Slices(SingleWeights):
    """Inputs, output channels or attention heads of a kernel are masked as a whole.

    Inputs are what a layer sums over: those of Dense, the channels that a convolution
    is given. Channels are what it gives: the units of Dense, the filters of a
    convolution. Heads are those of the projections of attention, which are EinsumDense
    layers with kernels of rank 3.

    A slice is worth the mean of its weights' scores. Of magnitudes, that is the L1 norm
    over the number of weights, by which Li et al. 2017 (arXiv 1608.08710, section 3.1)
    prune filters.

    Channels that a model ties together can have one score, and one decision, as
    `TiedChannels` has it.

    Attributes:
      of: "inputs", "channels" or "heads".
      axes: of the kernel, counted from its end, on which a slice has one place; by
        default those that its layer has for them.
      coupled: whether channels that are tied are one unit. By default they are, where
        the technique knows of it and the layers of the model can be followed.
    """

    of: str
    axes: tuple[int, ...] = ()
    coupled: bool | None = None

    def __post_init__(self):
        check_choice("of", self.of, NAMES[1:])
        if self.coupled and self.of != "channels":
            raise ValueError(
                f"Only channels can be coupled. Received: of={self.of!r}, coupled=True"
            )

    def for_site(self, site):
        if self.axes:
            return self
        return dataclasses.replace(self, axes=site.unit_axes.get(self.of, ()))

    def refusal(self, shape):
        if not self.axes:
            return f"its layer has no {self.of} that are known"
        if -min(self.axes) > len(shape):
            return f"{self.of} on axes {self.axes} need a kernel of higher rank"
        return None

    def units(self, shape):
        return math.prod(self.unit_shape(shape))

    def price(self, shape):
        return math.prod(shape) // self.units(shape)

    def unit_shape(self, shape):
        if not self.axes:
            raise ValueError(
                f"A layer says which axes of a kernel are its {self.of}: give the "
                f"technique to sos.sparsify or sos.one_shot. Received: {self}"
            )
        places = enumerate(shape, start=-len(shape))
        return tuple(n if axis in self.axes else 1 for axis, n in places)

    def unit_scores(self, scores):
        scores = ops.cast(scores, "float32")
        axes = range(-len(scores.shape), 0)
        summed = [axis for axis in axes if axis not in self.axes]
        return ops.mean(scores, axis=summed, keepdims=True) if summed else scores

    def mask(self, scores, zeros):
        kept = super().mask(self.unit_scores(scores), zeros)
        return ops.broadcast_to(kept, tuple(scores.shape))


@dataclasses.dataclass(frozen=True)
class TiedChannels(SingleWeights):
    """Channels of weights of several layers, some of which are one unit.

    A unit is worth the mean of the scores of all its weights, so that channels that a
    model ties together are masked together: the groups of Fang et al. 2023 (arXiv
    2301.12900), scored as Li et al. 2017 (arXiv 1608.08710) score one filter. Units of
    the same layers are a pool, of which so large a share goes, and one stays.

    Attributes:
      companions: the layers.
      axes: of each weight, in the order of the model; see `structures.Slices`.
      numbers: of each weight, of which unit each channel is: ranges, first and end.
    """

    # Without the default of others.
    companions: Companions = dataclasses.field()
    axes: tuple[tuple[int, ...], ...]
    numbers: tuple[tuple[tuple[int, int], ...], ...]

    def __post_init__(self):
        if isinstance(self.companions, dict):
            object.__setattr__(self, "companions", Companions(**self.companions))

    @classmethod
    def of(cls, companions: Companions, axes, numbers: list[np.ndarray]):
        """That of the numbers of units, for the channels of each weight in order."""
        runs = [np.split(x, np.flatnonzero(np.diff(x) != 1) + 1) for x in numbers]
        ranges = [[(int(x[0]), int(x[-1]) + 1) for x in each] for each in runs]
        return cls(companions, tuple(axes), _tuples(ranges))

    def pools(self, shapes, uses):
        sizes = self._sizes(shapes)
        prices = [size * number for size, number in zip(sizes, uses, strict=True)]
        return [(len(x), sum(prices[w] for w in of)) for of, x in self._pools.items()]

    def scores_of_pools(self, scores):
        sizes = self._sizes([tuple(tensor.shape) for tensor in scores])
        of_channels = [
            ops.reshape(each.unit_scores(tensor), (-1,)) * size
            for each, tensor, size in zip(self._slices, scores, sizes, strict=True)
        ]
        sums = ops.concatenate(of_channels)
        return [
            ops.sum(ops.take(sums, places), axis=1) / sum(sizes[w] for w in weights)
            for weights, places in self._pools.items()
        ]

    def masks(self, scores, zeros):
        pairs = zip(self.scores_of_pools(scores), zeros, strict=True)
        kept = ops.concatenate([self.mask(*pair) for pair in pairs])
        found, end = [], 0
        for each, tensor in zip(self._slices, scores, strict=True):
            shape = each.unit_shape(tuple(tensor.shape))
            begin, end = end, end + math.prod(shape)
            part = ops.reshape(ops.take(kept, self._owners[begin:end]), shape)
            found.append(ops.broadcast_to(part, tuple(tensor.shape)))
        return found

    @property
    def _slices(self):
        return [Slices("channels", axes) for axes in self.axes]

    def _sizes(self, shapes):
        pairs = zip(self._slices, shapes, strict=True)
        return [each.price(shape) for each, shape in pairs]

    @functools.cached_property
    def _pools(self):
        """By the weights of its units, once for each channel, where the channels are.

        They are counted through all weights, and a row is a unit.
        """
        found, number = collections.defaultdict(list), itertools.count()
        for weight, ranges in enumerate(self.numbers):
            for unit in itertools.chain.from_iterable(itertools.starmap(range, ranges)):
                found[unit].append((weight, next(number)))
        pools = collections.defaultdict(list)
        for channels in found.values():
            weights, places = zip(*channels, strict=True)
            pools[weights].append(places)
        return {weights: np.array(rows) for weights, rows in pools.items()}

    @functools.cached_property
    def _owners(self):
        """Of each channel the place of its unit, counted through all pools."""
        owners, first = np.zeros(sum(x.size for x in self._pools.values()), int), 0
        for places in self._pools.values():
            owners[places] = first + np.arange(len(places))[:, None]
            first += len(places)
        return owners


@dataclasses.dataclass(frozen=True)
class ZerosOfN(SingleWeights):
    """`m` zeros in every `n` consecutive weights along an axis that is summed over.

    That is the input channels of Dense and of convolutions, as in TF-MOT, and what
    EinsumDense contracts, as in attention. n has to divide it. The sparsity is that of
    the pattern.

    Attributes:
      m: zeros in a group.
      n: size of a group.
      axis: of the kernel, counted from its end; by default that which the layer sums
        over.
    """

    m: int
    n: int
    axis: int | None = None

    def for_site(self, site):
        if self.axis is not None or site.summed_axis == self._axis:
            return self
        return dataclasses.replace(self, axis=site.summed_axis)

    @property
    def _axis(self):
        return -2 if self.axis is None else self.axis

    def refusal(self, shape):
        if len(shape) < -self._axis:
            return f"{self.m} zeros of {self.n} need a kernel of a linear map"
        if shape[self._axis] % self.n:
            return (
                f"{self.n} does not divide axis {len(shape) + self._axis}, its "
                f"{shape[self._axis]} input channels"
            )
        return None

    def masked_share(self, sparsities, shape):
        del shape
        return np.full(len(sparsities), self.m / self.n)

    def mask(self, scores, zeros):
        del zeros
        scores, axis = ops.cast(scores, "float32"), len(scores.shape) + self._axis
        before, after = scores.shape[:axis], scores.shape[axis + 1 :]
        grouped = ops.reshape(scores, (*before, -1, self.n, *after))
        # Place by place, of which compilers make one loop.
        columns = ops.unstack(grouped, axis=axis + 1)
        # A weight stays if fewer than n - m of its group are ahead of it.
        kept = [ahead < self.n - self.m for ahead in self._ahead(columns)]
        return ops.reshape(ops.stack(kept, axis + 1), scores.shape)

    def _ahead(self, columns):
        """How many of its group are ahead of each weight; the first of equals is."""
        ahead = [0] * self.n
        for first, second in itertools.combinations(range(self.n), 2):
            is_ahead = ops.cast(columns[first] >= columns[second], "int32")
            ahead[second] = ahead[second] + is_ahead
            ahead[first] = ahead[first] + (1 - is_ahead)
        return ahead


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
