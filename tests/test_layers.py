"""Layers of the reparameterization family: every kind, with both techniques."""

import dataclasses

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity import layers, weights
from state_of_sparsity.backend import keras, raw_variable, tf
from state_of_sparsity.weights import weight_variable
from tests import zoo

DRAWS = 6000
TECHNIQUES = [sos.VariationalDropout(1e-3), sos.L0Regularization(1e-3)]


def doubled(x):
    """An activation that Keras cannot serialize."""
    return 2.0 * x


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of layer, and how to use it.

    Attributes:
      cls: the Keras class.
      arguments: to make one.
      shape: of an input, without the batch.
      call: further arguments of a call.
    """

    cls: type
    arguments: dict
    shape: tuple
    call: dict = dataclasses.field(default_factory=dict)

    @property
    def takes_ids(self):
        return issubclass(self.cls, keras.layers.Embedding) and not self.call


KINDS = {
    "dense": Kind(keras.layers.Dense, {"units": 3}, (5,)),
    "dense sequence": Kind(keras.layers.Dense, {"units": 3, "use_bias": False}, (4, 5)),
    "conv1d": Kind(keras.layers.Conv1D, {"filters": 3, "kernel_size": 2}, (5, 2)),
    "causal": Kind(
        keras.layers.Conv1D,
        {"filters": 2, "kernel_size": 3, "padding": "causal", "dilation_rate": 2},
        (6, 2),
    ),
    "conv2d": Kind(keras.layers.Conv2D, {"filters": 2, "kernel_size": 3}, (4, 4, 2)),
    "strided": Kind(
        keras.layers.Conv2D,
        {"filters": 2, "kernel_size": 3, "strides": 2, "padding": "same"},
        (5, 5, 2),
    ),
    "dilated": Kind(
        keras.layers.Conv2D,
        {"filters": 2, "kernel_size": 2, "dilation_rate": 2},
        (5, 5, 2),
    ),
    "grouped": Kind(
        keras.layers.Conv2D,
        {"filters": 4, "kernel_size": 2, "groups": 2},
        (3, 3, 4),
    ),
    "conv3d": Kind(keras.layers.Conv3D, {"filters": 2, "kernel_size": 2}, (3, 3, 3, 2)),
    "depthwise": Kind(
        keras.layers.DepthwiseConv2D,
        {"kernel_size": 2, "depth_multiplier": 2},
        (3, 3, 2),
    ),
    "einsum": Kind(
        keras.layers.EinsumDense,
        {"equation": "abc,cde->abde", "output_shape": (None, 2, 3), "bias_axes": "de"},
        (3, 4),
    ),
    "embedding": Kind(keras.layers.Embedding, {"input_dim": 9, "output_dim": 4}, (3,)),
    "tied lookup": Kind(layers.TiedEmbedding, {"input_dim": 9, "output_dim": 4}, (3,)),
    "tied logits": Kind(
        layers.TiedEmbedding,
        {"input_dim": 9, "output_dim": 4},
        (3, 4),
        {"transposed": True},
    ),
}
RECURRENT = {
    "simple rnn": Kind(keras.layers.SimpleRNN, {"units": 3}, (4, 2)),
    "lstm": Kind(keras.layers.LSTM, {"units": 3}, (4, 2)),
    "gru": Kind(keras.layers.GRU, {"units": 3, "return_sequences": True}, (4, 2)),
    "unrolled gru": Kind(
        keras.layers.GRU, {"units": 3, "reset_after": False, "unroll": True}, (4, 2)
    ),
}
CHANNELS_FIRST = {
    "conv1d channels first": Kind(
        keras.layers.Conv1D,
        {"filters": 3, "kernel_size": 2, "data_format": "channels_first"},
        (2, 5),
    ),
    "conv2d channels first": Kind(
        keras.layers.Conv2D,
        {"filters": 3, "kernel_size": 2, "data_format": "channels_first"},
        (2, 5, 5),
    ),
    "conv3d channels first": Kind(
        keras.layers.Conv3D,
        {"filters": 3, "kernel_size": 2, "data_format": "channels_first"},
        (2, 3, 3, 3),
    ),
    "depthwise channels first": Kind(
        keras.layers.DepthwiseConv2D,
        {"kernel_size": 2, "data_format": "channels_first"},
        (2, 4, 4),
    ),
}
EVERY_KIND = KINDS | RECURRENT | CHANNELS_FIRST


def make_inputs(kind, rng, batch=2):
    shape = (batch, *EVERY_KIND[kind].shape)
    if EVERY_KIND[kind].takes_ids:
        return rng.integers(0, 9, shape)
    return rng.normal(size=shape).astype("float32")


def compiled(kind, layer, **further):
    """The layer as a function; XLA computes what TensorFlow's CPU kernels do not."""
    call = EVERY_KIND[kind].call | further
    return tf.function(lambda x: layer(x, **call), jit_compile=kind in CHANNELS_FIRST)


