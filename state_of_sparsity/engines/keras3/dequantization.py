"""Keras 3 models that are quantized, as they are written for floating-point inputs."""

import contextlib
import functools
from collections.abc import Iterator

import keras
import numpy as np

from state_of_sparsity.engines.keras3 import maps, private
from state_of_sparsity.engines.keras3.inspection import is_quantized, quantized_steps
from state_of_sparsity.engines.keras3.kinds import located_weights
from state_of_sparsity.engines.recording import replaced_attributes
from state_of_sparsity.runtime.scaled_weights import ScaledWeight


@contextlib.contextmanager
def dequantized(model: keras.Model) -> Iterator[list[ScaledWeight]]:
    """Has a model compute with the values of its quantized weights, for a while.

    Activations are not quantized, which int8 of Keras does: each row of the inputs `x`
    of a layer to multiples of `max |x| / 127`, so that an output of it is off by
    `max |x| / 254 * sum |w|` at most.

    Returns:
      These weights.
    """
    found = []
    with contextlib.ExitStack() as stack:
        for layer in private.all_layers(model):
            dtype = layer.compute_dtype
            values = {("_dtype_policy",): keras.DTypePolicy(dtype)}
            weights = list(filter(is_quantized, located_weights(layer)))
            for located in weights:
                label = located.label
                steps = quantized_steps(layer, located)
                found.append(_scaled(layer, label, steps))
                value = found[-1].value().reshape(steps.shape)
                # Where a layer that is not quantized holds it.
                name = label if label == "reverse_embeddings" else f"_{label}"
                values[(name,)] = keras.ops.convert_to_tensor(value, dtype)
            if weights:
                # Of the class: Keras's GPTQ leaves layers a `call` of their own.
                call = functools.partial(type(layer).call, maps.view_of(layer, values))
                given = {"quantized_call": call}
                stack.enter_context(replaced_attributes(layer, given))
        yield found


def _scaled(layer, label: str, steps: np.ndarray) -> ScaledWeight:
    scales, one = _numbers(getattr(layer, f"{label}_scale")), np.ones((1, 1), "float32")
    if hasattr(layer, "g_idx"):
        groups = _numbers(layer.g_idx).astype("int32")
        if label == "embeddings":
            return ScaledWeight(steps, scales, groups, one, axis=1)
        steps, divisors = steps.reshape(len(groups), -1), one
        if layer.quantization_mode in ("gptq", "awq"):
            scales = scales.T
        if layer.quantization_mode == "awq":
            divisors = _numbers(layer.awq_scales)[:, None]
        return ScaledWeight(steps, scales, groups, divisors)
    # For each output, or row of a table, by how much Keras has multiplied.
    is_einsum = isinstance(layer, keras.layers.EinsumDense)
    if label == "embeddings":
        scales = scales[:, None]
    elif is_einsum and layer.quantization_mode == "int8":
        scales = private.scale_of_kernel(layer)
    else:
        steps = steps.reshape(-1, len(scales))
    return ScaledWeight(steps, one, np.zeros(1, "int32"), scales)


def _numbers(variable):
    return private.to_numpy(variable).astype("float32")
