"""Initial values for models that are sparse from the first step."""

import math
from collections.abc import Mapping

import numpy as np

from state_of_sparsity.engines import engine_of
from state_of_sparsity.engines.recording import is_kind


def augment(model, masks: Mapping[str, np.ndarray], seed: int = 0) -> None:
    """Gives the masked weights of a dense model fresh values for their sparsities.

    Usual initializers choose the variance of a weight by how many of them an output is
    a sum of. With a mask there are fewer, and outputs become small. Here only those
    count that stay: the augmented initialization of Gale et al. 2019 (arXiv
    1902.09574), after Liu et al. 2019 (arXiv 1810.05270). With the share `d` of the
    weights that stay:

    - convolutions: `N(0, 2 / (height width outputs d))`, untruncated;
    - embeddings: `N(0, 1 / (columns d))`;
    - all others: uniform within `sqrt(6 / (d (inputs + outputs)))`.

    Args:
      model: of `keras` or `tf_keras`, before `sos.sparsify`; it is changed.
      masks: as of `sos.FixedMask`. Where they keep all weights, values stay.
      seed: of the values, which differ from weight to weight.
    """
    for index, site in enumerate(engine_of(model).sites(model)):
        for position, (attribute, variable) in enumerate(site.weights.items()):
            mask = masks[f"{site.path}/{attribute}"]
            if mask.all():
                continue
            # A weight that loses all of its elements has no use for a variance.
            density = max(mask.sum(), 1) / mask.size
            rng = np.random.default_rng([seed, index, position])
            draw = _distribution(site.layer, attribute)
            values = draw(rng, tuple(variable.shape), density)
            variable.assign(values.astype("float32"))


def _distribution(layer, attribute):
    if attribute.endswith("embeddings"):
        return _embedding
    return _convolution if is_kind(layer, "Conv", "BaseConv") else _dense


def _dense(rng, shape, density):
    fan_in, fan_out = math.prod(shape[:-1]), shape[-1]
    limit = math.sqrt(6.0 / (density * (fan_in + fan_out)))
    return rng.uniform(-limit, limit, shape)


def _convolution(rng, shape, density):
    outputs = math.prod(shape) / shape[-2]
    return rng.normal(0.0, math.sqrt(2.0 / (outputs * density)), shape)


def _embedding(rng, shape, density):
    return rng.normal(0.0, (shape[-1] * density) ** -0.5, shape)