def run(kind, layer, inputs, **further):
    return compiled(kind, layer, **further)(tf.constant(inputs))


def make_layer(kind, technique, rng, **further):
    """A built layer with scattered parameters, and its Keras namesake."""
    cls, arguments = EVERY_KIND[kind].cls, {**EVERY_KIND[kind].arguments, **further}
    layer = layers.LAYERS[type(technique), cls](**technique.get_config(), **arguments)
    plain = cls(**arguments)
    inputs = make_inputs(kind, rng)
    run(kind, layer, inputs)
    run(kind, plain, inputs)
    for weight in layer.sparse_weights:
        theta = weight_variable(layer, weight)
        theta.assign(rng.normal(size=theta.shape))
        extra = getattr(layer, layer.extra_name(weight))
        extra.assign(rng.normal(0, 3, size=extra.shape))
    for holder, plain_holder in ((layer, plain), cells(layer, plain)):
        if getattr(holder, "bias", None) is not None:
            holder.bias.assign(rng.normal(size=holder.bias.shape))
            plain_holder.bias.assign(holder.bias)
    return layer, plain


def cells(*recurrent_layers):
    return [getattr(layer, "cell", None) for layer in recurrent_layers]


def assign(layer, weight, value):
    raw_variable(weight_variable(layer, weight)).assign(value)


def as_model(kind, layer):
    """A model of one layer."""
    described = EVERY_KIND[kind]
    dtype = "int32" if described.takes_ids else "float32"
    inputs = keras.Input(described.shape, dtype=dtype)
    return keras.Model(inputs, layer(inputs, **described.call))


