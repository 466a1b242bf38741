"""Weights of another technique, or of none, are refused where a sparse layer gets them.

HDF5 files and `set_weights` go by the number and the shapes of weights, which the
techniques have in common. So a number among the weights says which technique it is.
"""

import zlib

from state_of_sparsity.engines.tf_keras.backend import AsksForWeights, raw_variable
from state_of_sparsity.engines.tf_keras.weights import plain_layer_of
from state_of_sparsity.techniques.base import CLASSES, Technique

_SEEDS = 2**32
_PRUNED = "a pruned layer"
_ANOTHER = "another technique"
# Of the layers in TF-MOT's wrapper, whose masks all mean the same.
NO_MARK = 0


def technique_mark(technique: type[Technique] | Technique) -> int:
    """What the seed of a layer is counted from, by the technique that it has."""
    return zlib.crc32(technique.technique_name().encode()) % 2**31 * _SEEDS


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

    @property
    def mark(self) -> int:
        """What that variable is counted from in a layer of this technique."""
        return technique_mark(self.technique)

    def finalize_state(self):
        """Raises if the weights that were loaded are of another technique."""
        super().finalize_state()
        self.check_mark()

    def check_mark(self):
        """Raises if the weights that the layer has are of another technique."""
        if not self.built:
            return
        number = int(raw_variable(self.marked_variable()))
        # The step of a layer that was not trained yet is -1.
        mark = max(number, 0) // _SEEDS * _SEEDS
        if mark != self.mark:
            names = {technique_mark(t): t.technique_name() for t in CLASSES.values()}
            raise refusal(self, {**names, NO_MARK: _PRUNED}.get(mark, _ANOTHER))

    def lacks_weight(self, name):
        """Raises if a checkpoint has a weight that a layer of the technique has not."""
        if name == "pruning_step":
            raise refusal(self, _PRUNED)
        # Of a layer without a bias, there is an attribute.
        if self.built and not hasattr(self, name):
            raise refusal(self, _ANOTHER)
