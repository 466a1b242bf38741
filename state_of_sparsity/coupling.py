"""Channels of the layers of a plan that are tied, as one unit."""

from collections.abc import Set

import numpy as np

from state_of_sparsity.companions import Companions
from state_of_sparsity.layer_budgets import pruned
from state_of_sparsity.structures import Slices, TiedChannels


class Ties:
    """Which channels of the layers of a plan stay or go together.

    Args:
      engine: of the model.
      model: to make sparse.
      sites: of it.
      plan: as of `planning.planned`, each layer by itself.

    Raises:
      ValueError: if channels are to be coupled, and the model cannot be followed.
    """

    def __init__(self, engine, model, sites, plan):
        self._model = model.name
        self._sites = [x for x in sites if _couples(plan.get(id(x.layer)))]
        # Of each layer, by `id`, of the channels of its weights.
        self._numbers: dict[int, list[np.ndarray]] = {}
        channels = engine.channels(model) if self._sites else None
        if channels is None:
            self._check_is_optional(plan)
            self._sites = []
        first = 1 << 32  # Above all numbers of what is followed.
        for site in self._sites:
            technique = plan[id(site.layer)][1]
            self._numbers[id(site.layer)] = found = []
            for name in pruned(technique, site):
                number = technique.pattern.units(tuple(site.weights[name].shape))
                numbers = _numbers(channels, site.weights[name], technique.pattern.axes)
                found.append(np.arange(number) + first if numbers is None else numbers)
                first += number

    def _check_is_optional(self, plan):
        if any(plan[id(site.layer)][1].pattern.coupled for site in self._sites):
            raise ValueError(
                f"Nothing says how the layers of model {self._model!r} are connected, "
                "as in a Functional or Sequential model of Keras 3: leave out "
                "coupled=True."
            )

    def groups(self, plan, free: Set[int]) -> list[list]:
        """The sites that are pruned alike and have tied channels, in their order.

        Args:
          plan: with a technique for each layer.
          free: by `id`, the layers that no override names, which are apart from others.
        """
        groups = []
        for site in self._sites:
            key = id(site.layer)
            alike = plan[key][1].with_structure(None), key in free
            own, together = set(np.concatenate(self._numbers[key]).tolist()), [site]
            for group in [g for g in groups if g[0] == alike and g[1] & own]:
                groups.remove(group)
                own, together = own | group[1], group[2] + together
            groups.append((alike, own, together))
        return [
            sorted(sites, key=lambda site: plan[id(site.layer)][0])
            for _, own, sites in groups
            if len(own) < sum(len(x) for s in sites for x in self._of(s))
        ]

    def coupled(self, plan, groups: list[list]) -> dict:
        """A plan with the pattern of tied channels for the sites of each group."""
        plan = dict(plan)
        for sites in groups:
            axes = [
                plan[id(s.layer)][1].pattern.axes for s in sites for _ in self._of(s)
            ]
            numbers = [x for site in sites for x in self._of(site)]
            together = Companions(self._model, len(sites))
            pattern = TiedChannels.of(together, axes, numbers)
            for site in sites:
                index, technique = plan[id(site.layer)]
                plan[id(site.layer)] = index, technique.with_structure(pattern)
        return plan

    def _of(self, site):
        return self._numbers[id(site.layer)]


def _couples(planned):
    """Whether a layer has a technique for channels that can be one with others."""
    if planned is None or not planned[1].couples:
        return False
    pattern = planned[1].pattern
    is_of_channels = isinstance(pattern, Slices) and pattern.of == "channels"
    return is_of_channels and pattern.coupled is not False


def _numbers(channels, variable, axes):
    """The numbers of a variable's channels, if they are along one axis."""
    along = [axis for axis in axes if variable.shape[axis] > 1]
    return channels(variable, *along) if len(along) == 1 else None