def reference_deployed(technique, theta, extra):
    """Weight and mask in NumPy's float64, after Gale et al. 2019."""
    theta, extra = theta.astype("float64"), extra.astype("float64")
    if isinstance(technique, sos.VariationalDropout):
        mask = extra - np.log(theta**2 + 1e-8) < technique.log_alpha_threshold
        return theta * mask, mask
    gate = np.clip(1.2 / (1 + np.exp(-extra)) - 0.1, 0, 1)
    return theta * gate, gate > 0


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: t.technique_name())
@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize("activation", [None, "relu"])
def test_in_inference_a_layer_is_its_namesake_with_the_deployed_weight(
    technique, kind, activation, rng
):
    embeds = issubclass(EVERY_KIND[kind].cls, keras.layers.Embedding)
    further = {} if embeds else {"activation": activation}
    layer, plain = make_layer(kind, technique, rng, **further)
    masks = []
    for weight in layer.sparse_weights:
        theta = weight_variable(layer, weight).numpy()
        extra = getattr(layer, layer.extra_name(weight)).numpy()
        expected, mask = reference_deployed(technique, theta, extra)
        assign(plain, weight, expected)
        masks.append(mask)
    inputs = make_inputs(kind, rng)
    np.testing.assert_allclose(
        run(kind, layer, inputs), run(kind, plain, inputs), rtol=1e-6, atol=1e-6
    )
    deployed = sos.weight_masks(as_model(kind, layer))
    for mask, actual in zip(masks, deployed.values(), strict=True):
        np.testing.assert_array_equal(actual, mask)


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: t.technique_name())
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_saved_and_stripped_layers_compute_the_same(technique, kind, rng, tmp_path):
    layer, _ = make_layer(kind, technique, rng)
    inputs = make_inputs(kind, rng)
    expected = run(kind, layer, inputs)
    model = as_model(kind, layer)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    (stripped,) = (each for each in sos.strip(loaded).layers if each.weights)
    assert type(stripped) is EVERY_KIND[kind].cls
    for each in (loaded.layers[-1], stripped):
        np.testing.assert_allclose(
            run(kind, each, inputs), expected, rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: t.technique_name())
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_sparsify_converts_every_kind(technique, kind, rng):
    described = EVERY_KIND[kind]
    model = as_model(kind, described.cls(**described.arguments))
    sparse = sos.sparsify(model, technique)
    assert type(sparse.layers[-1]) is layers.LAYERS[type(technique), described.cls]
    for weight in sparse.layers[-1].sparse_weights:
        np.testing.assert_array_equal(
            weight_variable(sparse.layers[-1], weight),
            weight_variable(model.layers[-1], weight),
        )
    assert [each.name for each in sos.sparsity_report(sparse).layers] == [
        each.name for each in sos.sparsity_report(model).layers
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_of_variational_layers_have_the_analytic_moments(kind, rng):
    layer, plain = make_layer(kind, sos.VariationalDropout(0.0), rng)
    (weight,) = layer.sparse_weights
    theta, variance_of_weights = distribution(layer, weight)
    inputs = make_inputs(kind, rng, batch=1)
    assign(plain, weight, theta)
    mean = run(kind, plain, inputs).numpy().astype("float64")
    assign(plain, weight, variance_of_weights)
    if getattr(plain, "bias", None) is not None:
        plain.bias.assign(tf.zeros_like(plain.bias))
    squared = inputs if EVERY_KIND[kind].takes_ids else inputs**2
    variance = run(kind, plain, squared).numpy().astype("float64") + 1e-8
    many = np.repeat(inputs, DRAWS, axis=0)
    drawn = run(kind, layer, many, training=True).numpy().astype("float64")
    check_moments(drawn, mean[0], variance[0])


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


@pytest.mark.parametrize("kind", KINDS | RECURRENT)
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


# What is left of the noise of variational dropout is its variance of 1e-8, which moves
# a weight by less than a thousandth of what training does.
@pytest.mark.parametrize(
    ("technique", "quiet", "tolerance"),
    [
        (sos.VariationalDropout(0.0, clip_log_alpha=60.0), -60.0, 1e-2),
        (sos.L0Regularization(0.0), 60.0, 1e-6),
    ],
    ids=["variational_dropout", "l0_regularization"],
)
@pytest.mark.parametrize("kind", KINDS | RECURRENT)
def test_without_noise_a_layer_trains_as_its_namesake(
    kind, technique, quiet, tolerance, rng
):
    layer, plain = make_layer(kind, technique, rng)
    for weight in layer.sparse_weights:
        extra = getattr(layer, layer.extra_name(weight))
        extra.assign(tf.fill(extra.shape, quiet))
        assign(plain, weight, weight_variable(layer, weight))
    batches = [make_inputs(kind, rng) for _ in range(5)]
    names, call = layer.sparse_weights, EVERY_KIND[kind].call
    before = [weight_variable(plain, name).numpy() for name in names]
    trained = train(layer, names, batches, training=True, **call)
    expected = train(plain, names, batches, **call)
    for actual, dense, initial in zip(trained, expected, before, strict=True):
        moved = np.abs(dense - initial).max()
        assert moved > 1e-4
        assert np.abs(actual - dense).max() <= tolerance * moved


def train(layer, names, batches, **arguments):
    """The weights of a layer after steps towards an output of zero."""
    optimizer = keras.optimizers.SGD(1e-2)
    variables = [weight_variable(layer, name) for name in names]
    for inputs in batches:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(layer(inputs, **arguments)))
        slopes = tape.gradient(loss, variables)
        optimizer.apply_gradients(zip(slopes, variables, strict=True))
    return [variable.numpy() for variable in variables]


@pytest.mark.parametrize(
    "layer",
    [
        layers.VariationalDense(3, kl_weight=1.0),
        layers.L0Conv1D(3, 2, l0_weight=1.0),
        layers.VariationalGRU(3, kl_weight=1.0),
    ],
)
def test_integer_inputs_are_refused_when_the_model_is_made(layer):
    with pytest.raises(TypeError, match=r"takes floating-point inputs.*int32"):
        layer(keras.Input((5, 2), dtype="int32"))


