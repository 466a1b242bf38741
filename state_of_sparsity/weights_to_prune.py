"""The weights of a model that are pruned in one shot, and what of each goes."""

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

    def mask(self, scores, going) -> np.ndarray:
        """In the pattern of the technique, true where it stays.

        Args:
          scores: of the weight.
          going: as of `going_by_name`.
        """
        if isinstance(going, np.ndarray):
            return going
        scores = keras.ops.convert_to_tensor(scores, "float32")
        return keras.ops.convert_to_numpy(self.technique.pattern.mask(scores, going))


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


def going_by_name(
    weights, scores=None, progress: float = 1.0
) -> dict[str, int | np.ndarray]:
    """How many units of each weight go; of those with tied channels, the mask.

    Args:
      weights: all that are pruned.
      scores: of those that are not pruned each by itself, by name.
      progress: of the way to the target, on which the density falls geometrically.
    """
    groups, found = {}, {}
    for weight in weights:
        has_companions = weight.technique.companions is not None
        key = weight.technique if has_companions else weight.name
        groups.setdefault(key, []).append(weight)
    for group in groups.values():
        technique, shapes = group[0].technique, [w.variable.shape for w in group]
        going = [
            masks.zero_count(_at(group[0], progress), *number)
            for number in technique.units(shapes)
        ]
        if technique.companions is not None:
            tensors = [
                keras.ops.convert_to_tensor(scores[weight.name], "float32")
                for weight in group
            ]
            going = map(int, technique.counts(tensors, going))
        if technique.pattern.companions is not None:
            kept = technique.pattern.masks(tensors, list(going))
            going = map(keras.ops.convert_to_numpy, kept)
        found |= zip((weight.name for weight in group), going, strict=True)
    return found


def _at(weight, progress):
    return 1.0 - (1.0 - weight.technique.sparsity) ** progress
