"""The weights of a model that are pruned in one shot, and how many of each go."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from state_of_sparsity import masks
from state_of_sparsity.engines.matrices import LinearMap
from state_of_sparsity.layer_budgets import pruned
from state_of_sparsity.techniques import Technique


@dataclasses.dataclass(frozen=True)
class Weight:
    """A weight of a sparse copy with fixed masks.

    Attributes:
      engine: of the model.
      site: that it is of.
      attribute: its name within the layer.
      technique: by which it goes.
      stream: as of `Place`, for random scores.
      map: what the layer multiplies with it; None where that is not known.
    """

    engine: Any
    site: Any
    attribute: str
    technique: Technique
    stream: tuple[int, int]
    map: LinearMap | None

    @property
    def name(self) -> str:
        return f"{self.site.path}/{self.attribute}"

    @property
    def variable(self):
        return self.site.weights[self.attribute]

    def value(self) -> np.ndarray:
        return self.engine.to_numpy(self.variable)

    def assign(self, value: np.ndarray, mask: np.ndarray) -> None:
        self.engine.set_masked(self.site.layer, self.attribute, value, mask)

    def mask(self, scores, zeros: int) -> np.ndarray:
        """In the pattern of the technique, true where it stays."""
        scores = keras.ops.convert_to_tensor(scores, "float32")
        return keras.ops.convert_to_numpy(self.technique.pattern.mask(scores, zeros))


def weights_to_prune(engine, sparse, chosen: Mapping[str, Technique]):
    """The weights of the layers that have a technique, by their path."""
    return list(_weights(engine, sparse, chosen))


def _weights(engine, sparse, chosen) -> Iterator[Weight]:
    for index, site in enumerate(engine.sites(sparse)):
        if site.path not in chosen:
            continue
        maps, technique = engine.linear_maps(site.layer), chosen[site.path]
        for position, name in enumerate(pruned(technique, site)):
            stream = index, position
            yield Weight(engine, site, name, technique, stream, maps.get(name))


def zeros_by_name(weights, scores=None, progress: float = 1.0) -> dict[str, int]:
    """How many units of each weight go.

    Args:
      weights: all that are pruned.
      scores: of those that share a threshold, by name.
      progress: of the way to the target, on which the density falls geometrically.
    """
    zeros = {}
    for weight in weights:
        (units,) = weight.technique.units([weight.variable.shape])
        zeros[weight.name] = masks.zero_count(_at(weight, progress), *units)
    sharing = [w for w in weights if w.technique.shared_threshold is not None]
    if sharing:
        units = [
            weight.technique.pattern.unit_scores(
                keras.ops.convert_to_tensor(scores[weight.name], "float32")
            )
            for weight in sharing
        ]
        shapes = [tuple(w.variable.shape) for w in sharing]
        technique = sharing[0].technique
        (number,) = technique.units(shapes)
        count = masks.zero_count(_at(sharing[0], progress), *number)
        found = masks.lowest_by_tensor(units, count, technique.prices(shapes))
        counts = keras.ops.convert_to_numpy(found)
        zeros |= {w.name: int(n) for w, n in zip(sharing, counts, strict=True)}
    return zeros


def _at(weight, progress):
    return 1.0 - (1.0 - weight.technique.sparsity) ** progress