RAGGED = {
    "dense": (
        keras.layers.Dense(3, activation="relu"),
        tf.ragged.constant([[[1.0, -2.0]], [[0.5, 3.0], [2.0, 1.0]]], ragged_rank=1),
    ),
    "embedding": (
        keras.layers.Embedding(9, 4),
        tf.ragged.constant([[1, 2, 1], [8]]),
    ),
}


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: t.technique_name())
@pytest.mark.parametrize("kind", RAGGED)
def test_ragged_inputs_give_what_their_values_give(technique, kind):
    plain, inputs = RAGGED[kind]
    model = keras.Sequential([plain])
    model(inputs)
    sparse = sos.sparsify(model, technique)
    (layer,) = sparse.layers
    for training in (False, True):
        keras.utils.set_random_seed(3)
        ragged = layer(inputs, training=training)
        assert (
            ragged.row_lengths().numpy().tolist()
            == inputs.row_lengths().numpy().tolist()
        )
        keras.utils.set_random_seed(3)
        flat = layer(inputs.flat_values, training=training)
        np.testing.assert_allclose(ragged.flat_values, flat, rtol=1e-6)
    spec = tf.RaggedTensorSpec(inputs.shape, inputs.dtype, inputs.ragged_rank)
    outputs = tf.function(layer, input_signature=[spec])(inputs)
    expected = sos.strip(sparse)(inputs)
    np.testing.assert_allclose(outputs.flat_values, expected.flat_values, rtol=1e-6)


def test_embeddings_that_give_sparse_tensors_still_do():
    layer = layers.L0Embedding(9, 4, sparse=True, l0_weight=1e-3)
    outputs = layer(tf.constant([[1, 2]]))
    assert isinstance(outputs, tf.SparseTensor)
    expected = layers.L0Embedding.from_config({**layer.get_config(), "sparse": False})
    expected.build(None)
    expected.set_weights(layer.get_weights())
    np.testing.assert_array_equal(
        tf.sparse.to_dense(outputs), expected(tf.constant([[1, 2]]))
    )


def test_sparse_ids_are_refused_with_a_way_out():
    layer = layers.L0Embedding(9, 4, l0_weight=1e-3, name="words")
    with pytest.raises(TypeError, match=r"'words'.*tf\.sparse\.to_dense"):
        layer(tf.sparse.from_dense([[1, 2]]))


def test_logits_of_a_tied_embedding_take_vectors_only():
    layer = layers.L0TiedEmbedding(9, 4, l0_weight=1.0)
    with pytest.raises(TypeError, match="takes floating-point inputs"):
        layer(keras.Input((5,), dtype="int32"), transposed=True)


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


class Tagger(keras.Model):
    """A subclassed model whose embedding is used twice in a step."""

    def __init__(self):
        super().__init__()
        self.tied = layers.TiedEmbedding(zoo.CLASSES + 4, 8, name="tied")

    def call(self, ids):
        return self.tied(self.tied(ids), transposed=True)


@pytest.mark.parametrize(
    "technique",
    [sos.MagnitudePruning(0.5, 0, 2, 1), *TECHNIQUES],
    ids=lambda t: t.technique_name(),
)
@pytest.mark.parametrize("functional", [True, False])
def test_a_tied_embedding_becomes_sparse_in_both_of_its_uses(
    technique, functional, rng, tmp_path
):
    ids = rng.integers(0, zoo.CLASSES, (16, 5))
    model = Tagger()
    model(ids)
    if functional:
        inputs = keras.Input((5,), dtype="int32")
        model = keras.Model(inputs, model.tied(model.tied(inputs), transposed=True))
    sparse = zoo.compiled(sos.sparsify(model, technique))
    sparse.fit(
        ids, ids, epochs=3, batch_size=8, verbose=0, callbacks=sos.callbacks(sparse)
    )
    (site,) = weights.sites(sparse)
    pruned = isinstance(technique, sos.MagnitudePruning)
    # Two batches in each of three epochs, and one penalty for the two uses.
    step = site.layer.pruning_step if pruned else site.layer.training_step
    assert int(step) == 6
    assert len(sparse.losses) == (0 if pruned else 1)
    stripped = sos.strip(sparse)
    (plain,) = weights.sites(stripped)
    assert type(plain.layer) is layers.TiedEmbedding
    np.testing.assert_allclose(stripped(ids), sparse(ids), rtol=1e-6, atol=1e-6)
    if pruned:
        assert sos.sparsity_report(stripped).sparsity == 0.5
    if functional:
        sparse.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_allclose(loaded(ids), sparse(ids), rtol=1e-6, atol=1e-6)


