"""Network slimming: channels go that batch normalization scales down."""

import numpy as np

from state_of_sparsity.checks import check_fraction
from state_of_sparsity.engines import engine_of
from state_of_sparsity.engines.recording import is_kind
from state_of_sparsity.masks import zero_count


def slim(model, sparsity: float):
    """A plain copy of a model, without the channels that are scaled down most.

    Of all channels that batch normalization scales, a share goes, those of the smallest
    `|gamma|` in the whole model; each layer keeps one. Their scales and offsets become
    0, so that they give 0, and `sos.shrink` takes them out. Train with an L1 penalty on
    the scales before, Keras's `gamma_regularizer` (Liu et al. 2017, arXiv 1708.06519).

    Args:
      model: a trained model; of a sparse one, what `sos.strip` gives is slimmed.
      sparsity: share of the channels that goes, in [0, 1).

    Raises:
      TypeError, ValueError: for a bad argument, or if nothing normalizes with a scale.
    """
    check_fraction("sparsity", sparsity)
    engine = engine_of(model)
    plain = engine.strip(model)
    found = {id(x): x for x in engine.layers(plain) if is_kind(x, "BatchNormalization")}
    layers = [layer for layer in found.values() if layer.scale]
    if not layers:
        raise ValueError(f"No BatchNormalization of model {model.name!r} has a scale.")
    scales = [np.abs(engine.to_numpy(layer.gamma)) for layer in layers]
    sizes = np.sort(np.concatenate(scales))
    smallest = sizes[zero_count(sparsity, len(sizes))]
    for layer, scale in zip(layers, scales, strict=True):
        kept = (scale >= smallest) | (scale == scale.max())
        layer.gamma.assign(engine.to_numpy(layer.gamma) * kept)
        if layer.center:
            layer.beta.assign(engine.to_numpy(layer.beta) * kept)
    return plain
