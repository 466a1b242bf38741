"""From dense to sparse and back: `sparsify` and `strip`."""

import difflib
import functools
import numbers
import re

from state_of_sparsity.backend import (
    PruneLowMagnitude,
    keras,
    raw_variable,
    tf,
)
from state_of_sparsity.checks import check_model
from state_of_sparsity.containers import (
    SparseContainer,
    container_class,
    is_container_of,
)
from state_of_sparsity.copying import converted
from state_of_sparsity.techniques import TECHNIQUES, Technique
from state_of_sparsity.thresholds import deployed_at
from state_of_sparsity.weights import (
    LayerSite,
    deployed_weights,
    is_sparse,
    sites,
    weight_variable,
)


def sparsify(
    model: keras.Model,
    technique: Technique,
    overrides: dict[str, Technique | float | None] | None = None,
) -> keras.Model:
    """A copy of a model that becomes sparse as it trains.

    Works on Sequential, functional and subclassed models, on models inside of
    models, and on custom layers that hold other layers. The copy starts from the
    weights of the model, which stays as it is. The copy is not compiled, even if the
    model was: optimizers hold state for the variables that they were built with.

    Example:
      >>> technique = sos.MagnitudePruning(
      ...     sparsity=0.9, begin_step=0, end_step=500, frequency=50
      ... )
      >>> sparse = sos.sparsify(model, technique, overrides={"logits": 0.8})
      >>> sparse.compile("adam", "sparse_categorical_crossentropy")
      >>> sparse.fit(x, y, callbacks=sos.callbacks(sparse))

    Args:
      model: a built `tf_keras` model.
      technique: applied to every layer that has weights to make sparse: kernels,
        recurrent kernels and embeddings.
      overrides: for some layers something else. Keys are regular expressions that
        match the whole of a layer's name or of its path (names of the layers around
        it and its own, joined by slashes); the first that matches counts. Values
        are a technique, a sparsity for `technique`, or None to leave the layer
        dense.

    Returns:
      A model of the same kind.

    Raises:
      TypeError, ValueError: for a model, technique or override that will not do;
        the message says why and what to do.
    """
    check_model(model)
    _check_technique(technique)
    rules = _Overrides(technique, overrides or {})
    plan: dict[int, tuple[int, Technique]] = {}
    candidates = list(sites(model))
    for index, site in enumerate(candidates):
        if site.is_sparse:
            raise ValueError(
                f"The model is sparse already, at layer {site.path!r}. "
                "Call sos.strip first."
            )
        chosen = rules.technique_for(site)
        if chosen is not None and chosen.applies_to(site.layer):
            plan[id(site.layer)] = (index, chosen)
    rules.check_all_used(candidates)
    if not plan:
        raise ValueError(
            f"Nothing to sparsify in model {model.name!r}: it has "
            f"{len(candidates)} layers with weights to make sparse (kernels, "
            "recurrent kernels, embeddings), and the technique and the overrides "
            "leave all of them dense."
        )
    for used in {id(chosen): chosen for _, chosen in plan.values()}.values():
        used.prepare(model)

    replaced = set()

    def replace(layer, path, copy):
        del path
        if id(layer) in plan:
            index, chosen = plan[id(layer)]
            replaced.add(id(layer))
            return chosen.sparse_layer(layer, copy, index)
        if is_container_of(layer, lambda inner: id(inner) in plan):
            return copy(layer, container_class(type(layer)))
        return None

    with _scope_of(model):
        sparse = converted(model, replace)
    missed = [s.path for s in candidates if id(s.layer) in plan.keys() - replaced]
    if missed:
        raise ValueError(
            f"These layers cannot be replaced where model {model.name!r} holds them: "
            f"{missed}. Hold layers in attributes, lists, tuples or dictionaries, or "
            "leave them dense with an override of None."
        )
    return sparse


def strip(model: keras.Model, log_alpha_threshold: float | None = None) -> keras.Model:
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
      TypeError, ValueError: for something that is not a built `tf_keras` model, or a
        threshold that is not a number or that no layer of the model has a use for.
    """
    check_model(model)

    def replace(layer, path, copy):
        del path
        if is_sparse(layer):
            return plain_layer(layer, copy)
        if isinstance(layer, SparseContainer):
            return copy(layer, layer.plain_class, ("restoration",))
        return None

    with deployed_at(model, log_alpha_threshold), _scope_of(model):
        return converted(model, replace)


@functools.singledispatch
def plain_layer(layer, copy) -> keras.layers.Layer:
    """A dense copy of a sparse layer with its deployed weights.

    Args:
      layer: the sparse layer.
      copy: `copy(layer, cls=None, without=())` copies a layer, as another class if
        given, without the attributes named.
    """
    del copy
    raise TypeError(f"Not a sparse layer: {layer!r}")


@plain_layer.register
def _(layer: PruneLowMagnitude, copy):
    plain = copy(layer.layer)
    for weight in deployed_weights(layer):
        raw_variable(weight_variable(plain, weight.attribute)).assign(weight.value)
    if hasattr(layer, "_batch_input_shape"):
        # A Sequential model takes its input shape from its first layer.
        plain._batch_input_shape = layer._batch_input_shape
    return plain


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

    def technique_for(self, site: LayerSite):
        chosen, found = self._technique, False
        for expression, technique in self._rules:
            if expression.fullmatch(site.layer.name) or expression.fullmatch(site.path):
                self._matched.add(expression.pattern)
                if not found:
                    chosen, found = technique, True
        return chosen

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


def _scope_of(model):
    """The scope in which to make the variables of a copy of the model."""
    if tf.distribute.has_strategy():
        return tf.distribute.get_strategy().scope()
    return model.distribute_strategy.scope()