def test_only_a_lookup_makes_a_mask(rng):
    tied = layers.TiedEmbedding(5, 4, mask_zero=True)
    ids = tf.constant([[1, 0, 2]])
    vectors = tied(ids)
    assert tied.compute_mask(ids).numpy().tolist() == [[True, False, True]]
    assert tied.compute_mask(vectors) is None
    assert tied(vectors, transposed=True).shape == (1, 3, 5)
    np.testing.assert_allclose(
        tied(vectors, transposed=True),
        vectors.numpy() @ tied.embeddings.numpy().T,
        rtol=1e-5,
        atol=1e-7,
    )


def test_a_depthwise_kernel_is_learned_and_not_pruned():
    model = keras.Sequential(
        [
            keras.layers.DepthwiseConv2D(2, input_shape=(4, 4, 2), name="depthwise"),
            keras.layers.Conv2D(3, 1, name="pointwise"),
        ]
    )
    pruned = sos.sparsify(model, sos.MagnitudePruning(0.5, 0, 1, 1))
    assert [w.name for w in sos.sparsity_report(pruned).layers] == ["pointwise/kernel"]
    learned = sos.sparsify(model, TECHNIQUES[0])
    assert [w.name for w in sos.sparsity_report(learned).layers] == [
        "depthwise/depthwise_kernel",
        "pointwise/kernel",
    ]


def test_a_recurrent_layer_in_a_bidirectional_one_is_converted(rng):
    model = keras.Sequential(
        [
            keras.Input((5, 2)),
            keras.layers.Bidirectional(keras.layers.GRU(3), name="both"),
            keras.layers.Dense(zoo.CLASSES, name="head"),
        ]
    )
    inputs = rng.normal(size=(16, 5, 2)).astype("float32")
    for technique in TECHNIQUES:
        sparse = zoo.compiled(sos.sparsify(model, technique))
        assert len(sos.sparsity_report(sparse).layers) == 5
        loss = sparse.fit(inputs, np.zeros(16), epochs=2, verbose=0).history["loss"]
        assert np.isfinite(loss).all()
        stripped = sos.strip(sparse)
        np.testing.assert_allclose(stripped(inputs), sparse(inputs), atol=1e-6)
        assert type(stripped.layers[0].forward_layer) is keras.layers.GRU


def test_thresholds_of_variational_dropout_can_be_chosen_afterwards(rng, tmp_path):
    inputs, _ = zoo.data(rng)
    model = sos.sparsify(zoo.sequential(), sos.VariationalDropout(1.0))
    learned = [site.layer for site in weights.sites(model)]
    for layer in learned:
        layer.log_sigma2.assign(rng.normal(0, 3, size=layer.log_sigma2.shape))
    sparsities = []
    for threshold in (-1.0, 0.0, 2.0, None):
        technique = sos.VariationalDropout(
            1.0, log_alpha_threshold=3.0 if threshold is None else threshold
        )
        expected = [
            reference_deployed(technique, x.kernel.numpy(), x.log_sigma2.numpy())
            for x in learned
        ]
        stripped = sos.strip(model, threshold)
        masks = sos.weight_masks(model, threshold).values()
        for site, mask, (kernel, reference) in zip(
            weights.sites(stripped), masks, expected, strict=True
        ):
            np.testing.assert_allclose(site.layer.kernel, kernel, rtol=1e-6)
            np.testing.assert_array_equal(mask, reference)
        report = sos.sparsity_report(model, log_alpha_threshold=threshold)
        kept = sum(np.count_nonzero(reference) for _, reference in expected)
        assert sum(layer.size - layer.zeros for layer in report.layers) == kept
        path = tmp_path / str(threshold)
        sos.export_saved_model(model, path, log_alpha_threshold=threshold)
        exported = tf.saved_model.load(str(path))
        np.testing.assert_allclose(exported.serve(inputs), stripped(inputs), atol=1e-6)
        sparsities.append(report.sparsity)
    assert sparsities == sorted(sparsities, reverse=True)
    assert len(set(sparsities)) == 4


