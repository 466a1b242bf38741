"""Reports of how many zeros the layers of a model give."""

import dataclasses
import functools
import math

import keras
from keras import ops

from state_of_sparsity.batches import batches_of
from state_of_sparsity.engines import engine_of
from state_of_sparsity.engines.recording import is_kind, record
from state_of_sparsity.report import aligned


@dataclasses.dataclass
class LayerActivations:
    """Zeros of what one layer gives.

    Attributes:
      name: its path: the names of the layers around it and its own, joined by slashes.
      shape: of its output for one example, the first one where several differ.
      size: number of elements, over all examples and calls.
      zeros: number of elements that are exactly zero.
    """

    name: str
    shape: tuple[int, ...]
    size: int = 0
    zeros: int = 0

    @property
    def sparsity(self) -> float:
        """Share of the elements that are zero."""
        return self.zeros / self.size if self.size else 0.0


@dataclasses.dataclass(frozen=True)
class ActivationReport:
    """Zeros of the activations of a model. It prints as a table.

    Attributes:
      layers: a `LayerActivations` for each path, in the order of their calls.
    """

    layers: list[LayerActivations]

    def __str__(self) -> str:
        rows = [("name", "shape", "sparsity")]
        for layer in self.layers:
            shape = "x".join(map(str, layer.shape))
            rows.append((layer.name, shape, f"{layer.sparsity:.2%}"))
        return "\n".join(aligned(rows, numbers=(2,)))


def activation_sparsity(model, data, batch_size: int = 32) -> ActivationReport:
    """Counts the zeros of what each layer of a model gives in inference.

    Of each layer at any depth the first output counts, after its activation; all
    elements do, those of padding as well, and over all calls if there are several. What
    a recurrent layer or TimeDistributed calls, in a loop, is not listed by itself.

    Args:
      model: a built model of Keras 3 or `tf_keras`; a sparse one counts as it would be
        deployed now.
      data: arrays in the structure of the model's inputs, or a tuple of them and of
        targets, which do not count; or a dataset or a generator of batches of either.
      batch_size: of arrays.

    Raises:
      TypeError, ValueError: for what is no such model, no data, or data of another
        structure.
    """
    engine = engine_of(model)
    if any(site.is_sparse for site in engine.sites(model)):
        model = engine.strip(model)
    layers = engine.layers(model)
    loops = [layer for layer in layers if is_kind(layer, "RNN", "TimeDistributed")]
    within = {id(x) for loop in loops for x in engine.layers(loop) if x is not loop}
    heard = [layer for layer in layers if id(layer) not in within]
    found: dict[str, LayerActivations] = {}

    def note(path, outputs):
        tensors = (x for x in keras.tree.flatten(outputs) if hasattr(x, "shape"))
        output = next(tensors, None)
        # The model itself gives what its last layers do.
        if not path or output is None:
            return
        layer = found.setdefault(path, LayerActivations(path, tuple(output.shape[1:])))
        layer.size += math.prod(output.shape)
        layer.zeros += int(ops.convert_to_numpy(ops.sum(ops.equal(output, 0))))

    for inputs, _ in batches_of(engine, model, data, batch_size):
        record(heard, functools.partial(engine.outputs, model, inputs), note)
    return ActivationReport(list(found.values()))
