"""Layers of the reparameterization family: every kind, with both techniques."""

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity import layers
from state_of_sparsity.backend import keras, tf
from tests import zoo

DRAWS = 4000
TECHNIQUES = [sos.VariationalDropout(1e-3), sos.L0Regularization(1e-3)]


def doubled(x):
    """An activation that Keras cannot serialize."""
    return 2.0 * x


# (Keras class, arguments, shape of an input without the batch)
KINDS = {
    "dense": (keras.layers.Dense, {"units": 3}, (5,)),
    "dense sequence": (keras.layers.Dense, {"units": 3, "use_bias": False}, (4, 5)),
    "conv1d": (keras.layers.Conv1D, {"filters": 3, "kernel_size": 2}, (5, 2)),
    "causal": (
        keras.layers.Conv1D,
        {"filters": 2, "kernel_size": 3, "padding": "causal", "dilation_rate": 2},
        (6, 2),
    ),
    "conv2d": (keras.layers.Conv2D, {"filters": 2, "kernel_size": 3}, (4, 4, 2)),
    "strided": (
        keras.layers.Conv2D,
        {"filters": 2, "kernel_size": 3, "strides": 2, "padding": "same"},
        (5, 5, 2),
    ),
    "dilated": (
        keras.layers.Conv2D,
        {"filters": 2, "kernel_size": 2, "dilation_rate": 2},
        (5, 5, 2),
    ),
    "grouped": (
        keras.layers.Conv2D,
        {"filters": 4, "kernel_size": 2, "groups": 2},
        (3, 3, 4),
    ),
    "conv3d": (keras.layers.Conv3D, {"filters": 2, "kernel_size": 2}, (3, 3, 3, 2)),
    "depthwise": (
        keras.layers.DepthwiseConv2D,
        {"kernel_size": 2, "depth_multiplier": 2},
        (3, 3, 2),
    ),
    "einsum": (
        keras.layers.EinsumDense,
        {"equation": "abc,cde->abde", "output_shape": (None, 2, 3), "bias_axes": "de"},
        (3, 4),
    ),
    "embedding": (keras.layers.Embedding, {"input_dim": 9, "output_dim": 4}, (3,)),
}


def make_inputs(kind, rng, batch=2):
    cls, _, shape = KINDS[kind]
    if cls is keras.layers.Embedding:
        return rng.integers(0, 9, (batch, *shape))
    return rng.normal(size=(batch, *shape)).astype("float32")


def make_layer(kind, technique, rng, **further):
    """A built layer with scattered parameters, and its Keras namesake."""
    cls, arguments, _ = KINDS[kind]
    arguments = {**arguments, **further}
    layer = layers.LAYERS[type(technique), cls](**technique.get_config(), **arguments)
    plain = cls(**arguments)
    inputs = make_inputs(kind, rng)
    layer(inputs)
    plain(inputs)
    theta = getattr(layer, layer.sparse_weight)
    theta.assign(rng.normal(size=theta.shape))
    extra = getattr(layer, technique.extra_name)
    extra.assign(rng.normal(0, 3, size=extra.shape))
    if getattr(layer, "bias", None) is not None:
        layer.bias.assign(rng.normal(size=layer.bias.shape))
        plain.bias.assign(layer.bias)
    return layer, plain


def reference_deployed(technique, theta, extra):
    """Weight and mask in NumPy's float64, after Gale et al. 2019."""
    theta, extra = theta.astype("float64"), extra.astype("float64")
    if isinstance(technique, sos.VariationalDropout):
        mask = extra - np.log(theta**2 + 1e-8) < technique.log_alpha_threshold
        return theta * mask, mask
    gate = np.clip(1.2 / (1 + np.exp(-extra)) - 0.1, 0, 1)
    return theta * gate, gate > 0


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: t.technique_name())
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", [None, "relu"])
def test_in_inference_a_layer_is_its_namesake_with_the_deployed_weight(
    technique, kind, activation, rng
):
    further = {} if kind == "embedding" else {"activation": activation}
    layer, plain = make_layer(kind, technique, rng, **further)
    name = layer.sparse_weight
    theta = getattr(layer, name).numpy()
    extra = getattr(layer, technique.extra_name).numpy()
    expected, mask = reference_deployed(technique, theta, extra)
    getattr(plain, name).assign(expected)
    inputs = make_inputs(kind, rng)
    np.testing.assert_allclose(layer(inputs), plain(inputs), rtol=1e-6, atol=1e-6)
    model = keras.Sequential([layer])
    model.build((None, *KINDS[kind][2]))
    np.testing.assert_array_equal(next(iter(sos.weight_masks(model).values())), mask)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_of_variational_layers_have_the_analytic_moments(kind, rng):
    technique = sos.VariationalDropout(0.0)
    layer, plain = make_layer(kind, technique, rng)
    name = layer.sparse_weight
    theta = getattr(layer, name).numpy().astype("float64")
    log_theta2 = np.log(theta**2 + 1e-8)
    log_alpha = layer.log_sigma2.numpy() - log_theta2
    variance_of_weights = np.exp(np.clip(log_alpha, -8, 8) + log_theta2)
    inputs = make_inputs(kind, rng, batch=1)
    getattr(plain, name).assign(theta)
    mean = plain(inputs).numpy().astype("float64")
    getattr(plain, name).assign(variance_of_weights)
    if getattr(plain, "bias", None) is not None:
        plain.bias.assign(tf.zeros_like(plain.bias))
    squared = inputs if kind == "embedding" else inputs**2
    variance = plain(squared).numpy().astype("float64") + 1e-8

    many = np.repeat(inputs, DRAWS, axis=0)
    drawn = layer(many, training=True).numpy().astype("float64")
    # Six standard deviations of a mean and, for normal draws, of a variance: with
    # at most 100 outputs and two statistics, false alarms below 1e-6.
    bound = 6 * np.sqrt(variance[0] / DRAWS) + 1e-5
    assert (np.abs(drawn.mean(axis=0) - mean[0]) < bound).all()
    bound = 6 * variance[0] * np.sqrt(2 / (DRAWS - 1)) + 1e-5
    assert (np.abs(drawn.var(axis=0, ddof=1) - variance[0]) < bound).all()


