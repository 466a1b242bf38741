"""Inspection of models of `tf_keras`: their weights and calls."""

import math

from state_of_sparsity.engines.inspection import Inspection
from state_of_sparsity.engines.tf_keras.backend import (
    all_layers,
    input_signature,
    raw_variable,
    tf,
    variables,
    weight_lists,
)
from state_of_sparsity.engines.tf_keras.families import (
    added_variables,
    deployed_weights,
)
from state_of_sparsity.engines.tf_keras.layers.reparameterized import Reparameterized


class TFKerasInspection(Inspection):
    """Reads the variables of layers, and traces models in a TensorFlow graph."""

    def deployed_weights(self, layer):
        return deployed_weights(layer)

    def count_parameters(self, model):
        added = {id(v) for x in all_layers(model) for v in added_variables(x)}
        return sum(
            math.prod(variable.shape)
            for variable in variables(model)
            # Frozen weights count, the averages of batch normalization do not.
            if id(variable) not in added and raw_variable(variable).trainable
        )

    def penalty(self, layer):
        if not (
            isinstance(layer, Reparameterized) and layer.technique.has_own("penalty")
        ):
            return None
        return float(layer.penalty()), float(layer.penalty_weight())

    def layers(self, model):
        return all_layers(model)

    def own_weights(self, layer):
        return weight_lists(layer)[0]

    def to_numpy(self, variable):
        return raw_variable(variable).numpy()

    def input_specs(self, model):
        return input_signature(model)

    def outputs(self, model, inputs):
        if any(getattr(layer, "stateful", False) for layer in all_layers(model)):
            raise ValueError("A call changes the states of recurrent layers.")
        added = {id(v) for x in all_layers(model) for v in added_variables(x)}
        kept = set(map(id, model.trainable_variables)) | added
        held = [raw_variable(v) for v in variables(model) if id(v) not in kept]
        before = [variable.numpy() for variable in held]
        try:
            outputs = tf.nest.flatten(model(inputs, training=False))
            return [output.numpy() for output in outputs]
        finally:
            for variable, value in zip(held, before, strict=True):
                variable.assign(value)

    def training_step(self, layer):
        if not layer.built:
            return 0
        counter = getattr(layer, "pruning_step", None)
        counter = layer.training_step if counter is None else counter
        return max(int(raw_variable(counter).numpy()), 0)

    def trace(self, model, inputs):
        specs = tf.nest.map_structure(
            lambda x: tf.TensorSpec([1, *x.shape[1:]], x.dtype), inputs
        )
        tf.function(lambda x: model(x), autograph=False).get_concrete_function(specs)
