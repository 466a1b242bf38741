"""Training steps that take a batch in parts, one after the other in a loop."""

import contextlib
import threading
from collections.abc import Iterator
from typing import NamedTuple

from state_of_sparsity.engines.tf_keras.backend import all_layers, keras, tf
from state_of_sparsity.engines.tf_keras.families import is_sparse


class Part(NamedTuple):
    """A part of a batch.

    Attributes:
      number: int32 scalar, from 0.
      count: how many parts there are.
    """

    number: tf.Tensor
    count: int


def part_of_batch() -> Part | None:
    """The part that is being computed in this thread; None for a whole batch."""
    return getattr(_computed, "part", None)


# Each replica is traced in a thread of its own.
_computed = threading.local()


class StepInParts:
    """A training step of a sparse model that calls it on each part of a batch.

    Making it begins the step: the layers count it, and renew what is due. Within
    `part`, calls of the model are further uses of the layers in this step.

    Args:
      model: whose layers all take part in each step.

    Attributes:
      weights: those that all parts have in common, as their techniques have a backward
        pass, which takes the sum of what the parts send back: tensors.
    """

    def __init__(self, model: keras.Model):
        layers = [layer for layer in all_layers(model) if is_sparse(layer)]
        for layer in layers:
            layer.begin_step(training=True)
        self._places = [
            (layer, name)
            for layer in layers
            if layer.technique.has_own("backward")
            for name in layer.held
        ]
        self.weights = [layer.training_weight(name, 0) for layer, name in self._places]

    @contextlib.contextmanager
    def part(self, part: Part, weights: list[tf.Tensor]) -> Iterator[None]:
        """While a part is computed.

        Args:
          part: of the batch.
          weights: the values of the attribute, in the graph of the loop.
        """
        for (layer, name), weight in zip(self._places, weights, strict=True):
            layer.use_weights({name: weight})
        _computed.part = part
        try:
            yield
        finally:
            _computed.part = None
