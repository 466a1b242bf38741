"""Patterns in which weights are masked: singly, in slices or blocks, or m of every n.

A structure knows shapes and scores, not what a score means nor when it is asked.
Another pattern is a class that derives from `SingleWeights`.
"""

import dataclasses
import itertools
import math

import numpy as np
from keras import ops

from state_of_sparsity import masks
from state_of_sparsity.checks import check_choice

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
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    return _CLASSES[name](**given)


@dataclasses.dataclass(frozen=True)
class SingleWeights:
    """Every weight is masked by itself."""

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

    Attributes:
      of: "inputs", "channels" or "heads".
      axes: of the kernel, counted from its end, on which a slice has one place; by
        default those that its layer has for them.
    """

    of: str
    axes: tuple[int, ...] = ()

    def __post_init__(self):
        check_choice("of", self.of, NAMES[1:])

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
