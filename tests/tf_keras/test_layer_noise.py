"""What layers of tf_keras draw: once for all steps, and by replica and layer."""

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras, tf
from state_of_sparsity.layers import tf_keras as layers
from tests.tf_keras.test_layers import TECHNIQUES


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: t.technique_name())
def test_weights_of_recurrent_layers_are_drawn_once_for_all_steps(technique, rng):
    layer = layers.LAYERS[type(technique), keras.layers.SimpleRNN](
        3, activation=None, return_sequences=True, **technique.get_config()
    )
    inputs = np.ones((2, 4, 5), "float32")
    layer(inputs)
    (extra,) = layer.held["cell.kernel"].state.values()
    extra.assign(tf.zeros_like(extra))
    # Without recurrence and its noise, equal inputs give equal outputs.
    layer.cell.recurrent_kernel.assign(tf.zeros_like(layer.cell.recurrent_kernel))
    (extra,) = layer.held["cell.recurrent_kernel"].state.values()
    extra.assign(tf.fill((3, 3), -60.0))
    drawn = layer(inputs, training=True).numpy()
    # Of the recurrent kernel, noise of the variance 1e-8 is left.
    np.testing.assert_allclose(
        drawn, np.broadcast_to(drawn[:1, :1], drawn.shape), atol=0.01
    )
    assert np.abs(drawn - layer(inputs, training=True)).max() > 0.05


def test_replicas_draw_noise_of_their_own(mirrored, rng):
    inputs = rng.normal(size=(2, 5)).astype("float32")
    with mirrored.scope():
        layer = layers.VariationalDense(3, kl_weight=0.0, initial_log_sigma2=0.0)
        layer.build(inputs.shape)

    @tf.function
    def step():
        return mirrored.run(lambda: layer(inputs, training=True))

    one, two = mirrored.experimental_local_results(step())
    assert (one.numpy() != two.numpy()).any()


def test_layers_of_a_model_have_seeds_of_their_own():
    recurrent = keras.layers.LSTM(3, return_sequences=True)
    model = keras.Sequential(
        [
            keras.layers.Dense(3, input_shape=(4, 3)),
            keras.layers.Bidirectional(recurrent),
            keras.layers.Dense(3),
        ]
    )
    sparse = sos.sparsify(model, sos.VariationalDropout(0.0))
    seeds = {int(w) for w in sparse.weights if "noise_seed" in w.name}
    assert len(seeds) == 4
    by_hand = keras.layers.Bidirectional(layers.L0LSTM(3, l0_weight=0.0))
    by_hand(tf.zeros((1, 4, 3)))
    assert len({int(w) for w in by_hand.weights if "noise_seed" in w.name}) == 2