@pytest.mark.parametrize("kind", KINDS)
def test_l0_layers_draw_a_gate_per_weight_that_the_batch_shares(kind, rng):
    layer, _plain = make_layer(kind, sos.L0Regularization(0.0), rng)
    layer.log_alpha.assign(tf.zeros_like(layer.log_alpha))
    inputs = make_inputs(kind, rng, batch=1)
    twice = np.repeat(inputs, 2, axis=0)
    first, second = layer(twice, training=True).numpy()
    if kind == "embedding":
        # A gate per row that is looked up.
        assert not np.array_equal(first, second)
    else:
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)
    other = layer(twice, training=True).numpy()[0]
    assert not np.allclose(first, other)


@pytest.mark.parametrize("kind", KINDS)
def test_without_noise_a_layer_trains_as_its_namesake(kind, rng):
    quiet = {
        sos.VariationalDropout(0.0, clip_log_alpha=60.0): -60.0,
        sos.L0Regularization(0.0): 60.0,
    }
    for technique, value in quiet.items():
        layer, plain = make_layer(kind, technique, rng)
        extra = getattr(layer, technique.extra_name)
        extra.assign(tf.fill(extra.shape, value))
        name = layer.sparse_weight
        getattr(plain, name).assign(getattr(layer, name))
        inputs = make_inputs(kind, rng)
        gradients = []
        for each in (layer, plain):
            with tf.GradientTape() as tape:
                arguments = {"training": True} if each is layer else {}
                loss = tf.reduce_sum(tf.square(each(inputs, **arguments)))
            gradient = tape.gradient(loss, getattr(each, name))
            gradients.append(tf.convert_to_tensor(gradient).numpy())
        # The noise of variance 1e-8 that keeps square roots differentiable.
        np.testing.assert_allclose(*gradients, rtol=2e-3, atol=2e-2)


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: t.technique_name())
@pytest.mark.parametrize("kind", zoo.ALL)
def test_sparsify_keeps_theta_and_strip_gives_plain_layers(technique, kind, rng):
    inputs, labels = zoo.data(rng)
    model = zoo.ALL[kind]()
    before = model(inputs).numpy()
    sparse = zoo.compiled(sos.sparsify(model, technique))
    if isinstance(technique, sos.VariationalDropout):
        # Nothing is noise yet, but for weights below exp(-(10 + 3) / 2) = 0.0015.
        np.testing.assert_allclose(sparse(inputs), before, atol=0.01)
    history = sparse.fit(inputs, labels, epochs=2, verbose=0).history["loss"]
    assert np.isfinite(history).all()
    np.testing.assert_array_equal(model(inputs), before)
    stripped = sos.strip(sparse)
    np.testing.assert_allclose(stripped(inputs), sparse(inputs), atol=1e-5)
    assert stripped.count_params() == model.count_params()
    assert len(stripped.losses) == len(model.losses) == 1
    names = [layer.name for layer in sos.sparsity_report(sparse).layers]
    assert names == [layer.name for layer in sos.sparsity_report(model).layers]
    assert (
        sos.sparsity_report(sparse).parameters == sos.sparsity_report(model).parameters
    )


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: t.technique_name())
def test_mixed_precision_trains_with_finite_losses(technique, policy, rng):
    keras.mixed_precision.set_global_policy(policy)
    sparse = zoo.compiled(sos.sparsify(zoo.functional(), technique))
    history = sparse.fit(*zoo.data(rng), epochs=3, verbose=0).history["loss"]
    assert np.isfinite(history).all()
    assert all(np.isfinite(w.numpy()).all() for w in sparse.trainable_weights)


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: t.technique_name())
@pytest.mark.parametrize("file", ["model.keras", "model"])
def test_saved_layers_load(technique, file, rng, tmp_path):
    inputs, labels = zoo.data(rng)
    sparse = zoo.compiled(sos.sparsify(zoo.sequential(), technique))
    sparse.fit(inputs, labels, verbose=0)
    sparse.save(tmp_path / file)
    loaded = keras.models.load_model(tmp_path / file)
    np.testing.assert_allclose(loaded(inputs), sparse(inputs), atol=1e-6)
    assert loaded.layers[0].technique == technique
    assert int(loaded.layers[0].training_step) == 1


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: t.technique_name())
def test_penalty_is_in_the_loss_once_with_the_weight_of_the_ramp(
    technique, rng, mirrored
):
    config = {**technique.get_config(), "ramp_begin": 1, "ramp_length": 4}
    ramped = type(technique).from_config(config)
    inputs, labels = zoo.data(rng)
    for scope in (tf.distribute.get_strategy().scope(), mirrored.scope()):
        with scope:
            layer_class = layers.LAYERS[type(ramped), keras.layers.Dense]
            model = keras.Sequential(
                [
                    keras.Input((zoo.INPUTS,)),
                    layer_class(zoo.CLASSES, kernel_initializer="ones", **config),
                ]
            )
            # A learning rate of 0 keeps the penalty, and labels of weight 0 leave
            # nothing but it.
            model.compile(keras.optimizers.SGD(0.0), "mse")
        history = []
        for _ in range(7):
            model.fit(
                inputs, labels, sample_weight=np.zeros(32), batch_size=32, verbose=0
            )
            history.append(model.history.history["loss"][0])
        penalty = float(model.layers[0].penalty())
        expected = [1e-3 * penalty * min(max(t - 1, 0) / 4, 1) for t in range(7)]
        np.testing.assert_allclose(history, expected, rtol=1e-5)


