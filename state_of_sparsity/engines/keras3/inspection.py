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
            else _dense_weight(located)
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
        counted = {id(v): v for x in layers for v in private.own_trainable(x)}
        return sum(math.prod(v.shape) for i, v in counted.items() if i not in added)

    def penalty(self, layer):
        if not layer.technique.extra_is_trained:
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
            outputs = keras.tree.flatten(model(inputs))
        return [keras.ops.convert_to_numpy(output) for output in outputs]

    def training_step(self, layer):
        return int(private.to_numpy(layer.training_step)) if layer.built else 0


def _sparse_weight(technique, weight):
    values = (
        technique.deployed_weight(*weight.values()),
        technique.keeps(*weight.values()),
    )
    return DeployedWeight(weight.label, *map(keras.ops.convert_to_numpy, values), True)


def _dense_weight(located):
    value = private.to_numpy(located.variable)
    return DeployedWeight(located.label, value, value != 0, False)
