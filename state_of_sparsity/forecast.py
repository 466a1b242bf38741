"""Forecast of how sparse the layers of a model will become."""

import numpy as np
from keras import ops

from state_of_sparsity.budgets import Budget
from state_of_sparsity.engines import engine_of
from state_of_sparsity.layer_budgets import pruned, target_of
from state_of_sparsity.planning import planned
from state_of_sparsity.techniques import Technique
from state_of_sparsity.techniques.accumulated import AccumulatingPruning
from state_of_sparsity.techniques.state import Place


def planned_sparsities(
    model, technique: Technique, overrides=None, budget: Budget | None = None
) -> dict[str, float]:
    """How sparse pruning with these arguments of `sparsify` will make each layer.

    With `sos.Global` nothing is planned: what each layer comes to depends on the scores
    at the last renewal. Here it is by the scores as they are now, or, where those are
    of gradients, the same for each layer.

    Returns:
      By path of the layer, those that stay dense included.

    Raises:
      TypeError, ValueError: as `sparsify`, and for a technique without a target.
    """
    engine = engine_of(model)
    plan = planned(engine, model, technique, overrides, budget)
    found, shared = {}, []
    for site in engine.sites(model):
        index, chosen = plan.get(id(site.layer), (0, None))
        found[site.path] = 0.0 if chosen is None else target_of(chosen)
        if getattr(chosen, "shared_threshold", None) is not None:
            shared.append((site, index, chosen))
    return found | (_sparsities_now(engine, shared) if shared else {})


def _sparsities_now(engine, shared):
    """How sparse layers that share a threshold are by the scores of their weights."""
    technique = shared[0][2]
    if isinstance(getattr(technique, "base", technique), AccumulatingPruning):
        return {}  # There are no gradients yet.
    paths, weights = [], []
    for site, index, _ in shared:
        for position, name in enumerate(pruned(technique, site)):
            theta = ops.cast(engine.to_numpy(site.weights[name]), "float32")
            paths.append(site.path)
            place = Place(tuple(theta.shape), name, (index, position))
            state = {
                name: _initial(kept, place.shape)
                for name, kept in technique.state(place).items()
            }
            weights.append((theta, state, place.stream))
    last = len(technique.schedule().renewals()) - 1
    counts = dict.fromkeys(paths, (0, 0))
    for path, weight, new in zip(
        paths, weights, technique.renewed(weights, last), strict=True
    ):
        mask = ops.convert_to_numpy(technique.keeps(weight[0], weight[1] | new))
        gone, size = counts[path]
        counts[path] = gone + mask.size - int(mask.sum()), size + mask.size
    return {path: gone / size for path, (gone, size) in counts.items()}


def _initial(kept, shape):
    shape = shape if kept.shape is None else kept.shape
    return ops.convert_to_tensor(np.broadcast_to(kept.initial, shape), kept.dtype)
