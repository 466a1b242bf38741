"""Base of the techniques that mask weights in a pattern."""

import dataclasses
from typing import ClassVar

from state_of_sparsity import structures
from state_of_sparsity.checks import check_choice, check_pair
from state_of_sparsity.techniques.structured import StructuredTechnique


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatternedTechnique(StructuredTechnique):
    """Base of the techniques that mask single weights, blocks, or m of each n.

    The options from `block_size` to `sparsity_m_by_n` are those of TF-MOT's
    `prune_low_magnitude`, with its names and meaning.

    Attributes:
      block_size: height and width of the blocks of a matrix that go as a whole.
      block_pooling_type: what a block counts: AVG or MAX of its scores.
      sparsity_m_by_n: m zeros among each n consecutive weights, such as 2,4.

    Raises:
      TypeError, ValueError: for a bad value, naming it.
    """

    couples = True
    # Its options that are pairs of integers.
    pairs: ClassVar[tuple[str, ...]] = ("block_size", "sparsity_m_by_n")
    patterns = structures.SingleWeights

    block_size: tuple[int, int] = (1, 1)
    block_pooling_type: str = "AVG"
    sparsity_m_by_n: tuple[int, int] | None = None

    def __post_init__(self):
        super().__post_init__()
        check_choice("block_pooling_type", self.block_pooling_type, ("AVG", "MAX"))
        for name in self.pairs:
            if getattr(self, name) is not None:
                pair = check_pair(name, getattr(self, name))
                object.__setattr__(self, name, pair)
        if self.sparsity_m_by_n is not None:
            self._check_m_by_n()
        self.check_structure()
        is_named = isinstance(self.structure, str)
        if is_named and (self._has_blocks or self.sparsity_m_by_n):
            raise ValueError(
                "structure excludes block_size and sparsity_m_by_n. Received: "
                f"structure={self.structure!r}"
            )

    def _check_m_by_n(self):
        m, n = self.sparsity_m_by_n
        if self._has_blocks:
            raise ValueError(
                "sparsity_m_by_n and block_size exclude each other. Received: "
                f"sparsity_m_by_n={(m, n)}, block_size={self.block_size}"
            )
        if not m < n or abs(self.sparsity - m / n) > 1e-9:
            raise ValueError(
                f"sparsity_m_by_n={(m, n)} makes a sparsity of m/n, below 1; give "
                f"the same as sparsity. Received: sparsity={self.sparsity}"
            )
        if getattr(self, "shared_threshold", None) is not None:
            raise ValueError(
                "sparsity_m_by_n says how many weights go of each few, so that one "
                "threshold for all layers, as of sos.Global, has no choice. Received: "
                f"sparsity_m_by_n={(m, n)}"
            )

    @property
    def pattern(self):
        if self.structure is None and self.sparsity_m_by_n:
            return structures.ZerosOfN(*self.sparsity_m_by_n)
        if self.structure is None and self._has_blocks:
            return structures.Blocks(self.block_size, self.block_pooling_type)
        return super().pattern

    @property
    def _has_blocks(self):
        return "block_size" in self.pairs and self.block_size != (1, 1)
