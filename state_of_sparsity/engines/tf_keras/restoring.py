"""Weights of another technique, or of none, are refused where a sparse layer gets them.

HDF5 files and `set_weights` go by the number and the shapes of weights, which the
techniques have in common. So a number among the weights says which technique it is.
"""

import zlib

from state_of_sparsity.engines.tf_keras.backend import AsksForWeights, raw_variable
from state_of_sparsity.engines.tf_keras.weights import plain_layer_of
from state_of_sparsity.techniques import TECHNIQUES, Technique

_SEEDS = 2**32
_PRUNED = "a pruned layer"


def technique_mark(technique: type[Technique] | Technique) -> int:
    """What the seed of a technique that draws noise is counted from; of others, 0."""
    name = technique.technique_name().encode()
    return zlib.crc32(name) % 2**31 * _SEEDS if technique.draws_noise else 0


def refusal(layer, of: str) -> ValueError:
    """The error for weights that a sparse layer gets and that are of something else."""
    name, technique = plain_layer_of(layer).name, layer.technique.technique_name()
    return ValueError(
        f"Layer {name!r} is one of {technique}, and the weights are those of {of}. "
        "Load them into a model that is made with their technique; or those of a dense "
        "model into the dense one, and then call sos.sparsify."
    )


class ChecksWeights(AsksForWeights):
    """Put before the class of a sparse layer, whose `technique` is an attribute."""

    def marked_variable(self):
        """The variable that says which technique the weights are of."""
        raise NotImplementedError

    def finalize_state(self):
        """Raises if the weights that were loaded are of another technique."""
        super().finalize_state()
        if not self.built:
            return
        number = int(raw_variable(self.marked_variable()))
        # The step of a layer that was not trained yet is -1.
        mark = max(number, 0) // _SEEDS * _SEEDS
        if mark != technique_mark(self.technique):
            names = {technique_mark(t): name for name, t in TECHNIQUES.items()}
            raise refusal(self, {**names, 0: _PRUNED}.get(mark, "another technique"))

    def lacks_weight(self, name):
        """Raises if a checkpoint has a weight that a layer of the technique has not."""
        for technique, cls in TECHNIQUES.items():
            own = cls.extra_name == self.technique.extra_name
            if cls.draws_noise and not own and name.endswith(cls.extra_name):
                raise refusal(self, technique)
        if self.technique.draws_noise and name == "pruning_step":
            raise refusal(self, _PRUNED)
