"""From dense to sparse and back: `sparsify` and `strip`."""

import warnings

from state_of_sparsity.budgets import Budget
from state_of_sparsity.comparison import check_same_outputs
from state_of_sparsity.engines import engine_of
from state_of_sparsity.planning import planned
from state_of_sparsity.progress import warn_if_unfinished
from state_of_sparsity.techniques import FixedMask, Technique
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
        that could be made sparse, or of the multiply-adds with them, those that an
        override leaves dense or gives a sparsity included. Without, every layer gets
        the sparsity of `technique`. For pruning; see `state_of_sparsity.budgets`.

    Returns:
      A model of the same kind.

    Raises:
      TypeError, ValueError: for a model, technique or override that will not do;
        the message says why and what to do.

    Warns:
      UserWarning: naming layers that stay dense, since their weights cannot be masked
        in the blocks or by the m of n that the technique has, unless an override names
        them, which then is an error; layers that are frozen and become sparse; and the
        matrices of custom layers that stay dense, since their layers do not name them
        in `get_prunable_weights()`.
    """
    engine = engine_of(model)
    plan = planned(engine, model, technique, overrides, budget)
    frozen = [
        site.path
        for site in engine.sites(model)
        if id(site.layer) in plan and not site.layer.trainable
    ]
    if frozen and not isinstance(technique, FixedMask):
        warnings.warn(
            f"These layers are frozen (trainable=False), and cannot adapt to what they "
            f"lose: {', '.join(frozen)}. Leave them dense with overrides of None, or "
            "let them train.",
            stacklevel=2,
        )
    left_out = engine.left_out(model)
    if left_out:
        warnings.warn(
            f"These weights stay dense: {', '.join(left_out)}. A custom layer names "
            "what can be made sparse of it in a method get_prunable_weights().",
            stacklevel=2,
        )
    return engine.sparsify(model, plan)


def strip(model, log_alpha_threshold: float | None = None, check_outputs: bool = True):
    """The model as it is deployed: plain layers, with the zeros in place.

    A snapshot: its variables are its own, and training the sparse model further does
    not change it. In inference it gives the outputs of the sparse model. It is not
    compiled. Models that TF-MOT pruned are stripped as well; of a model without
    sparse layers this is a copy.

    Args:
      model: the sparse model.
      log_alpha_threshold: for variational dropout, from which log alpha on a weight is
        zero, if not from the technique's threshold.
      check_outputs: whether to compare the outputs of both models on an example, where
        the inputs of the model are known.

    Raises:
      TypeError, ValueError: for something that is not a built model, a threshold that
        is not a number or that no layer of the model has a use for, or if the outputs
        differ.

    Warns:
      UserWarning: if the schedule of a technique has not ended.
    """
    engine = engine_of(model)
    warn_if_unfinished(engine, model)
    with deployed_at(model, log_alpha_threshold):
        plain = engine.strip(model)
        if check_outputs and any(site.is_sparse for site in engine.sites(model)):
            check_same_outputs(engine, model, plain)
    return plain
