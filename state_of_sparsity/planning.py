"""Plan of which layers of a model get which technique."""

import warnings

from state_of_sparsity.budgets import Budget, Global
from state_of_sparsity.coupling import Ties
from state_of_sparsity.layer_budgets import pruned, within
from state_of_sparsity.overrides import Overrides
from state_of_sparsity.techniques import TECHNIQUES, Technique


def planned(
    engine, model, technique: Technique, overrides, budget: Budget | None
) -> dict[int, tuple[int, Technique]]:
    """The plan for a model; the arguments are those of `sos.sparsify`.

    Returns:
      By the `id` of a layer, its index among the sites of the model and its technique.

    Raises:
      TypeError, ValueError: as `sos.sparsify`.

    Warns:
      UserWarning: likewise, of layers that cannot have the pattern of a technique.
    """
    _check_technique(technique)
    rules = Overrides(technique, overrides or {})
    candidates = list(engine.sites(model))
    technique.check_sites(candidates)
    plan: dict[int, tuple[int, Technique]] = {}
    unfit: list[str] = []
    free: set[int] = set()
    for index, site in enumerate(candidates):
        if site.is_sparse:
            raise ValueError(
                f"The model is sparse already, at layer {site.path!r}. "
                "Call sos.strip first."
            )
        chosen, is_named = rules.technique_for(site)
        # For a site, it may become another one.
        is_free = chosen is technique
        if chosen is None:
            continue
        if is_named or chosen.applies_to(depthwise=site.depthwise):
            chosen = chosen.for_site(site)
            refusals = [] if chosen is None else _refusals(chosen, site)
            if refusals and is_named:
                raise ValueError(
                    f"{refusals[0]}. Give its layer another technique, or None to "
                    "leave it dense, with `overrides`."
                )
            unfit += refusals
            if chosen is not None and not refusals:
                plan[id(site.layer)] = (index, chosen)
                if is_free:
                    free.add(id(site.layer))
    rules.check_all_used(candidates)
    if not plan:
        raise ValueError(
            f"Nothing to sparsify in model {model.name!r}: it has "
            f"{len(candidates)} layers with weights to make sparse (kernels, "
            "recurrent kernels, embeddings), and the technique and the overrides "
            f"leave all of them dense. {'; '.join(unfit)}"
        )
    if unfit:
        # Of the function that the user calls.
        warnings.warn(f"Layers stay dense: {'; '.join(unfit)}", stacklevel=3)
    ties = Ties(engine, model, candidates, plan)
    if budget is None:
        if not getattr(technique, "is_global", False):
            return ties.coupled(plan, ties.groups(plan, free))
        budget = Global()
    return within(budget, technique, candidates, plan, free, model, ties)


def _refusals(technique, site):
    """Why a technique cannot mask weights of a site, of those that it would."""
    name, masked = technique.technique_name(), pruned(technique, site)
    shapes = {attribute: tuple(site.weights[attribute].shape) for attribute in masked}
    return [
        f"{name} cannot mask {site.path}/{attribute} of shape {shape}: {why}"
        for attribute, shape in shapes.items()
        if (why := technique.refusal(shape)) is not None
    ]


def _check_technique(technique):
    if isinstance(technique, Technique):
        return
    known = ", ".join(f"sos.{cls.__name__}" for cls in TECHNIQUES.values())
    raise TypeError(f"technique must be one of {known}. Received: {technique!r}")
