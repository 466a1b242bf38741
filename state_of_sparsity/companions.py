"""Layers whose masks are renewed together."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Companions:
    """Layers that are renewed together: they share a threshold, or have tied channels.

    Attributes:
      model: name of the model that was made sparse.
      layers: how many of its layers they are.
    """

    model: str
    layers: int

    def check(self, names: Sequence[str], indices: Sequence[int]) -> None:
        """Raises unless what is trained together are these layers, each of them once.

        Args:
          names: of the layers that are.
          indices: of the layers, which differ in the model that was made sparse.

        Raises:
          ValueError: if there are more or fewer.
        """
        if not len(indices) == len(set(indices)) == self.layers:
            raise ValueError(
                f"The {self.layers} pruned layers of model {self.model!r} have one "
                "threshold, as sos.Global has it, or tied channels. So that model is "
                "trained as a whole, by itself or once within another one; to train "
                f"parts of it, call sos.sparsify for each. Received: {len(indices)} of "
                f"these layers: {sorted(names)}"
            )


@dataclasses.dataclass(frozen=True)
class SharedThreshold(Companions):
    """Layers whose scores are compared with each other, since one threshold is theirs.

    Attributes:
      uses: of each weight, in the order of the model, how many multiply-adds it takes
        part in, if units count by these.
    """

    uses: tuple[int, ...] = ()

    def __post_init__(self):
        # JSON has no tuples.
        object.__setattr__(self, "uses", tuple(self.uses))
