"""From dense to sparse and back: `sparsify` and `strip`."""

import difflib
import numbers
import re
import warnings

from state_of_sparsity.budgets import Budget, Layer
from state_of_sparsity.engines import engine_of
from state_of_sparsity.engines.base import Site
from state_of_sparsity.techniques import TECHNIQUES, Technique
from state_of_sparsity.techniques.pruning import PruningTechnique
from state_of_sparsity.thresholds import deployed_at


def sparsify(
    model,
    technique: Technique,
    overrides: dict[str, Technique | float | None] | None = None,
    budget: Budget | None = None,
):
    """A copy of a model that becomes sparse as it trains.

    Works on Sequential, functional and subclassed models of Keras 3 (on TensorFlow,
    JAX and PyTorch) and of `tf_keras`, on models inside of models, and on custom layers
    that hold other layers. The copy starts from the weights of the model, which stays
    as it is. The copy is not compiled, even if the model was: optimizers hold state for
    the variables that they were built with.

    Examples:
      >>> technique = sos.MagnitudePruning(
      ...     sparsity=0.9, begin_step=0, end_step=500, frequency=50
      ... )
      >>> sparse = sos.sparsify(model, technique, overrides={"logits": 0.8})
      >>> sparse.compile("adam", "sparse_categorical_crossentropy")
      >>> sparse.fit(x, y, callbacks=sos.callbacks(sparse))

    Args:
      model: a built `keras` or `tf_keras` model.
      technique: applied to every layer that has weights to make sparse: kernels,
        recurrent kernels and embeddings. Pruning leaves the kernels of depthwise
        convolutions dense, unless an override names their layer.
      overrides: for some layers something else. Keys are regular expressions that
        match the whole of a layer's name or of its path (names of the layers around
        it and its own, joined by slashes); the first that matches counts. Values
        are a technique, a sparsity for `technique`, or None to leave the layer
        dense.
      budget: how sparse each layer becomes, so that the sparsity of `technique` is that
        of the whole model: of all weights that could be made sparse, those that an
        override leaves dense or gives a sparsity included. Without, every layer gets
        the sparsity of `technique`. For pruning; see `state_of_sparsity.budgets`.

    Returns:
      A model of the same kind.

    Raises:
      TypeError, ValueError: for a model, technique or override that will not do;
        the message says why and what to do.

    Warns:
      UserWarning: naming the matrices of custom layers that stay dense, since their
        layers do not name them in `get_prunable_weights()`.
    """
    engine = engine_of(model)
    plan = _plan(engine, model, technique, overrides, budget)
    for used in {id(chosen): chosen for _, chosen in plan.values()}.values():
        engine.check_technique(used, model)
    left_out = engine.left_out(model)
    if left_out:
        warnings.warn(
            f"These weights stay dense: {', '.join(left_out)}. A custom layer names "
            "what can be made sparse of it in a method get_prunable_weights().",
            stacklevel=2,
        )
    return engine.sparsify(model, plan)


def planned_sparsities(
    model, technique: Technique, overrides=None, budget: Budget | None = None
) -> dict[str, float]:
    """How sparse pruning with these arguments of `sparsify` will make each layer.

    Returns:
      By path of the layer, those that stay dense included.

    Raises:
      TypeError, ValueError: as `sparsify`, and for a technique without a target.
    """
    engine = engine_of(model)
    plan = _plan(engine, model, technique, overrides, budget)
    return {
        site.path: _target(plan[id(site.layer)][1]) if id(site.layer) in plan else 0.0
        for site in engine.sites(model)
    }


def _plan(engine, model, technique, overrides, budget):
    """By the `id` of a layer, its index among the sites and its technique."""
    _check_technique(technique)
    rules = _Overrides(technique, overrides or {})
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
        if chosen is None or not engine.allows(chosen, site.layer):
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
    return plan if budget is None else _within(budget, technique, candidates, plan)


