"""Orbax checkpoints, and models that take no `training` argument."""

import numpy as np
import pytest

from tests.flavour import compiled, fit, keras, register, sgd, sos, to_numpy
from tests.shared import zoo

TECHNIQUES = {
    "magnitude": sos.MagnitudePruning(0.6, begin_step=1, end_step=4, frequency=1),
    "variational": sos.VariationalDropout(1e-3, ramp_begin=1, ramp_length=5),
}


def fresh(name, seed=5):
    keras.utils.set_random_seed(seed)
    sparse = sos.sparsify(zoo.perceptron(), TECHNIQUES[name])
    # Keras restores no state of the optimizer from Orbax.
    return compiled(sparse, sgd(0.05))


@pytest.mark.feature("Orbax checkpoints")
@pytest.mark.slow
def test_a_model_restored_from_orbax_trains_on_to_the_bit(rng, tmp_path):
    pytest.importorskip("orbax.checkpoint", reason="orbax-checkpoint is not installed")
    data = zoo.data(rng)
    uninterrupted = fresh("variational")
    fit(uninterrupted, *data, epochs=4)
    model = fresh("variational")
    callback = keras.callbacks.OrbaxCheckpoint(
        str(tmp_path / "orbax"), save_on_background=False
    )
    fit(model, *data, epochs=2, callbacks=[callback])
    other = fresh("variational", seed=99)
    other.load_weights(str(tmp_path / "orbax"))
    fit(other, *data, epochs=2)
    for one, two in zip(other.variables, uninterrupted.variables, strict=True):
        np.testing.assert_array_equal(to_numpy(one), to_numpy(two), one.path)


@register
class WithoutTraining(keras.Model):
    """Its `call` does not take `training`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(200, name="dense")
        self.drop = keras.layers.Dropout(0.5)

    def call(self, inputs):
        return self.drop(self.dense(inputs))


@pytest.mark.feature("subclassed models whose call does not take `training`")
@pytest.mark.any_backend
def test_layers_within_train_though_the_model_passes_no_training(rng):
    """Their Dropout wakes up, as the documentation says: `sparsify` needs to know."""
    inputs, _ = zoo.data(rng)
    model = WithoutTraining(name="without")
    model(inputs)
    sparse = compiled(sos.sparsify(model, TECHNIQUES["magnitude"]))
    fit(sparse, inputs, np.ones((len(inputs), 200)), epochs=2)
    assert int(to_numpy(sparse.dense.training_step)) == 4
    dropped = to_numpy(sparse(inputs, training=True)) == 0
    # 1,600 draws of probability 1/2: six deviations are 0.075.
    assert abs(dropped.mean() - 0.5) < 0.075
    assert not np.any(to_numpy(sparse(inputs, training=False)) == 0)
    assert type(sos.strip(sparse)) is WithoutTraining
