"""Layers that compute with a weight of another layer, past the `call` of that one.

A sparse layer computes with its weight as it is deployed. Who reads the variable sees
the value before: a decoder tied to `embedding.embeddings`, spectral normalization.
"""

import contextlib
import functools

import keras

from state_of_sparsity.engines.keras3 import private
from state_of_sparsity.engines.recording import replaced_attributes


def readers(model: keras.Model, owners: dict, signature) -> dict[str, str]:
    """The readers of weights of other layers in one training step of a model.

    Args:
      model: a plain model.
      owners: by the `id` of a weight, the weight and the layer that it is of.
      signature: what the model is called on.

    Returns:
      By the path of a weight, the name of a layer that reads it.
    """
    inputs = keras.tree.map_structure(
        lambda spec: keras.KerasTensor(spec.shape, spec.dtype), signature
    )
    found: dict[str, str] = {}
    # The layers whose calls are under way, the innermost last.
    around: list = []

    def note(variable):
        _, owner = owners[id(variable)]
        if around and all(layer is not owner for layer in around):
            found.setdefault(variable.path, around[-1].name)

    def noted(layer):
        @functools.wraps(layer.call)
        def call(*args, **kwargs):
            around.append(layer)
            try:
                return plain_call(*args, **kwargs)
            finally:
                around.pop()

        plain_call = layer.call
        return call

    with contextlib.ExitStack() as stack:
        for layer in private.all_layers(model):
            stack.enter_context(replaced_attributes(layer, {"call": noted(layer)}))
        for variable, _ in owners.values():
            stack.enter_context(private.noticing_reads(variable, note))
        # Some models compute with data only. `sos.strip` compares outputs as well.
        with contextlib.suppress(Exception), private.entry_call(model, training=True):
            private.compute_output_spec(model, inputs)
    return found
