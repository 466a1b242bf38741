"""AC/DC: phases of training compressed and dense, by turns."""

import dataclasses
import itertools
from typing import ClassVar

from keras import ops

from state_of_sparsity import schedules
from state_of_sparsity.checks import check_integer
from state_of_sparsity.techniques.pruning import ScoringTechnique
from state_of_sparsity.techniques.state import BACKWARD, State


@dataclasses.dataclass(frozen=True)
class Phases(schedules.Schedule):
    """Compressed from the first of some steps on, dense from the second, and so on.

    Attributes:
      compressed_sparsity: of the compressed phases.
      steps: in ascending order.
    """

    compressed_sparsity: float
    steps: tuple[int, ...]

    def renewals(self):
        return list(self.steps)

    def sparsity(self, step):
        begun = sum(first <= step for first in self.steps)
        return self.compressed_sparsity if begun % 2 else 0.0


@dataclasses.dataclass(frozen=True)
class ACDC(ScoringTechnique):
    """Prunes to the final sparsity, frees all weights again, and so on.

    A compressed phase begins with masks of the largest weights of the whole model, and
    keeps the others at zero, from where they start in the dense phase that follows
    (Peste et al. 2021, arXiv 2106.12379). Published in epochs, of 100: dense_steps 10,
    phases 15, 20, 25 and so on to 75, then 85.

    Attributes:
      dense_steps: training steps before the first compressed phase.
      phases: training steps at which, by turns, a dense phase begins and a compressed
        one, which is the last.

    Raises:
      TypeError, ValueError: for a bad value, naming it.
    """

    is_global: ClassVar[bool] = True

    dense_steps: int
    phases: tuple[int, ...] = ()

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "phases", tuple(self.phases))
        check_integer("dense_steps", self.dense_steps, minimum=0)
        for step in self.phases:
            check_integer("phases", step, minimum=1)
        steps = self._steps
        if len(self.phases) % 2 or any(a >= b for a, b in itertools.pairwise(steps)):
            raise ValueError(
                "phases must be pairs of steps after dense_steps, each after the one "
                "before it: where a dense phase begins, and the compressed one after "
                f"it. Received: dense_steps={self.dense_steps}, phases={self.phases}"
            )

    @property
    def _steps(self):
        return max(self.dense_steps, 1), *self.phases

    @property
    def settled_step(self):
        return self._steps[-1]

    def schedule(self):
        return Phases(self.sparsity, self._steps)

    def state(self, place):
        # The mask as the optimizer sees it, so that it can hold weights at zero.
        held_mask = State(1.0, changed_by=BACKWARD)
        return super().state(place) | {"held_mask": held_mask}

    def score(self, weight, state, stream):
        del state, stream
        return ops.abs(weight)

    def backward(self, theta, state, gradient, step):
        del theta, step
        mask = ops.cast(state["mask"], gradient.dtype)
        return gradient * mask, {"held_mask": mask}

    def projected(self, theta, state):
        # Also of what gradients were added to.
        held = ops.cast(state["held_mask"], "bool")
        return theta * ops.cast(held, theta.dtype)
