"""Inspection of Keras 3 models: their weights and calls."""

import math

import keras

from state_of_sparsity.engines.inspection import DeployedWeight, Inspection
from state_of_sparsity.engines.keras3 import exporting, private
from state_of_sparsity.engines.keras3.kinds import located_weights
from state_of_sparsity.engines.keras3.layers import Sparse
from state_of_sparsity.engines.keras3.stripping import added_variables


class Keras3Inspection(Inspection):
    """Reads the variables of layers, and traces models with symbolic tensors."""

    def deployed_weights(self, layer):
        sparse = {
            weight.label: weight for weight in getattr(layer, "sparse_weights", ())
        }
        return [
            _sparse_weight(layer.technique, sparse[located.label])
            if located.label in sparse
            else _dense_weight(layer, located)
            for located in located_weights(layer)
        ]

    def count_parameters(self, model):
        layers = private.all_layers(model)
        added = {
            id(variable)
            for layer in layers
            if isinstance(layer, Sparse)
            for variable in added_variables(layer).values()
        }
        counted = {
            id(variable): math.prod(variable.shape)
            for layer in layers
            for variable in private.own_trainable(layer)
            # Scales of 8 bits, which are not trained, are set in the backward pass.
            if not variable.overwrite_with_gradient
        }
        counted |= {
            id(located.variable): quantized_steps(layer, located).size
            for layer in layers
            for located in located_weights(layer)
            if is_quantized(located)
        }
        return sum(size for i, size in counted.items() if i not in added)

    def penalty(self, layer):
        if not layer.technique.has_own("penalty"):
            return None
        both = layer.penalty(), layer.penalty_weight()
        return tuple(float(keras.ops.convert_to_numpy(value)) for value in both)

    def layers(self, model):
        return private.all_layers(model)

    def own_weights(self, layer):
        if layer.quantization_mode is not None:
            raise ValueError(
                f"Layer {layer.name!r} is quantized, which hides its weights: count "
                "the operations of the model before."
            )
        return private.own_trainable(layer)

    def to_numpy(self, variable):
        return private.to_numpy(variable)

    def input_specs(self, model):
        return exporting.signature(model)[0]

    def trace(self, model, inputs):
        specs = keras.tree.map_structure(
            lambda x: keras.KerasTensor((1, *x.shape[1:]), x.dtype), inputs
        )
        private.compute_output_spec(model, specs)

    def outputs(self, model, inputs):
        with keras.StatelessScope(), private.without_gradients():
            outputs = keras.tree.flatten(model(inputs, training=False))
        return [keras.ops.convert_to_numpy(output) for output in outputs]

    def training_step(self, layer):
        return int(private.to_numpy(layer.training_step)) if layer.built else 0


def _sparse_weight(technique, weight):
    values = (
        technique.deployed_weight(*weight.values()),
        technique.keeps(*weight.values()),
    )
    return DeployedWeight(weight.label, *map(keras.ops.convert_to_numpy, values), True)


def _dense_weight(layer, located):
    if is_quantized(located):
        value = quantized_steps(layer, located)
    else:
        value = private.to_numpy(located.variable)
    return DeployedWeight(located.label, value, value != 0, False)


def is_quantized(located):
    return not keras.backend.is_float_dtype(located.variable.dtype)


def quantized_steps(layer, located):
    """The weight of a layer that Keras has quantized, in steps of its scale."""
    if layer.quantization_mode in ("gptq", "awq"):
        return _packed(layer)
    if layer.quantization_mode not in ("int8", "int4"):
        raise ValueError(
            f"Layer {layer.name!r} is quantized, and how it packs its weights is not "
            "known: ask before it is. Received: quantization_mode="
            f"{layer.quantization_mode!r}"
        )
    name = located.label
    # Keras unpacks all others itself.
    packed = layer.quantization_mode == "int4" and name == "reverse_embeddings"
    value = getattr(layer, name)
    if packed:
        value = keras.quantizers.unpack_int4(value, layer.output_dim)
    value = keras.ops.convert_to_numpy(value).astype("int32")
    offsets = getattr(layer, f"{name}_zero", None)
    if offsets is None:
        return value
    # What stands for zero, by groups of inputs, or of an embedding's channels.
    groups = keras.ops.cast(layer.g_idx, "int32")
    axis = 1 if name == "embeddings" else 0
    offsets = keras.ops.convert_to_numpy(keras.ops.take(offsets, groups, axis))
    return value - offsets.astype("int32").reshape(value.shape)


def _packed(layer):
    """That of GPTQ or AWQ: of outputs by inputs, two of 4 bits in a byte."""
    steps, zeros = layer.quantized_kernel, layer.kernel_zero
    outputs = zeros.shape[0]
    if steps.shape[0] != outputs:
        steps = keras.quantizers.unpack_int4(steps, outputs, dtype="uint8")
    groups = keras.ops.cast(layer.g_idx, "int32")
    both = map(keras.ops.convert_to_numpy, (steps, keras.ops.take(zeros, groups, -1)))
    steps, zeros = (values.astype("int32") for values in both)
    shape = getattr(layer, "original_kernel_shape", None) or layer.kernel_shape
    return (steps - zeros).T.reshape(shape)
