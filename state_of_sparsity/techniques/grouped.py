"""Base of the techniques that learn which weights go, or which groups of them."""

import dataclasses

from keras import ops

from state_of_sparsity.techniques.reparameterization import ReparameterizationTechnique
from state_of_sparsity.techniques.state import OPTIMIZER
from state_of_sparsity.techniques.structured import StructuredTechnique


@dataclasses.dataclass(frozen=True)
class GroupedTechnique(StructuredTechnique, ReparameterizationTechnique):
    """Base of those that can have one parameter for all weights of a group.

    The groups are those of the structure. The parameter is of a shape that broadcasts
    to the weight's, such as (inputs, 1), and counts in the penalty for each weight.
    """

    def __post_init__(self):
        super().__post_init__()
        self.check_structure()

    @property
    def is_grouped(self) -> bool:
        """Whether several weights have one parameter."""
        return self.structure not in (None, "weights")

    def applies_to(self, *, depthwise):
        # As of pruning, where what goes is to be taken out.
        return not (depthwise and self.is_grouped)

    def state(self, place):
        states = super().state(place)
        for name, state in states.items():
            if self.is_grouped and state.changed_by == OPTIMIZER:
                shape = self.pattern.unit_shape(place.shape)
                states[name] = dataclasses.replace(state, shape=shape)
        return states

    def of_weights(self, kept, theta):
        """Which weights are kept, given which groups are."""
        return ops.broadcast_to(kept, ops.shape(theta)) if self.is_grouped else kept
