"""What layers of the reparameterization family draw: moments, gates, and how often."""

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras, tf
from state_of_sparsity.engines.tf_keras.weights import weight_variable
from state_of_sparsity.layers import tf_keras as layers
from tests.tf_keras.layer_kinds import (
    EVERY_KIND,
    TECHNIQUES,
    compiled,
    make_inputs,
    make_layer,
)

DRAWS = 6000


def distribution(layer, weight):
    """Mean and variance of a weight in training, in NumPy's float64."""
    theta = weight_variable(layer, weight).numpy().astype("float64")
    log_theta2 = np.log(theta**2 + 1e-8)
    log_alpha = getattr(layer, layer.extra_name(weight)).numpy() - log_theta2
    return theta, np.exp(np.clip(log_alpha, -8, 8) + log_theta2)


def check_moments(drawn, mean, variance):
    """Mean and variance of normal draws, within six standard deviations of each.

    With at most 100 outputs and two statistics, false alarms are below 1e-6. The
    bounds are narrower than five standard deviations of 4,000 draws.
    """
    bound = 6 * np.sqrt(variance / DRAWS) + 1e-5
    assert (np.abs(drawn.mean(axis=0) - mean) < bound).all()
    bound = 6 * variance * np.sqrt(2 / (DRAWS - 1)) + 1e-5
    assert (np.abs(drawn.var(axis=0, ddof=1) - variance) < bound).all()


# For one step from a state h, with linear activations and gates that are constant,
# outputs are affine in the weights: a + b x W + c h U, in these columns of the kernels.
@pytest.mark.parametrize(
    ("cls", "gate", "affine", "columns"),
    [
        (keras.layers.SimpleRNN, None, (0.0, 1.0, 1.0), slice(0, 3)),
        # The input gate, the forget gate and the output gate are open.
        (keras.layers.LSTM, 1.0, (0.0, 1.0, 1.0), slice(6, 9)),
        # h / 2 + (x W + (h U) / 2) / 2
        (keras.layers.GRU, 0.5, (0.5, 0.5, 0.25), slice(6, 9)),
    ],
)
def test_outputs_of_recurrent_variational_layers_have_the_analytic_moments(
    cls, gate, affine, columns, rng
):
    gates = {}
    if gate is not None:
        gates["recurrent_activation"] = lambda x: tf.fill(tf.shape(x), gate)
    layer = layers.LAYERS[sos.VariationalDropout, cls](
        3, kl_weight=0.0, activation=None, use_bias=False, unroll=True, **gates
    )
    x = rng.normal(size=(1, 1, 2)).astype("float32")
    h = rng.normal(size=(1, 3)).astype("float32")
    state = [tf.constant(h)]
    if cls is keras.layers.LSTM:
        state.append(tf.zeros_like(h))
    layer(x, initial_state=state)
    distributions = []
    for weight in layer.sparse_weights:
        theta = weight_variable(layer, weight)
        theta.assign(rng.normal(size=theta.shape))
        extra = getattr(layer, layer.extra_name(weight))
        extra.assign(rng.normal(0, 3, size=extra.shape))
        distributions.append([d[:, columns] for d in distribution(layer, weight)])
    (w, w_variance), (u, u_variance) = distributions
    a, b, c = affine
    mean = a * h + b * x[:, 0] @ w + c * h @ u
    # The variance of a weight is never below 1e-8.
    variance = b**2 * x[:, 0] ** 2 @ (w_variance + 1e-8)
    variance += c**2 * h**2 @ (u_variance + 1e-8)

    @tf.function
    def draw():
        return tf.map_fn(
            lambda _: layer(x, training=True, initial_state=state)[0],
            tf.range(DRAWS),
            fn_output_signature=tf.float32,
        )

    check_moments(draw().numpy().astype("float64"), mean[0], variance[0])


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: t.technique_name())
def test_weights_of_recurrent_layers_are_drawn_once_for_all_steps(technique, rng):
    layer = layers.LAYERS[type(technique), keras.layers.SimpleRNN](
        3, activation=None, return_sequences=True, **technique.get_config()
    )
    inputs = np.ones((2, 4, 5), "float32")
    layer(inputs)
    extra = getattr(layer, technique.extra_name)
    extra.assign(tf.zeros_like(extra))
    # Without recurrence and its noise, equal inputs give equal outputs.
    layer.cell.recurrent_kernel.assign(tf.zeros_like(layer.cell.recurrent_kernel))
    name = layer.extra_name("cell.recurrent_kernel")
    getattr(layer, name).assign(tf.fill((3, 3), -60.0))
    drawn = layer(inputs, training=True).numpy()
    # Of the recurrent kernel, noise of the variance 1e-8 is left.
    np.testing.assert_allclose(
        drawn, np.broadcast_to(drawn[:1, :1], drawn.shape), atol=0.01
    )
    assert np.abs(drawn - layer(inputs, training=True)).max() > 0.05


