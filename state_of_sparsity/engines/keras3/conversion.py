"""Conversion of Keras 3 models into sparse and plain copies."""

import copy
import warnings

import keras

from state_of_sparsity.engines.conversion import DENSE, Conversion, Site
from state_of_sparsity.engines.keras3 import containers, maps, private, smaller, stages
from state_of_sparsity.engines.keras3.copying import Copier
from state_of_sparsity.engines.keras3.exporting import signature
from state_of_sparsity.engines.keras3.gptq import masked_gptq
from state_of_sparsity.engines.keras3.kinds import (
    has_weights,
    located_weights,
    summed_axis_of,
)
from state_of_sparsity.engines.keras3.layers import Sparse, check_plain, make_sparse
from state_of_sparsity.engines.keras3.readers import readers
from state_of_sparsity.engines.keras3.stripping import make_plain
from state_of_sparsity.engines.linear_maps import unit_axes
from state_of_sparsity.engines.matrices import linear_map


class Keras3Conversion(Conversion):
    """Gives layers of a copy another class, with `Sparse` before their own."""

    callback_class = keras.callbacks.Callback

    def check_model(self, model):
        foreign = [
            held.name
            for layer in private.all_layers(model)
            for held in vars(layer).values()
            if any(c.__module__.startswith("tf_keras.") for c in type(held).__mro__)
        ]
        if foreign:
            raise TypeError(
                f"Model {model.name!r} of Keras 3 holds layers of another Keras: "
                f"{foreign}. Make all of them with `import keras`."
            )
        if not model.built or not (model.weights or private.graph_nodes(model)):
            raise ValueError(
                f"Model {model.name!r} has no weights yet. Build it first: call it on "
                "a batch, or call model.build(input_shape)."
            )

    def children(self, layer):
        return private.children(layer)

    def site(self, layer):
        is_sparse = isinstance(layer, Sparse)
        weights = located_weights(layer) if is_sparse or has_weights(layer) else []
        if not (is_sparse or weights):
            return None
        return Site(
            layer,
            layer.name,
            layer.name,
            layer.technique.technique_name() if is_sparse else DENSE,
            {found.label: found.variable for found in weights},
            isinstance(layer, private.BaseDepthwiseConv),
            summed_axis_of(layer),
            unit_axes(layer),
        )

    def left_out(self, model):
        known = {id(v) for site in self.sites(model) for v in site.layer.weights}
        return [
            variable.path
            for layer in private.all_layers(model)
            if not type(layer).__module__.startswith("keras.")
            for variable in private.own_trainable(layer)
            if len(variable.shape) > 1 and id(variable) not in known
        ]

    def sparsify(self, model, plan):
        copier = Copier()
        with private.scope_of(model):
            sparse = copier.copy(model)
            chosen = [x for x in private.all_layers(model) if id(x) in plan]
            for layer in chosen:
                check_plain(layer)
            self._warn_of_readers(sparse, [copier.copies[id(x)] for x in chosen])
            for layer in chosen:
                index, technique = plan[id(layer)]
                make_sparse(copier.copies[id(layer)], technique, index)
        for layer in private.all_layers(sparse):
            inner = [x for x in private.all_layers(layer) if x is not layer]
            holds_sparse = any(isinstance(x, Sparse) for x in inner)
            makes_them = containers.makes_its_layers(layer)
            if holds_sparse and makes_them and not isinstance(layer, Sparse):
                containers.make_container(layer)
        private.list_parameters(sparse)
        return sparse

    def _warn_of_readers(self, model, layers):
        """Warns of weights to make sparse that other layers compute with, too."""
        try:
            inputs = signature(model)[0]
        except ValueError:
            return  # Nothing says what it is called on.
        owners = {
            id(found.variable): (found.variable, layer)
            for layer in layers
            for found in located_weights(layer)
        }
        found = readers(model, owners, inputs)
        if found:
            pairs = (f"{reader!r} with {path}" for path, reader in found.items())
            warnings.warn(
                f"Layers compute with the weight of another one: {', '.join(pairs)}. "
                "They see it without its zeros, so that the stripped model computes "
                "something else. Leave the layer of the weight dense with an override "
                "of None; or let one layer do both, as ReversibleEmbedding does.",
                stacklevel=4,
            )

    def linear_maps(self, layer):
        weights = [weight.label for weight in layer.sparse_weights]
        found = linear_map(layer) if maps.map_of(layer) is maps.linear else None
        return {} if found is None else dict.fromkeys(weights, found)

    def set_masked(self, layer, attribute, value, mask):
        weights = {weight.label: weight for weight in layer.sparse_weights}
        weights[attribute].theta.assign(value)
        weights[attribute].state["mask"].assign(mask)

    def gradients(self, model, variables, inputs, loss, training):
        found = private.gradients(model, variables, inputs, loss, training)
        return [keras.ops.convert_to_numpy(gradient) for gradient in found]

    def run_in_parts(self, model, calls, waits, visit):
        def layer_waits(part):
            # Other operations hold no layers.
            return isinstance(part, keras.layers.Layer) and waits(part)

        with private.without_gradients():
            stages.run_in_parts(model, calls, layer_waits, visit)

    def quantize(self, model, mode, config, filters):
        filters = private.filter_of_blocks(model, config, filters)
        kept = copy.copy(config)
        with private.gptq_by(masked_gptq):
            model.quantize(mode, config=kept, filters=filters)
        private.save_zero_points(model)
        if hasattr(kept, "quantization_layer_structure"):
            # Layers keep it, and Keras could not save what they are themselves in.
            kept.quantization_layer_structure = None

    def channels(self, model):
        graph = private.functional_of(model)
        return None if graph is None else smaller.followed(graph).channels

    def shrink(self, model):
        return smaller.shrink(model)

    def strip(self, model):
        copier = Copier(plain=True)
        with private.scope_of(model):
            plain = copier.copy(model)
        for layer in private.all_layers(model):
            if isinstance(layer, Sparse):
                make_plain(layer, copier.copies)
            elif isinstance(layer, containers.SparseContainer):
                private.refresh_signature(copier.copies[id(layer)])
        private.list_parameters(plain)
        return plain