def _within(budget, technique, sites, plan):
    """The plan, with the sparsities of a budget for what no override names."""
    if not isinstance(budget, Budget):
        raise TypeError(
            "budget must be one of state_of_sparsity.budgets, such as sos.ERK(). "
            f"Received: {budget!r}"
        )
    layers = []
    for site in sites:
        chosen = plan.get(id(site.layer), (0, None))[1]
        fixed = 0.0 if chosen is None else _target(chosen)
        shapes, left = site.shapes(), f"{site.path}/depthwise_kernel"
        if chosen and not site.depthwise and not chosen.applies_to(depthwise=True):
            # Of a separable convolution, a part stays dense.
            dense = [Layer(left, (shapes.pop(left),), 0.0)] if left in shapes else []
            layers += dense
        sparsity = None if chosen is technique else fixed
        layers.append(Layer(site.path, tuple(shapes.values()), sparsity))
    sparsities = budget.sparsities(layers, _target(technique))
    return {
        id(site.layer): (index, chosen.with_sparsity(sparsities[site.path]))
        for site in sites
        if id(site.layer) in plan
        for index, chosen in [plan[id(site.layer)]]
    }


def _target(technique):
    if not isinstance(technique, PruningTechnique):
        raise ValueError(
            "A budget is for pruning, which has a target sparsity. Received: "
            f"{technique.technique_name()}"
        )
    return technique.sparsity


def strip(model, log_alpha_threshold: float | None = None):
    """The model as it is deployed: plain layers, with the zeros in place.

    A snapshot: its variables are its own, and training the sparse model further does
    not change it. In inference it gives the outputs of the sparse model. It is not
    compiled. Models that TF-MOT pruned are stripped as well; of a model without
    sparse layers this is a copy.

    Args:
      model: the sparse model.
      log_alpha_threshold: for variational dropout, from which log alpha on a weight is
        zero, if not from the technique's threshold.

    Raises:
      TypeError, ValueError: for something that is not a built model, or a threshold
        that is not a number or that no layer of the model has a use for.
    """
    engine = engine_of(model)
    with deployed_at(model, log_alpha_threshold):
        return engine.strip(model)


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


class _Overrides:
    """The technique for each layer, from `overrides`."""

    def __init__(self, technique, overrides):
        self._technique = technique
        self._rules = []
        self._matched = set()
        if not isinstance(overrides, dict):
            raise TypeError(
                "overrides must be a dictionary of regular expressions on layer "
                f"names. Received: {overrides!r}"
            )
        for pattern, value in overrides.items():
            try:
                expression = re.compile(pattern)
            except (re.error, TypeError) as error:
                raise ValueError(
                    f"An override is not a regular expression ({error}). "
                    f"Received: {pattern!r}"
                ) from error
            self._rules.append((expression, self._resolve(pattern, value)))

    def _resolve(self, pattern, value):
        if value is None or isinstance(value, Technique):
            return value
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            try:
                return self._technique.with_sparsity(float(value))
            except ValueError as error:
                raise ValueError(f"In the override {pattern!r}: {error}") from error
        raise TypeError(
            f"The override {pattern!r} must be a technique, a sparsity, or None to "
            f"leave the layer dense. Received: {value!r}"
        )

    def technique_for(self, site: Site) -> tuple[Technique | None, bool]:
        """The technique, or None for dense, and whether an override says so."""
        chosen, found = self._technique, False
        for expression, technique in self._rules:
            if expression.fullmatch(site.name) or expression.fullmatch(site.path):
                self._matched.add(expression.pattern)
                if not found:
                    chosen, found = technique, True
        return chosen, found

    def check_all_used(self, candidates):
        names = [site.path for site in candidates]
        for expression, _ in self._rules:
            if expression.pattern in self._matched:
                continue
            near = difflib.get_close_matches(expression.pattern, names, n=5, cutoff=0.3)
            raise ValueError(
                "An override matches no layer that could be made sparse. "
                f"Received: {expression.pattern!r}. Near matches: "
                f"{near or names[:5]}, of {len(names)} such layers in the model."
            )


def _check_technique(technique):
    if isinstance(technique, Technique):
        return
    known = ", ".join(f"sos.{cls.__name__}" for cls in TECHNIQUES.values())
    raise TypeError(f"technique must be one of {known}. Received: {technique!r}")
