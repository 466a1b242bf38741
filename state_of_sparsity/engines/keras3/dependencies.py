"""Which channels of a model depend on each other, and which can go."""

import collections
import dataclasses

import keras
import numpy as np

from state_of_sparsity.engines.keras3 import private

_TIED = "a sum, a product or a padded convolution ties them to some that stay"


@dataclasses.dataclass
class Axis:
    """An axis of a variable whose entries belong to channels.

    Attributes:
      variable: a kernel, a bias, a statistic.
      number: which axis of it.
      layer: path of the layer.
      ids: of the channels.
      constants: where a product sums along the axis, the value that each channel of its
        input has everywhere and always, or NaN. None elsewhere.
    """

    variable: keras.Variable
    number: int
    layer: str
    ids: np.ndarray
    constants: np.ndarray | None


class Dependencies:
    """The channels of all tensors of a model, by number.

    A channel can go if each product that takes it has nothing but zeros for it, or is
    given a constant `c`. Of the constants of a product that are not 0, one stays, `r`,
    and takes over: its row of the kernel gets `c_j / c_r` times the row of each `j`
    that goes. At padded borders that is exact as well, where a bias would not do.
    """

    def __init__(self):
        self._axes: dict[tuple[int, int], Axis] = {}
        # Of each channel one that goes with it; of the first of them, itself.
        self._same = np.zeros(0, int)
        self._pinned: dict[int, str] = {}
        self._masked: dict[int, tuple[str, np.ndarray]] = {}
        self._values: dict[int, np.ndarray] = {}

    def new(self, number: int) -> np.ndarray:
        """As many channels that no other one is tied to."""
        ids = len(self._same) + np.arange(number)
        self._same = np.concatenate([self._same, ids])
        return ids

    def along(self, layer, variable, number, ids=None, constants=None) -> np.ndarray:
        """Has entries along an axis belong to channels: those given, or else new ones.

        The channels of further calls are tied to those of the first, which it returns.
        """
        number %= len(variable.shape)
        key = id(variable), number
        if key not in self._axes:
            ids = self.new(variable.shape[number]) if ids is None else ids
            path = layer.path or layer.name
            self._axes[key] = Axis(variable, number, path, ids, constants)
            return ids
        found = self._axes[key]
        if ids is not None:
            self.tie(found.ids, ids)
        if constants is not None:
            same = found.constants == constants
            found.constants = np.where(same, constants, np.nan)
        return found.ids

    def tie(self, some: np.ndarray, others: np.ndarray) -> None:
        """Has channels stay or go together, one by one."""
        for pair in zip(some, others, strict=True):
            first, second = sorted(int(self._first(x)) for x in pair)
            self._same[second] = first

    def pin(self, ids: np.ndarray, reason: str) -> None:
        """Has channels stay."""
        self._pinned |= dict.fromkeys(ids.tolist(), reason)

    def note_masked(self, layer, variable, ids: np.ndarray) -> None:
        """Notes for which channels a variable has nothing but zeros."""
        self._masked[id(variable)] = layer.path or layer.name, ids

    def holds(self, variable) -> bool:
        """Whether anything was said of a variable."""
        return any(i == id(variable) for i, _ in self._axes)

    def channels(self, variable, number) -> np.ndarray | None:
        """The channels along an axis, those that are tied by one number.

        None if nothing is known of them, or some are to stay.
        """
        axis = self._axes.get((id(variable), number % len(variable.shape)))
        numbers = self._first([] if axis is None else axis.ids)
        stay = np.isin(numbers, self._first(np.array(list(self._pinned), int)))
        return None if axis is None or stay.any() else numbers

    def shrunk(self) -> tuple[dict[int, np.ndarray], dict[str, list[str]]]:
        """The values of the variables without the channels that can go.

        Returns:
          Those of the variables that change, by their `id`; and, by the reason why,
          the layers of which masked channels stay.

        Raises:
          ValueError: if nothing would be left of a layer.
        """
        gone = self._removable()
        empty = {
            axis.layer: None
            for axis in self._axes.values()
            if axis.constants is None and self._goes(axis, gone).all()
        }
        if empty:
            raise ValueError(
                "All channels of these layers are masked, or nothing that stays takes "
                f"them: {', '.join(empty)}. Keep a channel of each, or build the model "
                "without them."
            )
        left = self._left(gone)
        # One that stays after all makes no more rows count of the kernel that gives it:
        # its column has nothing but zeros for them, or a scale of 0 comes behind it.
        for axis in self._sums():
            lost, keeper = self._taken_over(axis, gone)
            if lost.any():
                gone[self._first(axis.ids[keeper])] = False
        values = {}
        for variable in {
            id(a.variable): a.variable for a in self._axes.values()
        }.values():
            value = self._cut(self._of(variable), gone)
            if value.shape != tuple(variable.shape):
                values[id(variable)] = value
        return values, left

    def _first(self, ids):
        while np.any((same := self._same[ids]) != ids):
            ids = same
        return ids

    def _value(self, variable):
        if id(variable) not in self._values:
            self._values[id(variable)] = private.to_numpy(variable)
        return self._values[id(variable)]

    def _sums(self):
        return [axis for axis in self._axes.values() if axis.constants is not None]

    def _of(self, variable):
        return [axis for axis in self._axes.values() if axis.variable is variable]

    def _goes(self, axis, gone):
        return gone[self._first(axis.ids)]

    def _removable(self):
        """Whether a channel can go, for the first ones of those that are tied."""
        pinned = self._first(np.array(list(self._pinned), int))
        gone = np.zeros(len(self._same), bool)
        while True:
            # With outputs that go, more inputs have nothing but zeros.
            before, gone = gone, np.ones(len(self._same), bool)
            gone[pinned] = False
            for axis in self._sums():
                stays = np.isnan(axis.constants) & self._used(axis, before)
                gone[self._first(axis.ids[stays])] = False
            if np.array_equal(gone, before):
                return gone

    def _used(self, axis, gone):
        """For which inputs a product has more than zeros."""
        value = self._value(axis.variable)
        for other in self._of(axis.variable):
            if other is not axis:
                value = np.compress(~self._goes(other, gone), value, other.number)
        return value.any(axis=tuple(i for i in range(value.ndim) if i != axis.number))

    def _taken_over(self, axis, gone):
        """Inputs that go and are a constant but 0, and the place of the largest one."""
        sizes = np.nan_to_num(np.abs(axis.constants))
        lost = self._goes(axis, gone) & (sizes > 0) & self._used(axis, gone)
        return lost, sizes.argmax()

    def _cut(self, axes, gone):
        value = self._value(axes[0].variable).copy()
        for axis in axes:
            if axis.constants is not None:
                lost, keeper = self._taken_over(axis, gone)
                rows = np.moveaxis(value, axis.number, 0)
                shares = axis.constants[lost] / axis.constants[keeper]
                rows[keeper] += np.tensordot(shares, rows[lost], 1).astype(value.dtype)
        for axis in axes:
            value = np.compress(~self._goes(axis, gone), value, axis.number)
        return value

    def _left(self, gone):
        pinned = self._first(np.array(list(self._pinned), int)).tolist()
        reasons = dict(zip(pinned, self._pinned.values(), strict=True))
        left = collections.defaultdict(list)
        for layer, ids in self._masked.values():
            firsts = np.unique(self._first(ids))
            stay = firsts[~gone[firsts]].tolist()
            for reason in {reasons.get(first, _TIED) for first in stay}:
                left[reason].append(layer)
        return left
