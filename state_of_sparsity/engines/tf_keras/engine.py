"""The engine for models of `tf_keras`."""

import math

from state_of_sparsity.engines.base import Engine, Site
from state_of_sparsity.engines.tf_keras import saved_model
from state_of_sparsity.engines.tf_keras.backend import (
    DepthwiseConv,
    check_keras_backend,
    child_layers,
    custom_weights,
    is_functional,
    keras,
    keras3_layers,
    raw_variable,
    tf,
)
from state_of_sparsity.engines.tf_keras.containers import (
    SparseContainer,
    container_class,
    is_container_of,
)
from state_of_sparsity.engines.tf_keras.copying import converted
from state_of_sparsity.engines.tf_keras.families import (
    added_variables,
    deployed_weights,
    is_sparse,
    plain_layer,
    sparse_layer,
    technique_name,
)

# Registers the classes of layers.
from state_of_sparsity.engines.tf_keras.layers import learned  # noqa: F401
from state_of_sparsity.engines.tf_keras.layers.reparameterized import Reparameterized
from state_of_sparsity.engines.tf_keras.pruning import PruningStep
from state_of_sparsity.engines.tf_keras.weights import (
    plain_layer_of,
    sparsifiable_weights,
    weight_variable,
    wrapped_weights,
)
from state_of_sparsity.techniques.masked import MaskingTechnique

_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
# To Keras, these are kinds of convolutions.
_NOT_CONVOLUTIONS = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)


class TFKerasEngine(Engine):
    """Wraps layers to prune, as TF-MOT does, and subclasses those that learn."""

    callback_class = keras.callbacks.Callback

    def check_model(self, model):
        check_keras_backend(model.name)
        if not model.built or (is_functional(model) and not model.inputs):
            raise ValueError(
                f"Model {model.name!r} has no weights yet. Build it first: call it on "
                "a batch, or call model.build(input_shape)."
            )
        for layer in keras3_layers(model):
            raise ValueError(
                f"A tf_keras model cannot hold layers of Keras 3: make the whole of "
                f"model {model.name!r} of one of them. Received: layer {layer.name!r} "
                f"of {type(layer).__module__}"
            )

    def children(self, layer):
        return child_layers(layer)

    def site(self, layer):
        if not (is_sparse(layer) or sparsifiable_weights(layer)):
            return None
        plain = plain_layer_of(layer)
        names = wrapped_weights(plain) if plain.built else []
        return Site(
            layer,
            plain.name,
            plain.name,
            technique_name(layer),
            {name: tuple(weight_variable(plain, name).shape) for name in names},
            isinstance(plain, DepthwiseConv),
        )

    def left_out(self, model):
        held = {
            id(weight_variable(plain_layer_of(site.layer), name))
            for site in self.sites(model)
            for name in site.shapes
        }
        return [
            f"{layer.name}/{weight.name.rpartition('/')[2].partition(':')[0]}"
            for layer, weight in custom_weights(model)
            if len(weight.shape) > 1
            and id(weight) not in held
            # One that names its weights has left the others out on purpose.
            and not hasattr(layer, "get_prunable_weights")
        ]

    def check_technique(self, technique, model):
        if not isinstance(technique, MaskingTechnique):
            return
        if technique.masked_weights != "stay":
            raise ValueError(
                "masked_weights must be 'stay' for a tf_keras model, whose masked "
                "weights are zero: only a Keras 3 model keeps the values that they "
                f"had. Received: {technique.masked_weights!r}"
            )
        if getattr(technique, "pruning_policy", None) is not None:
            technique.pruning_policy.ensure_model_supports_pruning(model)

    def allows(self, technique, layer):
        policy = getattr(technique, "pruning_policy", None)
        return policy is None or policy.allow_pruning(layer)

    def sparsify(self, model, plan):
        replaced = set()

        def replace(layer, path, copy):
            del path
            if id(layer) in plan:
                index, technique = plan[id(layer)]
                replaced.add(id(layer))
                return sparse_layer(technique, layer, copy, index)
            if is_container_of(layer, lambda inner: id(inner) in plan):
                return copy(layer, container_class(type(layer)))
            return None

        with _scope_of(model):
            sparse = converted(model, replace)
        missed = [
            site.path
            for site in self.sites(model)
            if id(site.layer) in plan.keys() - replaced
        ]
        if missed:
            raise ValueError(
                f"These layers cannot be replaced where model {model.name!r} holds "
                f"them: {missed}. Hold layers in attributes, lists, tuples or "
                "dictionaries, or leave them dense with an override of None."
            )
        return sparse

    def strip(self, model):
        def replace(layer, path, copy):
            del path
            if isinstance(layer, SparseContainer):
                return copy(layer, layer.plain_class, ("restoration",))
            return plain_layer(layer, copy)

        with _scope_of(model):
            return converted(model, replace)

    def deployed_weights(self, layer):
        return deployed_weights(layer)

    def count_parameters(self, model):
        added = {id(v) for s in self.sites(model) for v in added_variables(s.layer)}
        return sum(
            math.prod(variable.shape)
            for variable in model.weights
            # Frozen weights count, the averages of batch normalization do not.
            if id(variable) not in added and raw_variable(variable).trainable
        )

    def penalty(self, layer):
        if not isinstance(layer, Reparameterized):
            return None
        return float(layer.penalty()), float(layer.penalty_weight())

    def needed_callbacks(self):
        return [PruningStep()]

    def uses(self, model):
        if not is_functional(model):
            raise ValueError(
                "Operations are counted for Sequential and functional models only. "
                f"Received: {type(model).__name__} {model.name!r}"
            )
        return [
            (layer, _positions(layer) * calls)
            for layer, calls in _layers_with_calls(model, 1)
        ]

    def check_format(self, format):
        if format != "tf_saved_model":
            raise ValueError(
                "tf_keras models are exported as tf_saved_model only: build the model "
                f"with Keras 3 for other formats. Received: format={format!r}"
            )

    def write(self, stripped, path, format):
        del format
        saved_model.write_served(stripped, path)


ENGINE = TFKerasEngine()


def _scope_of(model):
    """The scope in which to make the variables of a copy of the model."""
    if tf.distribute.has_strategy():
        return tf.distribute.get_strategy().scope()
    return model.distribute_strategy.scope()


def _layers_with_calls(model, calls):
    """The layers with weights to count, and how often their model is called."""
    for layer in child_layers(model):
        if is_functional(layer):
            yield from _layers_with_calls(layer, calls * len(layer.inbound_nodes))
        elif is_sparse(layer) or any(len(w.shape) > 1 for w in layer.trainable_weights):
            yield layer, calls


def _positions(layer):
    """The batch and the positions of each output of a layer."""
    plain = plain_layer_of(layer)
    counted = isinstance(plain, (keras.layers.Dense, *_CONVOLUTIONS))
    if not counted or isinstance(plain, _NOT_CONVOLUTIONS):
        raise ValueError(
            f"No rule to count the operations of layer {layer.name!r} of kind "
            f"{type(plain).__name__}: there are some for Dense and convolutions."
        )
    channels_first = getattr(plain, "data_format", None) == "channels_first"
    shapes = map(layer.get_output_shape_at, range(len(layer.inbound_nodes)))
    return [(s[0], *s[2:]) if channels_first else s[:-1] for s in shapes]
