"""One-shot pruning: a model becomes sparse without training."""

import dataclasses

import keras
import numpy as np

from state_of_sparsity.batches import batches_of
from state_of_sparsity.budgets import OWL, Budget
from state_of_sparsity.engines import engine_of
from state_of_sparsity.engines.examples import example
from state_of_sparsity.initial_pruning import prune_initial
from state_of_sparsity.planning import planned
from state_of_sparsity.pruner import Pruner
from state_of_sparsity.techniques import FixedMask, Technique
from state_of_sparsity.techniques.at_initialization import InitialPruning
from state_of_sparsity.techniques.calibrated import CalibratedTechnique
from state_of_sparsity.techniques.pruning import ScoringTechnique
from state_of_sparsity.weights_to_prune import weights_to_prune

_NEEDS_DATA = (
    "needs examples of inputs: pass data=, arrays or batches of what the model is "
    "called on."
)


def one_shot(
    model,
    technique: Technique,
    data=None,
    budget: Budget | None = None,
    overrides: dict[str, Technique | float | None] | None = None,
    *,
    loss=None,
    refit: bool = True,
    sequential: bool = True,
    batch_size: int = 32,
):
    """A sparse copy of a model, with masks that stay as they are.

    It can be trained, in which its zeros stay, stripped and exported.

    Of a trained model, weights go by magnitude or at random (`sos.MagnitudePruning`,
    `sos.RandomPruning`, whose schedule does not count), or by what the layers are given
    for some data: `sos.Wanda` and `sos.SparseGPT`, of Dense and EinsumDense layers, and
    of convolutions by what they see at each position. Embeddings, recurrent layers and
    whatever else computes in its own way go by magnitude then. Channels that the model
    ties together, of a structure of channels, have one score by the inputs of the dense
    model.

    Layers are pruned one after the other, each by inputs that come from what is pruned
    already. A functional model is run once, layer by layer, and only what its later
    layers take is kept; any other is run anew for each layer.

    Before training, `sos.SNIP` and `sos.GraSP` go by the gradients of a loss, and
    `sos.SynFlow` without data.

    Examples:
      >>> sparse = sos.one_shot(model, sos.SparseGPT(0.5), data=token_batches)
      >>> sparse = sos.one_shot(model, sos.Wanda(0.5, sparsity_m_by_n=(2, 4)), x)
      >>> sparse = sos.one_shot(untrained, sos.SNIP(0.9), (x, y), loss="mse")

    Args:
      model: a built model.
      technique: by which weights go, and its sparsity.
      data: examples: arrays in the structure of the model's inputs, or a tuple of them
        and of targets; or a dataset or a generator of batches of either. A few hundred
        examples do; of text, whole sequences without padding.
      budget: as of `sos.sparsify`; also `sos.OWL`.
      overrides: as of `sos.sparsify`.
      loss: of targets and outputs, for SNIP and GraSP: a loss of Keras, its name, or a
        function.
      refit: with data, whether weights of a trained model that stay are solved for
        anew, so that the outputs of each layer are closest to those of its dense ones.
      sequential: whether layers are given what pruned ones before them give, or what
        dense ones do.
      batch_size: of `data` that is arrays.

    Raises:
      TypeError, ValueError: as `sos.sparsify`, and for data that is missing or not
        finite.

    Warns:
      UserWarning: as `sos.sparsify`; naming layers that go by magnitude instead, those
        that had fewer inputs than it takes, and those whose damping had to be raised.
    """
    engine = engine_of(model)
    is_open = isinstance(budget, OWL) and budget.outliers is None
    first = dataclasses.replace(budget, outliers={}) if is_open else budget
    plan = planned(engine, model, technique, overrides, first)
    _check(plan, data, loss, is_open)
    fixed = {key: (index, FixedMask()) for key, (index, _) in plan.items()}
    sparse = engine.sparsify(model, fixed)

    def weights():
        sites = [site for site in engine.sites(model) if id(site.layer) in plan]
        chosen = {site.path: plan[id(site.layer)][1] for site in sites}
        return weights_to_prune(engine, sparse, chosen)

    batches = []
    if data is not None:
        batches = list(batches_of(engine, model, data, batch_size))
    if isinstance(technique, InitialPruning):
        of_targets = keras.losses.get(loss) if technique.needs_loss else None
        if not technique.needs_loss:
            batches = [(_ones(engine, model), None)]
        prune_initial(engine, sparse, weights(), batches, of_targets)
        return sparse
    pruner = Pruner(engine, sparse, [inputs for inputs, _ in batches])
    if is_open:
        outliers = pruner.outliers(budget, weights())
        budget = dataclasses.replace(budget, outliers=outliers)
        plan = planned(engine, model, technique, overrides, budget)
    pruner.prune(weights(), refit and data is not None, sequential)
    return sparse


def _ones(engine, model):
    inputs, _ = example(engine.input_specs(model))
    return keras.tree.map_structure(np.ones_like, inputs)


def _check(plan, data, loss, is_open):
    kinds = {type(t) for _, t in plan.values() if isinstance(t, InitialPruning)}
    if kinds and len({type(t) for _, t in plan.values()}) > 1:
        raise ValueError(
            f"{kinds.pop().__name__} compares all weights that are pruned: overrides "
            "can leave layers dense, or give them a sparsity, but no other technique."
        )
    if is_open and data is None:
        raise ValueError(f"OWL {_NEEDS_DATA}")
    for _, technique in plan.values():
        name = type(technique).__name__
        if isinstance(technique, CalibratedTechnique):
            if data is None:
                raise ValueError(f"{name} {_NEEDS_DATA}")
        elif isinstance(technique, InitialPruning):
            if technique.needs_loss and (data is None or loss is None):
                raise ValueError(
                    f"{name} needs a loss, and examples of inputs and targets: pass "
                    "loss= and data=(x, y), or batches of both. Received: "
                    f"loss={loss!r}, data={data!r:.80}"
                )
        elif not isinstance(technique, ScoringTechnique) or technique.has_own(
            "backward"
        ):
            raise ValueError(
                f"{name} cannot prune in one shot, since it takes training: call "
                f"sos.sparsify. Received: technique={technique!r}"
            )
