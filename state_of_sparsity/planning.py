"""Plan of which layers of a model get which technique."""

from state_of_sparsity.budgets import Budget
from state_of_sparsity.layer_budgets import within
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
    """
    _check_technique(technique)
    rules = Overrides(technique, overrides or {})
    candidates = list(engine.sites(model))
    technique.check_sites(candidates)
    plan: dict[int, tuple[int, Technique]] = {}
    for index, site in enumerate(candidates):
        if site.is_sparse:
            raise ValueError(
                f"The model is sparse already, at layer {site.path!r}. "
                "Call sos.strip first."
            )
        chosen, is_named = rules.technique_for(site)
        if chosen is None:
            continue
        if is_named or chosen.applies_to(depthwise=site.depthwise):
            chosen = chosen.for_site(site)
            if chosen is not None:
                _check_shapes(chosen, site)
                plan[id(site.layer)] = (index, chosen)
    rules.check_all_used(candidates)
    if not plan:
        raise ValueError(
            f"Nothing to sparsify in model {model.name!r}: it has "
            f"{len(candidates)} layers with weights to make sparse (kernels, "
            "recurrent kernels, embeddings), and the technique and the overrides "
            "leave all of them dense."
        )
    if budget is None:
        return plan
    return within(budget, technique, candidates, plan, model.name)


def _check_shapes(technique, site):
    for attribute, variable in site.weights.items():
        shape = tuple(variable.shape)
        why = technique.refusal(shape)
        if why is not None:
            raise ValueError(
                f"{technique.technique_name()} cannot mask {site.path}/{attribute} of "
                f"shape {shape}: {why}. Give its layer another technique, or "
                "None to leave it dense, with `overrides`."
            )


def _check_technique(technique):
    if isinstance(technique, Technique):
        return
    known = ", ".join(f"sos.{cls.__name__}" for cls in TECHNIQUES.values())
    raise TypeError(f"technique must be one of {known}. Received: {technique!r}")
