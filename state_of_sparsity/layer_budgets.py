"""Budgets, applied to the layers of a model."""

from state_of_sparsity.budgets import Budget, Layer
from state_of_sparsity.techniques import Technique
from state_of_sparsity.techniques.shared_threshold import SharedThreshold


def within(
    budget: Budget, technique: Technique, sites, plan, free: set[int], name: str
) -> dict:
    """A plan with the sparsities of a budget for what no override names.

    Args:
      budget: how sparse each layer becomes.
      technique: with the sparsity of the whole model.
      sites: of the model.
      plan: as of `planning.planned`.
      free: by `id`, the layers of the plan that no override names.
      name: of the model.
    """
    if not isinstance(budget, Budget):
        raise TypeError(
            "budget must be one of state_of_sparsity.budgets, such as sos.ERK(). "
            f"Received: {budget!r}"
        )
    layers = list(_layers(sites, plan, free))
    sparsities = budget.sparsities(layers, target_of(technique))
    shared = None
    if budget.shares_threshold:
        if len({plan[key][1] for key in free}) > 1:
            raise ValueError(
                "One threshold compares units on the same axes of all kernels, and in "
                f"model {name!r} they are on several. Leave some layers dense with "
                "overrides of None, or give a budget that plans them, as sos.ERK does."
            )
        shared = SharedThreshold(name, len(free))

    def budgeted(site, chosen):
        new = chosen.with_sparsity(sparsities[site.path])
        if id(site.layer) in free and shared is not None:
            new = new.sharing(shared)
        return new

    return {
        id(site.layer): (index, budgeted(site, chosen))
        for site in sites
        if id(site.layer) in plan
        for index, chosen in [plan[id(site.layer)]]
    }


def _layers(sites, plan, free):
    """The sites as a budget sees them."""
    for site in sites:
        chosen = plan.get(id(site.layer), (0, None))[1]
        fixed = 0.0
        is_free = id(site.layer) in free
        if chosen is not None and not is_free:
            fixed = _target_of_override(site, chosen)
        masked = pruned(chosen, site) if chosen else list(site.weights)
        shapes = {name: tuple(v.shape) for name, v in site.weights.items()}
        for name in shapes.keys() - set(masked):
            yield Layer(f"{site.path}/{name}", (shapes[name],), 0.0)
        sparsity = None if is_free else fixed
        yield Layer(site.path, tuple(shapes[n] for n in masked), sparsity)


def pruned(technique, site):
    """Names of the weights of a site that pruning masks."""
    if site.depthwise or technique.applies_to(depthwise=True):
        return list(site.weights)
    # Of a separable convolution, a part stays dense.
    return [name for name in site.weights if name != "depthwise_kernel"]


def _target_of_override(site, technique):
    try:
        return target_of(technique)
    except ValueError as error:
        raise ValueError(
            f"Layer {site.path!r} has a technique without a target sparsity, of which "
            "neither a budget nor one threshold for the model can take account: give "
            "the others sos.Uniform(), or this one a target. Received: "
            f"{technique.technique_name()}"
        ) from error


def target_of(technique: Technique) -> float:
    """The sparsity that a technique leads to; ValueError if it has none."""
    if getattr(technique, "sparsity", None) is None:
        raise ValueError(
            "A budget is for techniques with a target sparsity. Received: "
            f"{technique.technique_name()}"
        )
    return technique.sparsity
