"""The pruning family: a mask per weight, renewed on a schedule.

A technique of the family is a file with a dataclass that says what a weight is worth,
its score. When masks are renewed (`schedules`), how many weights then go and in which
pattern (`structures`), and what holds the masks (an engine) are parts of their own,
which never know of each other.
"""

import abc
import dataclasses
from typing import Self

import numpy as np

from state_of_sparsity import masks, schedules, structures
from state_of_sparsity.checks import (
    check_choice,
    check_fraction,
    check_integer,
    check_pair,
)
from state_of_sparsity.techniques.masked import MaskingTechnique
from state_of_sparsity.techniques.shared_threshold import SharedThreshold


@dataclasses.dataclass(frozen=True)
class PruningTechnique(MaskingTechnique):
    """Base of the techniques that mask the weights of the lowest scores.

    The options from `block_size` to `sparsity_m_by_n` are those of TF-MOT's
    `prune_low_magnitude`, with its names and meaning.

    Attributes:
      sparsity: share of the weights of each tensor that is zero after the ramp.
      begin_step: training step at which pruning begins.
      end_step: training step at which the final sparsity is reached.
      frequency: training steps from one renewal of the masks to the next.
      initial_sparsity: sparsity at which the ramp begins.
      masked_weights: whether they stay masked, or return (Keras 3 only) once a later
        threshold falls below the value that they had: stay or return.
      block_size: height and width of the blocks of a matrix that go as a whole.
      block_pooling_type: what a block counts: AVG or MAX of its scores.
      sparsity_m_by_n: m zeros among each n consecutive weights, such as 2,4.
      shared_threshold: the layers with which a layer has one threshold, and the
        sparsity is that of all of them; `budgets.Global` sets it.

    Raises:
      TypeError, ValueError: for a bad value, naming it.
    """

    sparsity: float
    begin_step: int
    end_step: int
    frequency: int
    _: dataclasses.KW_ONLY
    initial_sparsity: float = 0.0
    masked_weights: str = "stay"
    block_size: tuple[int, int] = (1, 1)
    block_pooling_type: str = "AVG"
    sparsity_m_by_n: tuple[int, int] | None = None
    shared_threshold: SharedThreshold | None = None

    def __post_init__(self):
        check_fraction("sparsity", self.sparsity)
        check_integer("begin_step", self.begin_step, minimum=0)
        check_integer("end_step", self.end_step, minimum=0)
        check_integer("frequency", self.frequency, minimum=1)
        if self.end_step < self.begin_step:
            raise ValueError(
                "end_step must not be before begin_step. Received: "
                f"begin_step={self.begin_step}, end_step={self.end_step}"
            )
        check_fraction("initial_sparsity", self.initial_sparsity)
        check_choice("masked_weights", self.masked_weights, ("stay", "return"))
        check_choice("block_pooling_type", self.block_pooling_type, ("AVG", "MAX"))
        for name in ("block_size", "sparsity_m_by_n"):
            if getattr(self, name) is not None:
                pair = check_pair(name, getattr(self, name))
                object.__setattr__(self, name, pair)
        if self.sparsity_m_by_n is not None:
            self._check_m_by_n()
        if isinstance(self.shared_threshold, dict):
            shared = SharedThreshold(**self.shared_threshold)
            object.__setattr__(self, "shared_threshold", shared)

    def _check_m_by_n(self):
        m, n = self.sparsity_m_by_n
        if self.block_size != (1, 1):
            raise ValueError(
                "sparsity_m_by_n and block_size exclude each other. Received: "
                f"sparsity_m_by_n={(m, n)}, block_size={self.block_size}"
            )
        if not m < n or abs(self.sparsity - m / n) > 1e-9:
            raise ValueError(
                f"sparsity_m_by_n={(m, n)} makes a sparsity of m/n, below 1; give "
                f"the same as sparsity. Received: sparsity={self.sparsity}"
            )
        if self.shared_threshold is not None:
            raise ValueError(
                "sparsity_m_by_n says how many weights go of each few, so that one "
                "threshold for all layers, as of sos.Global, has no choice. Received: "
                f"sparsity_m_by_n={(m, n)}"
            )

    @abc.abstractmethod
    def score(self, weight, stream: tuple[int, int]):
        """What each weight is worth; those with the lowest scores are masked.

        Args:
          weight: the weight tensor. Of what is masked already, and stays so, it is 0.
          stream: two numbers that differ from tensor to tensor of a model, for
            random scores: the index of the layer, and of the weight within it.

        Returns:
          A float tensor of the same shape.
        """

    @property
    def settled_step(self):
        return self.end_step

    def schedule(self):
        """When the masks are renewed, and how sparse they are then."""
        return schedules.CubicSchedule(
            self.sparsity,
            self.begin_step,
            self.end_step,
            self.frequency,
            self.initial_sparsity,
        )

    def structure(self) -> structures.SingleWeights:
        """In which pattern weights are masked."""
        if self.sparsity_m_by_n:
            return structures.ZerosOfN(*self.sparsity_m_by_n)
        if self.block_size != (1, 1):
            return structures.Blocks(self.block_size, self.block_pooling_type)
        return structures.SingleWeights()

    def units(self, shapes) -> list[tuple[int, int]]:
        """Of how many units, and weights, a sparsity says how many go.

        Args:
          shapes: of the weights whose masks are renewed together.

        Returns:
          A pair for each weight, or one for all of them if they share a threshold.
        """
        units = [self.structure().units(tuple(shape)) for shape in shapes]
        if self.shared_threshold is not None:
            return [(sum(units), len(units))]
        return [(number, 1) for number in units]

    def renewed_masks(self, weights, zeros, lowest=masks.lowest) -> list:
        """The masks of weights after a renewal: true where a weight stays.

        Args:
          weights: of each the tensor `theta`, with the values that masked weights had,
            its boolean mask from before, and its `stream` as of `score`.
          zeros: integer scalars, how many go of each of `units`.
          lowest: as of `structures.SingleWeights.mask`.
        """
        # What stays masked scores as zero does, or else momentum alone would, between
        # renewals, lift it over the threshold.
        scores = [
            self.score(self.regularized_weight(theta, mask), stream)
            for theta, mask, stream in weights
        ]
        structure = self.structure()
        if self.shared_threshold is not None:
            units = [structure.unit_scores(tensor) for tensor in scores]
            counts = masks.lowest_by_tensor(units, zeros[0])
            zeros = [counts[place] for place in range(len(scores))]
        return [
            structure.mask(tensor, count, lowest)
            for tensor, count in zip(scores, zeros, strict=True)
        ]

    def applies_to(self, *, depthwise):
        # As in TF-MOT: a depthwise kernel has few weights, and each of them counts.
        return not depthwise

    def kept_weights(self, mask, steps):
        lengths, sparsities = schedules.sparsities(self.schedule(), steps)
        if self.shared_threshold is None:
            shares = self.structure().masked_share(sparsities, mask.shape)
        else:
            # Nothing has noted how many went when: as if a weight had always had the
            # same share of all zeros. Summed over the layers, that is exact.
            last = sparsities[-1] if sparsities.any() else 1.0
            shares = sparsities / last * (1.0 - mask.mean())
        # Exact, but for blocks that an edge cuts.
        return mask.size * steps - round(float(np.dot(lengths, shares * mask.size)))

    def refusal(self, shape):
        return self.structure().refusal(shape)

    def with_sparsity(self, sparsity: float) -> Self:
        return dataclasses.replace(self, sparsity=sparsity)

    def get_config(self):
        config = super().get_config()
        if self.shared_threshold is not None:
            config["shared_threshold"] = dataclasses.asdict(self.shared_threshold)
        return config
