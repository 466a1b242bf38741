"""The layers of a model that have weights to make sparse."""

from collections.abc import Iterator

from state_of_sparsity.engines.base import Site
from state_of_sparsity.engines.tf_keras.backend import (
    DepthwiseConv,
    child_layers,
    custom_weights,
    keras,
)
from state_of_sparsity.engines.tf_keras.copying import join
from state_of_sparsity.engines.tf_keras.families import is_sparse, technique_name
from state_of_sparsity.engines.tf_keras.weights import (
    plain_layer_of,
    sparsifiable_weights,
    weight_variable,
    wrapped_weights,
)


def sites(model: keras.layers.Layer) -> Iterator[Site]:
    """The sites of a model; see `Engine.sites`."""
    seen_layers: set[int] = set()
    seen_paths: dict[str, int] = {}
    for layer, path in _walk(model, ""):
        if id(layer) in seen_layers:
            continue
        seen_layers.add(id(layer))
        count = seen_paths.get(path, 0)
        seen_paths[path] = count + 1
        plain = plain_layer_of(layer)
        names = wrapped_weights(plain) if plain.built else []
        yield Site(
            layer=layer,
            path=f"{path}_{count}" if count else path,
            name=plain.name,
            technique=technique_name(layer),
            weights={name: weight_variable(plain, name) for name in names},
            depthwise=isinstance(plain, DepthwiseConv),
        )


def _walk(layer, path):
    for child in child_layers(layer):
        child_path = join(path, plain_layer_of(child).name)
        if is_sparse(child) or sparsifiable_weights(child):
            yield child, child_path
        else:
            yield from _walk(child, child_path)


def left_out(model: keras.Model) -> list[str]:
    """Names of the matrices of custom layers that no site holds.

    A layer with a `get_prunable_weights()` has left them out on purpose.
    """
    held = {id(variable) for site in sites(model) for variable in site.weights.values()}
    return [
        f"{layer.name}/{weight.name.rpartition('/')[2].partition(':')[0]}"
        for layer, weight in custom_weights(model)
        if len(weight.shape) > 1
        and id(weight) not in held
        and not hasattr(layer, "get_prunable_weights")
    ]
