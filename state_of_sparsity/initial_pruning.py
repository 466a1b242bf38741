"""Masks by gradients at the initial weights: SNIP, GraSP, SynFlow."""

from collections.abc import Sequence

import keras
import numpy as np

from state_of_sparsity.weights_to_prune import Weight, going_by_name


def prune_initial(engine, model, weights: Sequence[Weight], batches, loss) -> None:
    """Masks the weights of a sparse copy, which keep their values.

    Args:
      engine: of the model.
      model: the copy, whose masks are all true.
      weights: to prune, by an `InitialPruning`.
      batches: pairs of inputs and targets; gradients are those of their mean.
      loss: of targets and outputs; None for the sum of the outputs.
    """
    technique = weights[0].technique
    dense = {weight.name: weight.value() for weight in weights}
    kept = {name: np.ones(value.shape, bool) for name, value in dense.items()}

    def gradients(values):
        for weight in weights:
            weight.assign(values[weight.name], kept[weight.name])
        sums = {name: np.zeros_like(value) for name, value in dense.items()}
        for inputs, targets in batches:
            found = engine.gradients(
                model,
                [weight.variable for weight in weights],
                inputs,
                keras.ops.sum if loss is None else _mean(loss, targets),
                training=loss is not None,
            )
            for name, gradient in zip(sums, found, strict=True):
                sums[name] += gradient / len(batches)
        return sums

    for number in range(1, technique.rounds + 1):
        values = {name: value * kept[name] for name, value in dense.items()}
        scores = technique.scores(values, gradients)
        for name, score in scores.items():
            # What went stays away, also where all others score less.
            scores[name] = np.where(kept[name], score, -np.inf)
        going = going_by_name(weights, scores, number / technique.rounds)
        kept = {w.name: w.mask(scores[w.name], going[w.name]) for w in weights}
    for weight in weights:
        weight.assign(dense[weight.name] * kept[weight.name], kept[weight.name])


def _mean(loss, targets):
    return lambda outputs: keras.ops.mean(loss(targets, outputs))
