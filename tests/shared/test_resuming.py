"""A model that is saved and loaded amid its schedule trains on to the bit.

With every kind of state that techniques keep beside weights; see `test_saving` for the
ways to save a model.
"""

import numpy as np
import pytest

from tests.flavour import compiled, fit, keras, sgd, sos, steps_of, to_numpy
from tests.shared import zoo

RAMP = (0.7, 2, 7, 2)
# The break is after four steps.
TECHNIQUES = {
    "a sum": sos.SaliencyPruning(*RAMP),
    "a sum that goes on": sos.MovementPruning(*RAMP),
    "blocks": sos.FisherPruning(*RAMP, block_size=5, damping=1e-2),
    "masks that change places": sos.RigL(0.6, end_step=7, frequency=2),
    "a key": sos.SET(0.6, end_step=7, frequency=2),
    "places on a ramp": sos.GraNet(0.6, end_step=7, frequency=2),
    "a threshold": sos.ST3(0.7, 2, 7),
    "a trained threshold": sos.STR(-3.0, weight_decay=0.1),
    "phases": sos.ACDC(0.7, dense_steps=2, phases=(4, 6)),
    "soft masks": sos.Spartan(0.7, end_step=5, fixed_step=7),
    "nothing": sos.SRSTE((1, 2)),
    "powers": sos.Powerpropagation(2.0, sos.MagnitudePruning(*RAMP)),
}
# The others' variables are of the same kinds.
EVERYWHERE = ("masks that change places",)
pytestmark = pytest.mark.feature(".keras files, and exact training on from them")


@pytest.fixture
def data():
    return zoo.data(np.random.default_rng(2))


def fresh(name, seed=5):
    """Another seed gives other weights."""
    keras.utils.set_random_seed(seed)
    sparse = sos.sparsify(zoo.perceptron(), TECHNIQUES[name])
    return compiled(sparse, sgd(0.1, momentum=0.9))


def state(model):
    return [to_numpy(variable).copy() for variable in model.variables]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.any_backend] * (name not in EVERYWHERE))
        for name in TECHNIQUES
    ],
)
def test_a_model_with_every_kind_of_state_trains_on_to_the_bit(name, data, tmp_path):
    model = fresh(name)
    fit(model, *data, epochs=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    before = state(loaded)
    for one, other in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(one, other)
    fit(model, *data, epochs=2)
    fit(loaded, *data, epochs=2)
    assert steps_of(loaded) == {8}
    after = state(loaded)
    for one, other in zip(after, state(model), strict=True):
        np.testing.assert_array_equal(one, other)
    assert any(np.any(a != b) for a, b in zip(before, after, strict=True))
    masks = zip(
        sos.weight_masks(loaded).values(),
        sos.weight_masks(model).values(),
        strict=True,
    )
    assert all(np.array_equal(one, other) for one, other in masks)


@pytest.mark.any_backend
@pytest.mark.parametrize("name", ["a sum", "masks that change places", "a threshold"])
def test_weights_alone_hold_every_kind_of_state(name, data, tmp_path):
    model = fresh(name)
    fit(model, *data, epochs=2)
    model.save_weights(tmp_path / "model.weights.h5")
    other = fresh(name, seed=6)
    fit(other, *data, epochs=1)
    other.load_weights(tmp_path / "model.weights.h5")
    assert steps_of(other) == {4}
    for one, two in zip(state(other), state(model), strict=True):
        np.testing.assert_array_equal(one, two)
    fit(model, *data, epochs=2)
    fit(other, *data, epochs=2)
    for one, two in zip(state(other), state(model), strict=True):
        np.testing.assert_array_equal(one, two)
