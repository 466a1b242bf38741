"""Budgets, applied to the layers of a model."""

import math

from state_of_sparsity.budgets import Budget, Layer
from state_of_sparsity.companions import SharedThreshold
from state_of_sparsity.flops import count_flops
from state_of_sparsity.techniques import Technique


def within(
    budget: Budget, technique: Technique, sites, plan, free: set[int], model, ties
) -> dict:
    """A plan with the sparsities of a budget for what no override names.

    Args:
      budget: how sparse each layer becomes.
      technique: with the sparsity of the whole model.
      sites: of the model.
      plan: as of `planning.planned`.
      free: by `id`, the layers of the plan that no override names.
      model: that has the sites.
      ties: of its channels; see `coupling`.
    """
    if not isinstance(budget, Budget):
        raise TypeError(
            "budget must be one of state_of_sparsity.budgets, such as sos.ERK(). "
            f"Received: {budget!r}"
        )
    uses = _uses(budget, model, sites)
    # What is only looked up has no operations to save.
    idle = free & {id(x.layer) for x in sites if not any(uses[x.path].values())}
    if idle and idle == free:
        raise ValueError(
            f"{budget} has nothing to distribute: the layers without an override, of "
            f"model {model.name!r}, take part in no multiply-adds."
        )
    plan = {key: chosen for key, chosen in plan.items() if key not in idle}
    free = free - idle
    groups = ties.groups(plan, free)
    layers = list(_layers(sites, plan, free, uses))
    sparsities, shared = budget.sparsities(layers, target_of(technique)), None
    if budget.shares_threshold:
        of_all = [site for site in sites if id(site.layer) in free]
        groups = _one_of_free(groups, of_all)
        if of_all not in groups and len({plan[key][1] for key in free}) > 1:
            raise ValueError(
                "One threshold compares units on the same axes of all kernels, and in "
                f"model {model.name!r} they are on several. Leave some layers dense "
                "with overrides of None, or give a budget that plans them, as sos.ERK "
                "does."
            )
        each = [
            uses[x.path][n] for x in of_all for n in pruned(plan[id(x.layer)][1], x)
        ]
        by_use = tuple(each) if budget.of == "flops" else ()
        shared = SharedThreshold(model.name, len(free), by_use)
    else:
        sparsities |= _means(groups, layers, sparsities)

    def budgeted(site, chosen):
        new = chosen.with_sparsity(sparsities[site.path])
        if id(site.layer) in free and shared is not None:
            new = new.sharing(shared)
        return new

    plan = {
        id(site.layer): (index, budgeted(site, chosen))
        for site in sites
        if id(site.layer) in plan
        for index, chosen in [plan[id(site.layer)]]
    }
    return ties.coupled(plan, groups)


def _one_of_free(groups, free):
    """Groups of sites, in which those without an override are one, if any were."""
    named = [group for group in groups if group[0] not in free]
    return [*named, free] if len(named) < len(groups) else groups


def _means(groups, layers, sparsities):
    """One sparsity for each group of sites, as one decision is."""
    costs, means = {layer.path: layer.cost for layer in layers}, {}
    for group in groups:
        paths = [site.path for site in group]
        zeros = sum(sparsities[path] * costs[path] for path in paths)
        means |= dict.fromkeys(paths, zeros / sum(costs[path] for path in paths))
    return means


def _uses(budget, model, sites):
    """What each element of a weight counts, by path of its layer and attribute."""
    if budget.of == "weights":
        return {site.path: dict.fromkeys(site.weights, 1) for site in sites}
    try:
        counted = count_flops(model).layers
    except ValueError as error:
        raise ValueError(
            f"{budget} takes the operations of each layer, and those of model "
            f"{model.name!r} cannot be counted: {error}"
        ) from error
    return {
        site.path: {
            name: counted[f"{site.path}/{name}"].dense // (2 * math.prod(v.shape))
            for name, v in site.weights.items()
        }
        for site in sites
    }


def _layers(sites, plan, free, uses):
    """The sites as a budget sees them."""

    def layer(path, site, names, sparsity):
        shapes = tuple(tuple(site.weights[name].shape) for name in names)
        return Layer(path, shapes, sparsity, tuple(uses[site.path][n] for n in names))

    for site in sites:
        chosen = plan.get(id(site.layer), (0, None))[1]
        fixed = 0.0
        is_free = id(site.layer) in free
        if chosen is not None and not is_free:
            fixed = _target_of_override(site, chosen)
        masked = pruned(chosen, site) if chosen else list(site.weights)
        for name in site.weights.keys() - set(masked):
            yield layer(f"{site.path}/{name}", site, [name], 0.0)
        yield layer(site.path, site, masked, None if is_free else fixed)


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
