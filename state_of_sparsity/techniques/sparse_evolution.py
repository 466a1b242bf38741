"""SET: what grows is drawn."""

import dataclasses

import numpy as np

from state_of_sparsity import numerics
from state_of_sparsity.techniques.regrowing import RegrowingTechnique
from state_of_sparsity.techniques.state import NOTHING, State


@dataclasses.dataclass(frozen=True)
class SET(RegrowingTechnique):
    """Weights grow at random places (Mocanu et al. 2018, arXiv 1707.04780).

    They are those of the largest of uniform numbers, which depend on the seed, on the
    weight's place in the model, and on the step.
    """

    def state(self, place):
        key, _ = numerics.keys(self.seed, *place.stream)
        key = State(
            np.asarray(key, "int32"), shape=(), dtype="int32", changed_by=NOTHING
        )
        return super().state(place) | {"key": key}

    def growth(self, gradient, state, step):
        return numerics.random_uniform(tuple(gradient.shape), state["key"], step)