def test_unknown_layer_kind_is_named_with_a_way_out():
    model = keras.Sequential(
        [keras.layers.Conv2DTranspose(2, 3, input_shape=(5, 5, 2), name="up")]
    )
    with pytest.raises(
        ValueError, match=r"no linear map for layer 'up' of kind Conv2DT"
    ):
        sos.sparsify(model, TECHNIQUES[0])


@pytest.mark.parametrize(
    ("technique", "arguments", "message"),
    [
        (sos.VariationalDropout, {"kl_weight": -1.0}, "kl_weight must be at least 0"),
        (sos.VariationalDropout, {"log_alpha_threshold": "3"}, "log_alpha_threshold"),
        (sos.VariationalDropout, {"log_alpha_threshold": float("nan")}, "finite"),
        (sos.VariationalDropout, {"ramp": "square"}, "ramp must be one of"),
        (sos.VariationalDropout, {"ramp_length": 0}, "ramp_length must be at least 1"),
        (sos.L0Regularization, {"l0_weight": -1.0}, "l0_weight must be at least 0"),
        (sos.L0Regularization, {"gamma": 0.0}, "gamma must be below 0"),
        (sos.L0Regularization, {"zeta": 1.0}, "zeta must be above 1"),
        (sos.L0Regularization, {"beta": 0.0}, "beta must be above 0"),
    ],
)
def test_bad_hyperparameters_are_refused_at_construction(technique, arguments, message):
    weight = "kl_weight" if technique is sos.VariationalDropout else "l0_weight"
    required = {weight: 1.0}
    with pytest.raises((TypeError, ValueError), match=message):
        technique(**{**required, **arguments})
    layer = layers.LAYERS[technique, keras.layers.Dense]
    with pytest.raises((TypeError, ValueError), match=message):
        layer(3, **{**required, **arguments})


def test_penalty_is_logged_with_its_weight_and_the_sparsity(rng):
    technique = sos.VariationalDropout(0.5, ramp_begin=0, ramp_length=4)
    sparse = zoo.compiled(sos.sparsify(zoo.sequential(), technique))
    inputs, labels = zoo.data(rng)
    logs = sparse.fit(
        inputs, labels, batch_size=16, verbose=0, callbacks=sos.callbacks(sparse)
    ).history
    # Two steps were taken, with the weights of steps 0 and 1.
    assert logs["penalty_weight"] == [0.5 * 1 / 4]
    expected = sum(float(layer.penalty()) for layer in sparse.layers if layer.weights)
    np.testing.assert_allclose(logs["penalty"], [expected], rtol=1e-6)
    assert logs["sparsity"] == [sos.sparsity_report(sparse).sparsity]
