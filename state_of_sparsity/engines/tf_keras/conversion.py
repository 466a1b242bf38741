"""Conversion of models of `tf_keras` into sparse and plain copies."""

import warnings

from state_of_sparsity.engines.conversion import Conversion, Site
from state_of_sparsity.engines.linear_maps import unit_axes
from state_of_sparsity.engines.matrices import linear_map
from state_of_sparsity.engines.tf_keras.backend import (
    DepthwiseConv,
    QuantizeWrapper,
    all_layers,
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
from state_of_sparsity.engines.tf_keras.copying import converted, held_part
from state_of_sparsity.engines.tf_keras.families import (
    is_sparse,
    plain_layer,
    technique_name,
)
from state_of_sparsity.engines.tf_keras.pruning import PruningStep
from state_of_sparsity.engines.tf_keras.renewal import share_thresholds
from state_of_sparsity.engines.tf_keras.sparse_layers import is_wrapped, sparse_layer
from state_of_sparsity.engines.tf_keras.weights import (
    plain_layer_of,
    sparsifiable_weights,
    summed_axis,
    weight_variable,
    wrapped_weights,
)


class TFKerasConversion(Conversion):
    """Wraps layers to prune, as TF-MOT does, and subclasses all others."""

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
        # TF-MOT's own wrapper takes attention as a whole.
        names = sparsifiable_weights(plain) or wrapped_weights(plain)
        names = names if plain.built else []
        holder = layer if isinstance(layer, QuantizeWrapper) else plain
        return Site(
            layer,
            plain.name,
            plain.name,
            technique_name(layer),
            {name: weight_variable(holder, name) for name in names},
            isinstance(plain, DepthwiseConv),
            summed_axis(plain),
            unit_axes(plain),
        )

    def left_out(self, model):
        held = {id(v) for site in self.sites(model) for v in site.weights.values()}
        return [
            f"{layer.name}/{weight.name.rpartition('/')[2].partition(':')[0]}"
            for layer, weight in custom_weights(model)
            if len(weight.shape) > 1
            and id(weight) not in held
            # One that names its weights has left the others out on purpose.
            and not hasattr(layer, "get_prunable_weights")
        ]

    def sparsify(self, model, plan):
        self._check_not_quantized(model, plan)
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
        share_thresholds(sparse)
        self._warn_of_readers(model, plan)
        return sparse

    def _check_not_quantized(self, model, plan):
        for site in self.sites(model):
            if id(site.layer) in plan and isinstance(site.layer, QuantizeWrapper):
                raise ValueError(
                    f"Layer {site.path!r} is quantized already. Call sos.sparsify "
                    "before quantize_model, then quantize what sos.strip returns; "
                    "Default8BitPrunePreserveQuantizeScheme of TF-MOT keeps the zeros. "
                    "Or leave the layer as it is with an override of None."
                )

    def _warn_of_readers(self, model, plan):
        """Warns of weights that are not what is computed with, and others hold, too."""
        sites = [x for x in self.sites(model) if id(x.layer) in plan]
        learned = [x for x in sites if not is_wrapped(plan[id(x.layer)][1])]
        paths = {id(v): f"{x.path}/{n}" for x in learned for n, v in x.weights.items()}
        own = {id(inner) for x in learned for inner in all_layers(x.layer)}
        others = [x for x in all_layers(model) if id(x) not in own] if paths else []
        for layer in others:
            held = held_part(layer, paths.keys())
            if held is not None:
                warnings.warn(
                    f"Layer {layer.name!r} holds the weight {paths[id(held)]!r}, and "
                    "not what its layer computes with: the weight without noise and "
                    "without zeros. Let it hold the layer, and read the weight of it "
                    "in its call, or leave the layer dense with an override of None.",
                    stacklevel=4,
                )

    def strip(self, model):
        def replace(layer, path, copy):
            del path
            if isinstance(layer, SparseContainer):
                return copy(layer, layer.plain_class, ("restoration",))
            return plain_layer(layer, copy)

        with _scope_of(model):
            return converted(model, replace)

    def linear_maps(self, layer):
        plain = plain_layer_of(layer)
        is_known = type(plain).__module__.startswith("tf_keras.")
        found = linear_map(plain) if is_known else None
        names = sparsifiable_weights(plain)
        return {} if found is None else dict.fromkeys(names, found)

    def set_masked(self, layer, attribute, value, mask):
        names = wrapped_weights(layer.layer, layer.technique)
        variables = dict(zip(names, layer.pruning_vars, strict=True))
        weight, held, _ = variables[attribute]
        raw_variable(weight).assign(value)
        held.assign(tf.cast(mask, held.dtype))

    def gradients(self, model, variables, inputs, loss, training):
        before = [(v, v.numpy()) for v in model.non_trainable_weights]
        raw = [raw_variable(variable) for variable in variables]
        with tf.GradientTape() as tape:
            result = loss(model(inputs, training=training))
        found = tape.gradient(result, raw)
        for variable, value in before:
            variable.assign(value)
        return [tf.convert_to_tensor(gradient).numpy() for gradient in found]

    def needed_callbacks(self):
        return [PruningStep()]


def _scope_of(model):
    """The scope in which to make the variables of a copy of the model."""
    if tf.distribute.has_strategy():
        return tf.distribute.get_strategy().scope()
    return model.distribute_strategy.scope()
