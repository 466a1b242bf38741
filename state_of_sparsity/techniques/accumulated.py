"""Base of the criteria that training adds up."""

import abc
import dataclasses
from typing import ClassVar

from keras import ops

from state_of_sparsity.techniques.pruning import PruningTechnique
from state_of_sparsity.techniques.state import BACKWARD, State


@dataclasses.dataclass(frozen=True)
class AccumulatingPruning(PruningTechnique):
    """Base of the criteria that need gradients: a statistic that the steps add to.

    `statistic <- added(statistic, theta, weight, gradient)` in every backward pass. A
    renewal takes it for the scores, and after that it begins anew. As all weights are
    summed over the same steps, a sum orders them as the mean does; of a loss that is
    scaled, it weighs the steps by the scale.

    Attributes:
      begins_anew: whether it does.

    Raises:
      TypeError, ValueError: for a bad value, and for a renewal before the second step,
        which would know of no gradient.
    """

    begins_anew: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        first = self.schedule().renewals()[0]
        if first < 2:
            raise ValueError(
                f"{type(self).__name__} needs the gradients of a step before it masks: "
                "let begin_step be at least 2, or 0 with a frequency of at least 2. "
                f"Received: begin_step={self.begin_step}, end_step={self.end_step}, "
                f"frequency={self.frequency}"
            )

    @abc.abstractmethod
    def added(self, statistic, theta, weight, gradient):
        """The statistic after a step.

        Args:
          statistic: before it.
          theta: the trainable weight.
          weight: as it was used, zero where it is masked.
          gradient: of the loss with respect to the latter; zero where it stays masked.
        """

    def first_statistic(self, statistic, gradient):
        """With what the statistic, which is given, begins anew."""
        del gradient
        return ops.zeros_like(statistic)

    def state(self, place):
        return super().state(place) | {"statistic": State(changed_by=BACKWARD)}

    def backward(self, theta, state, gradient, step):
        weight = self.training_weight(theta, state, step, None)
        slope = gradient * ops.cast(state["mask"], gradient.dtype)
        seen = slope if self.masked_weights == "stay" else gradient
        statistic = state["statistic"]
        if self.begins_anew:
            renewed, _ = self.schedule().find(step)
            first = self.first_statistic(statistic, seen)
            statistic = ops.where(ops.logical_or(renewed, step == 1), first, statistic)
        return slope, {"statistic": self.added(statistic, theta, weight, seen)}
