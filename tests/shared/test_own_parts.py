"""A criterion, a structure and a budget of one's own: a class each, in combination."""

import dataclasses

import numpy as np
import pytest
from keras import ops

from state_of_sparsity.structures import SingleWeights
from state_of_sparsity.techniques.accumulated import AccumulatingPruning
from state_of_sparsity.techniques.pruning import PruningTechnique
from tests.flavour import (
    ON_PYTORCH,
    compiled,
    fit,
    keras,
    plain_part,
    sgd,
    sos,
    sparse_layers,
    to_numpy,
)
from tests.shared import zoo
from tests.shared.reference import without_lowest


@dataclasses.dataclass(frozen=True)
class SmallestLast(PruningTechnique):
    """The largest weights go first."""

    def score(self, weight, state, stream):
        return -ops.abs(weight)


@dataclasses.dataclass(frozen=True)
class SteepestLast(AccumulatingPruning):
    """Weights stay where the gradients of all examples add up."""

    def added(self, statistic, theta, weight, gradient):
        return statistic + gradient

    def score(self, weight, state, stream):
        return ops.abs(state["statistic"])


@dataclasses.dataclass(frozen=True)
class Rows(SingleWeights):
    """What an input is multiplied with is masked as a whole."""

    def units(self, shape):
        return shape[0]

    def unit_scores(self, scores):
        return ops.sum(scores, axis=tuple(range(1, len(scores.shape))))

    def mask(self, scores, zeros):
        kept = super().mask(self.unit_scores(scores), zeros)
        kept = ops.reshape(kept, (-1, *[1] * (len(scores.shape) - 1)))
        return ops.broadcast_to(kept, scores.shape)


class Halving(sos.Budget):
    """Each layer half as dense as the one before it."""

    def __init__(self, *names):
        self._names = names

    def relative_density(self, layer):
        return 0.5 ** self._names.index(layer.path)


pytestmark = ON_PYTORCH
BUDGET = Halving("hidden", "logits")
# Of 6 rows 2 go, and of 8 rows 5: densities of 2/3 and 1/3, and of 5/9 in all.
RAMP = (4 / 9, 3, 3, 1)


def sparse_with(technique, budget=BUDGET):
    sparse = sos.sparsify(zoo.perceptron(), technique, budget=budget)
    return compiled(sparse, sgd(0.05, momentum=0.9))


def rows_of(scores, zeros):
    kept = without_lowest(scores.sum(axis=1), zeros)
    return np.broadcast_to(kept[:, None] != 0, scores.shape)


def test_the_three_work_together(rng):
    sparse = sparse_with(SmallestLast(*RAMP, structure=Rows()))
    planned = sos.planned_sparsities(
        zoo.perceptron(), SmallestLast(*RAMP, structure=Rows()), budget=BUDGET
    )
    assert planned["hidden"] == pytest.approx(1 / 3, abs=0.02)
    assert planned["logits"] == pytest.approx(2 / 3, abs=0.02)
    data = zoo.data(rng)
    fit(sparse, *data, batch_size=4)
    kernels = [to_numpy(plain_part(x).kernel).copy() for x in sparse_layers(sparse)]
    fit(sparse, *data, batch_size=8)
    masks = sos.weight_masks(sparse).values()
    for mask, kernel, zeros in zip(masks, kernels, (2, 5), strict=True):
        np.testing.assert_array_equal(mask, rows_of(-np.abs(kernel), zeros))


def test_a_criterion_of_gradients_works_with_them_and_is_saved(rng, tmp_path):
    sparse = sparse_with(SteepestLast(*RAMP, structure=Rows()))
    data = zoo.data(rng)
    fit(sparse, *data, batch_size=4)
    sparse.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    sums = [to_numpy(x.statistic).copy() for x in sparse_layers(loaded)]
    fit(loaded, *data, batch_size=8)
    masks = sos.weight_masks(loaded).values()
    for mask, gradients, zeros in zip(masks, sums, (2, 5), strict=True):
        assert np.abs(gradients).min() > 0.0
        np.testing.assert_array_equal(mask, rows_of(np.abs(gradients), zeros))


def test_one_threshold_over_structures_of_ones_own(rng):
    sparse = sparse_with(SmallestLast(0.5, 1, 1, 1, structure=Rows()), sos.Global())
    fit(sparse, *zoo.data(rng), batch_size=8)
    hidden, logits = sos.weight_masks(sparse).values()
    assert (hidden == hidden[:, :1]).all()
    assert (logits == logits[:, :1]).all()
    assert (~hidden[:, 0]).sum() + (~logits[:, 0]).sum() == 7


@dataclasses.dataclass(frozen=True)
class Priced(SmallestLast):
    """Weights cost their magnitudes, and nothing beside them is trained."""

    def penalty(self, theta, state):
        return 0.25 * ops.sum(ops.abs(theta))


def test_a_penalty_needs_no_parameter_and_joins_a_regularizer():
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.5)),
            layers.Dense(2),
        ]
    )
    kernels = [to_numpy(layer.kernel) for layer in model.layers]
    sparse = sos.sparsify(model, Priced(0.5, 5, 10, 5))
    losses = sum(float(to_numpy(loss)) for loss in sparse.losses)
    priced = sum(0.25 * np.abs(kernel).sum() for kernel in kernels)
    np.testing.assert_allclose(losses, priced + 0.5 * (kernels[0] ** 2).sum(), 1e-5)