def test_bad_thresholds_are_refused():
    variational = sos.sparsify(zoo.sequential(), sos.VariationalDropout(1.0))
    for bad in ("3", float("nan"), float("inf")):
        with pytest.raises((TypeError, ValueError), match="log_alpha_threshold must"):
            sos.strip(variational, bad)
    gated = sos.sparsify(zoo.sequential(), sos.L0Regularization(1.0))
    with pytest.raises(ValueError, match="no layer of model 'sequential' has it"):
        sos.strip(gated, 3.0)


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: t.technique_name())
def test_a_bidirectional_layer_of_learned_layers_is_stripped(technique, rng):
    cls = layers.LAYERS[type(technique), keras.layers.LSTM]
    model = keras.Sequential(
        [
            keras.Input((5, 2)),
            keras.layers.Bidirectional(cls(3, **technique.get_config())),
        ]
    )
    inputs = rng.normal(size=(4, 5, 2)).astype("float32")
    stripped = sos.strip(model)
    np.testing.assert_allclose(stripped(inputs), model(inputs), atol=1e-6)
    assert len(sos.sparsity_report(model).layers) == 4
    assert type(stripped.layers[0].backward_layer) is keras.layers.LSTM


@pytest.mark.parametrize(
    "technique",
    [sos.MagnitudePruning(0.5, 0, 2, 1), *TECHNIQUES],
    ids=lambda t: t.technique_name(),
)
# Keras's ".weights.h5" passes over layers in a dictionary in a list, dense ones too.
@pytest.mark.parametrize(
    "file", ["model.h5", pytest.param("model", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("kind", ["functional", "subclassed"])
def test_weights_of_any_model_load_into_one_that_is_sparsified_again(
    kind, technique, file, rng, tmp_path
):
    inputs, labels = zoo.data(rng)
    sparse = zoo.compiled(sos.sparsify(zoo.ALL[kind](), technique))
    sparse.fit(inputs, labels, verbose=0, callbacks=sos.callbacks(sparse))
    sparse.save_weights(tmp_path / file)
    again = sos.sparsify(zoo.ALL[kind](), technique)
    again.load_weights(tmp_path / file)
    np.testing.assert_allclose(again(inputs), sparse(inputs), atol=1e-6)
    for mask, other in zip(
        sos.weight_masks(again).values(), sos.weight_masks(sparse).values(), strict=True
    ):
        np.testing.assert_array_equal(mask, other)


def test_weights_of_layers_of_the_same_name_go_into_one_file(rng, tmp_path):
    class Twice(keras.layers.Layer):
        def __init__(self):
            super().__init__(name="twice")
            self.first = keras.layers.MultiHeadAttention(1, 2, name="first")
            self.second = keras.layers.MultiHeadAttention(1, 2, name="second")

        def call(self, x):
            return self.second(self.first(x, x), x)

    inputs = keras.Input((3, 4))
    model = keras.Model(inputs, Twice()(inputs))
    for technique in (sos.MagnitudePruning(0.5, 0, 2, 1), *TECHNIQUES):
        sparse = sos.sparsify(model, technique)
        sparse.save_weights(tmp_path / "weights.h5")
        sparse.load_weights(tmp_path / "weights.h5")


@pytest.mark.parametrize("cls", [layers.TiedEmbedding, layers.L0TiedEmbedding])
def test_a_lookup_of_vectors_is_refused(cls):
    further = {"l0_weight": 1.0} if cls is layers.L0TiedEmbedding else {}
    with pytest.raises(TypeError, match="looks up integers: give keras"):
        cls(5, 4, **further)(keras.Input((3,)))