@pytest.mark.parametrize("kind", ["dense", "conv2d", "embedding", "lstm", "separable"])
def test_l0_layers_draw_a_gate_per_weight_that_the_batch_shares(kind, rng):
    layer, _plain = make_layer(kind, sos.L0Regularization(0.0), rng)
    for weight in layer.sparse_weights:
        extra = getattr(layer, layer.extra_name(weight))
        extra.assign(tf.zeros_like(extra))
    inputs = make_inputs(kind, rng, batch=1)
    twice = np.repeat(inputs, 2, axis=0)
    draw = compiled(kind, layer, training=True)
    first, second = draw(twice).numpy()
    if EVERY_KIND[kind].takes_ids:
        # A gate per row that is looked up.
        assert not np.array_equal(first, second)
    else:
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)
    other = draw(twice).numpy()[0]
    assert not np.allclose(first, other)


@pytest.mark.parametrize("log_sigma2", [-50.0, 50.0])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda **kwargs: layers.VariationalDense(3, **kwargs), (5,)),
        (lambda **kwargs: layers.VariationalConv1D(3, 2, **kwargs), (4, 5)),
        (lambda **kwargs: layers.VariationalSeparableConv2D(2, 2, **kwargs), (4, 4, 2)),
    ],
    ids=["dense", "convolution", "separable"],
)
def test_half_precision_outputs_and_slopes_stay_finite(layer, shape, log_sigma2):
    layer = layer(kl_weight=0.0, dtype="mixed_float16")
    # Squares that float16 cannot hold, and an example of zeros, where the root of the
    # variance is steepest.
    # The second map of a separable convolution takes the noise of the first one.
    largest = 30.0 if len(layer.sparse_weights) == 2 else 3000.0
    sizes = tf.reshape([0.0, 1.0, largest], (3, *[1] * len(shape)))
    inputs = tf.Variable(sizes * tf.ones((3, *shape)))
    layer(inputs)
    for weight in layer.sparse_weights:
        extra = getattr(layer, layer.extra_name(weight))
        extra.assign(tf.fill(extra.shape, log_sigma2))
    with tf.GradientTape() as tape:
        outputs = layer(inputs, training=True)
        loss = tf.reduce_mean(tf.cast(outputs, tf.float32))
    assert outputs.dtype == tf.float16
    assert np.isfinite(outputs).all()
    for slope in tape.gradient(loss, [inputs, *layer.trainable_weights]):
        assert np.isfinite(slope).all()


def test_replicas_draw_noise_of_their_own(rng):
    strategy = tf.distribute.MirroredStrategy(tf.config.list_logical_devices("CPU"))
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        layer, _ = make_layer("dense", sos.VariationalDropout(0.0), rng)
    inputs = make_inputs("dense", rng)

    @tf.function
    def step():
        return strategy.run(lambda: layer(inputs, training=True))

    one, two = strategy.experimental_local_results(step())
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
