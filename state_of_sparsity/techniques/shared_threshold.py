"""One threshold for the scores of several layers."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class SharedThreshold:
    """Layers whose scores are compared with each other, since one threshold is theirs.

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
                "threshold, as sos.Global has it. So that model is trained as a whole, "
                "by itself or once within another one; to train parts of it, call "
                f"sos.sparsify for each. Received: {len(indices)} of these layers: "
                f"{sorted(names)}"
            )
