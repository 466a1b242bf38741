"""Initial values for layers that are sparse from the first step.

Usual initializers choose the variance of a weight by how many of them an output is a
sum of. With a mask there are fewer, and outputs become small. Here only those count
that stay: the augmented initialization of Gale et al. 2019 (arXiv 1902.09574), after
Liu et al. 2019 (arXiv 1810.05270).
"""

import abc
import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from keras import ops

from state_of_sparsity.checks import check_fraction
from state_of_sparsity.engines import engine_of
from state_of_sparsity.engines.recording import is_kind


@dataclasses.dataclass(frozen=True)
class AugmentedInitializer(abc.ABC):
    """Base of the initializers, which serve `keras` and `tf_keras`.

    Attributes:
      sparsity: share of the weights that a mask takes away, in [0, 1).
      seed: of the values; None for one that `keras.utils.set_random_seed` decides.
    """

    sparsity: float
    seed: int | None = None

    def __post_init__(self):
        check_fraction("sparsity", self.sparsity)

    def __call__(self, shape, dtype=None, **kwargs):
        del kwargs
        seed = np.random.randint(2**31) if self.seed is None else self.seed
        values = self.drawn(np.random.default_rng(seed), tuple(map(int, shape)))
        return ops.convert_to_tensor(values, dtype or "float32")

    def get_config(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    @abc.abstractmethod
    def drawn(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Values of a weight of this shape."""


class SparseGlorotUniform(AugmentedInitializer):
    """Of dense layers: uniform within `sqrt(6 / (nnz / fan_out + nnz / fan_in))`.

    `nnz = size (1 - sparsity)`; without sparsity it is Glorot's.
    """

    def drawn(self, rng, shape):
        fan_in, fan_out = math.prod(shape[:-1]), shape[-1]
        kept = fan_in * fan_out * (1.0 - self.sparsity)
        limit = math.sqrt(6.0 / (kept / fan_out + kept / fan_in))
        return rng.uniform(-limit, limit, shape)


class SparseHeNormal(AugmentedInitializer):
    """Of convolutions: `N(0, 2 / n)`, untruncated.

    `n = height · width · outputs · (1 - sparsity)`.
    """

    def drawn(self, rng, shape):
        n = math.prod(shape) * (1.0 - self.sparsity) / shape[-2]
        return rng.normal(0.0, math.sqrt(2.0 / n), shape)


class SparseEmbeddingNormal(AugmentedInitializer):
    """Of an embedding: `N(0, 1 / (d (1 - sparsity)))`, with `d` values in a row."""

    def drawn(self, rng, shape):
        deviation = (shape[-1] * (1.0 - self.sparsity)) ** -0.5
        return rng.normal(0.0, deviation, shape)


def augment(model, masks: Mapping[str, np.ndarray], seed: int = 0) -> None:
    """Gives the masked weights of a dense model fresh values for their sparsities.

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
            kind = _kind(site.layer, attribute)
            # A weight that loses all of its elements has no use for a variance.
            sparsity = 1.0 - max(mask.sum(), 1) / mask.size
            rng = np.random.default_rng([seed, index, position])
            values = kind(sparsity).drawn(rng, tuple(variable.shape))
            variable.assign(values.astype("float32"))


def _kind(layer, attribute):
    if attribute.endswith("embeddings"):
        return SparseEmbeddingNormal
    if is_kind(layer, "Conv", "BaseConv"):
        return SparseHeNormal
    return SparseGlorotUniform
