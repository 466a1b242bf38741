"""From dense to sparse and back: `sparsify` and `strip`."""

import dataclasses
import difflib
import numbers
import re
import warnings

from keras import ops

from state_of_sparsity import masks
from state_of_sparsity.budgets import Budget, Layer
from state_of_sparsity.engines import engine_of
from state_of_sparsity.engines.base import Site
from state_of_sparsity.techniques import TECHNIQUES, Technique
from state_of_sparsity.techniques.pruning import PruningTechnique, SharedThreshold
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
      budget: how sparse each layer becomes, be it planned or by one threshold for all,
        so that the sparsity of `technique` is that of the whole model: of all weights
        that could be made sparse, those that an override leaves dense or gives a
        sparsity included. Without, every layer gets the sparsity of `technique`. For
        pruning; see `state_of_sparsity.budgets`.

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

    With `sos.Global` nothing is planned: what each layer comes to depends on the scores
    at the last renewal. Here it is by the scores as they are now.

    Returns:
      By path of the layer, those that stay dense included.

    Raises:
      TypeError, ValueError: as `sparsify`, and for a technique without a target.
    """
    engine = engine_of(model)
    plan = _plan(engine, model, technique, overrides, budget)
    planned, shared = {}, []
    for site in engine.sites(model):
        index, chosen = plan.get(id(site.layer), (0, None))
        planned[site.path] = 0.0 if chosen is None else _target(chosen)
        if getattr(chosen, "shared_threshold", None) is not None:
            shared.append((site, index, chosen))
    return planned | (_sparsities_now(engine, shared) if shared else {})


def _sparsities_now(engine, shared):
    """How sparse layers that share a threshold are by the scores of their weights."""
    technique = shared[0][2]
    paths, weights = [], []
    for site, index, _ in shared:
        for position, name in enumerate(_pruned(technique, site)):
            theta = ops.cast(engine.to_numpy(site.weights[name]), "float32")
            paths.append(site.path)
            weights.append((theta, ops.ones_like(theta), (index, position)))
    units = technique.units([theta.shape for theta, _, _ in weights])
    zeros = [masks.zero_count(technique.sparsity, *number) for number in units]
    counts = dict.fromkeys(paths, (0, 0))
    for path, mask in zip(paths, technique.renewed_masks(weights, zeros), strict=True):
        mask = ops.convert_to_numpy(mask)
        gone, size = counts[path]
        counts[path] = gone + mask.size - int(mask.sum()), size + mask.size
    return {path: gone / size for path, (gone, size) in counts.items()}


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
    if budget is None:
        return plan
    return _within(budget, technique, candidates, plan, model.name)


def _within(budget, technique, sites, plan, name):
    """The plan, with the sparsities of a budget for what no override names."""
    if not isinstance(budget, Budget):
        raise TypeError(
            "budget must be one of state_of_sparsity.budgets, such as sos.ERK(). "
            f"Received: {budget!r}"
        )
    _check_ramp(technique)
    layers = list(_layers(technique, sites, plan))
    sparsities = budget.sparsities(layers, _target(technique))
    free = sum(chosen is technique for _, chosen in plan.values())
    shared = SharedThreshold(name, free) if budget.shares_threshold else None

    def budgeted(site, chosen):
        new = chosen.with_sparsity(sparsities[site.path])
        if chosen is technique and shared is not None:
            new = dataclasses.replace(new, shared_threshold=shared)
        return new

    return {
        id(site.layer): (index, budgeted(site, chosen))
        for site in sites
        if id(site.layer) in plan
        for index, chosen in [plan[id(site.layer)]]
    }


def _layers(technique, sites, plan):
    """The sites as a budget sees them."""
    for site in sites:
        chosen = plan.get(id(site.layer), (0, None))[1]
        fixed = 0.0 if chosen is None else _target(chosen)
        pruned = _pruned(chosen, site) if chosen else list(site.weights)
        shapes = {name: tuple(v.shape) for name, v in site.weights.items()}
        for name in shapes.keys() - set(pruned):
            yield Layer(f"{site.path}/{name}", (shapes[name],), 0.0)
        sparsity = None if chosen is technique else fixed
        yield Layer(site.path, tuple(shapes[n] for n in pruned), sparsity)


def _pruned(technique, site):
    """Names of the weights of a site that pruning masks."""
    if site.depthwise or technique.applies_to(depthwise=True):
        return list(site.weights)
    # Of a separable convolution, a part stays dense.
    return [name for name in site.weights if name != "depthwise_kernel"]


def _check_ramp(technique):
    if getattr(technique, "pruning_schedule", None) is not None:
        raise ValueError(
            "A budget gives layers the sparsity to which the technique's own ramp "
            "leads, and pruning_schedule is another one: give the steps of the "
            f"technique instead. Received: {technique.pruning_schedule!r}"
        )


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
