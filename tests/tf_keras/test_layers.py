"""Layers of the reparameterization family, as far as only tf_keras has them."""

import concurrent.futures

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras, raw_variable, tf
from state_of_sparsity.engines.tf_keras.weights import weight_variable
from state_of_sparsity.layers import tf_keras as layers

TECHNIQUES = [sos.VariationalDropout(1e-3), sos.L0Regularization(1e-3)]
FIRST = {"data_format": "channels_first"}
# What tests/shared/test_kinds.py has not: class, arguments, and shape of an input.
KINDS = {
    "causal": (
        keras.layers.Conv1D,
        {"filters": 2, "kernel_size": 3, "padding": "causal", "dilation_rate": 2},
        (6, 2),
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
    "depthwise 1d": (
        keras.layers.DepthwiseConv1D,
        {"kernel_size": 2, "padding": "same"},
        (4, 2),
    ),
    "transposed 1d": (
        keras.layers.Conv1DTranspose,
        {"filters": 3, "kernel_size": 2, "dilation_rate": 2},
        (4, 2),
    ),
    "transposed": (
        keras.layers.Conv2DTranspose,
        {"filters": 2, "kernel_size": 3, "strides": 2, "output_padding": 1},
        (2, 2, 3),
    ),
    "transposed 3d": (
        keras.layers.Conv3DTranspose,
        {"filters": 2, "kernel_size": 2, "strides": 2, "padding": "same"},
        (2, 2, 2, 2),
    ),
    "tied lookup": (layers.TiedEmbedding, {"input_dim": 9, "output_dim": 4}, (3,)),
    "tied logits": (layers.TiedEmbedding, {"input_dim": 9, "output_dim": 4}, (3, 4)),
    "unrolled gru": (
        keras.layers.GRU,
        {"units": 3, "reset_after": False, "unroll": True},
        (4, 2),
    ),
    "conv2d channels first": (
        keras.layers.Conv2D,
        {"filters": 3, "kernel_size": 2, **FIRST},
        (2, 5, 5),
    ),
    "depthwise channels first": (
        keras.layers.DepthwiseConv2D,
        {"kernel_size": 2, **FIRST},
        (2, 4, 4),
    ),
    "transposed 1d channels first": (
        keras.layers.Conv1DTranspose,
        {"filters": 3, "kernel_size": 2, **FIRST},
        (2, 4),
    ),
    "transposed channels first": (
        keras.layers.Conv2DTranspose,
        {"filters": 3, "kernel_size": 2, **FIRST},
        (2, 3, 3),
    ),
    "separable": (
        keras.layers.SeparableConv2D,
        {"filters": 3, "kernel_size": 2, "strides": 2, "depth_multiplier": 2},
        (5, 5, 2),
    ),
    "causal separable": (
        keras.layers.SeparableConv1D,
        {"filters": 3, "kernel_size": 2, "padding": "causal", "dilation_rate": 2},
        (5, 2),
    ),
    "separable 1d channels first": (
        keras.layers.SeparableConv1D,
        {"filters": 3, "kernel_size": 2, **FIRST},
        (2, 5),
    ),
    "separable channels first": (
        keras.layers.SeparableConv2D,
        {"filters": 3, "kernel_size": 2, **FIRST},
        (2, 4, 4),
    ),
}


def deployed(technique, theta, extra):
    """The deployed weight in NumPy's float64, after Gale et al. 2019."""
    theta, extra = (v.numpy().astype("float64") for v in (theta, extra))
    if isinstance(technique, sos.VariationalDropout):
        return theta * (extra - np.log(theta**2 + 1e-8) < 3.0)
    return theta * np.clip(1.2 / (1 + np.exp(-extra)) - 0.1, 0, 1)


@pytest.mark.parametrize(
    ("kind", "technique"), zip(KINDS, TECHNIQUES * len(KINDS), strict=False)
)
def test_a_kind_is_converted_deployed_saved_and_stripped(
    kind, technique, rng, tmp_path
):
    cls, arguments, shape = KINDS[kind]
    call = {"transposed": True} if kind == "tied logits" else {}
    plain, inputs = cls(**arguments), rng.normal(size=(2, *shape)).astype("float32")
    if kind == "tied lookup":
        inputs = rng.integers(0, 9, (2, *shape)).astype("int32")

    def outputs_of(layer):
        if "data_format" in arguments:
            # XLA computes what TensorFlow's CPU kernels do not.
            layer = tf.function(layer, jit_compile=True)
        return layer(tf.constant(inputs), **call)

    x = keras.Input(shape, dtype=inputs.dtype)
    sparse = sos.sparsify(keras.Model(x, plain(x, **call)), technique)
    layer = sparse.layers[-1]
    assert type(layer) is layers.KINDS[cls]
    for weight in layer.sparse_weights:
        theta, dense = weight_variable(layer, weight), weight_variable(plain, weight)
        np.testing.assert_array_equal(theta, dense)
        (extra,) = layer.held[weight].state.values()
        extra.assign(rng.normal(0, 3, size=extra.shape))
        raw_variable(dense).assign(deployed(technique, theta, extra))
    sparse.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    (stripped,) = (each for each in sos.strip(loaded).layers if each.weights)
    assert type(stripped) is cls
    expected = outputs_of(plain)
    for each in (layer, loaded.layers[-1], stripped):
        np.testing.assert_allclose(outputs_of(each), expected, rtol=1e-6, atol=1e-6)


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


def test_a_bias_finds_its_channels_after_further_dimensions(rng):
    technique = TECHNIQUES[0]
    arguments = {"filters": 3, "kernel_size": 2, "data_format": "channels_first"}
    cls = layers.LAYERS[type(technique), keras.layers.Conv2D]
    layer = cls(bias_initializer="normal", **arguments, **technique.get_config())
    # As many of each dimension as there are channels.
    inputs = tf.constant(rng.normal(size=(2, 3, 3, 4, 4)), tf.float32)
    compute = tf.function(layer, jit_compile=True)
    compute(inputs)
    plain = keras.layers.Conv2D(**arguments)
    tf.function(plain, jit_compile=True)(inputs)
    plain.set_weights([layer.deployed_weight("kernel"), layer.bias])
    expected = tf.function(plain, jit_compile=True)(inputs)
    np.testing.assert_allclose(compute(inputs), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("cls", "technique"),
    zip([keras.layers.GRU, keras.layers.LSTM], TECHNIQUES, strict=True),
)
def test_a_decoder_begins_with_the_states_of_an_encoder(technique, cls, rng):
    source, target = keras.Input((4, 2)), keras.Input((5, 2))
    _, *states = cls(3, return_state=True)(source)
    outputs = cls(3)(target, initial_state=states)
    model = keras.Model([source, target], outputs)
    inputs = [rng.normal(size=(2, n, 2)).astype("float32") for n in (4, 5)]
    sparse = sos.sparsify(model, technique)
    assert np.isfinite(sparse(inputs, training=True)).all()
    np.testing.assert_allclose(sparse(inputs), sos.strip(sparse)(inputs), atol=1e-6)
    other = [inputs[0] + 1, inputs[1]]
    assert not np.allclose(sparse(inputs), sparse(other))


def test_threads_that_share_a_layer_do_not_disturb_each_other(rng):
    layer = layers.VariationalDense(3, activation="relu", kl_weight=0.0)
    batches = [tf.constant(rng.normal(size=(2, 5)), tf.float32) for _ in range(4)]
    expected = [layer(batch).numpy() for batch in batches]

    def call(index):
        return all(
            np.array_equal(layer(batches[index]), expected[index]) for _ in range(50)
        )

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(call, range(4))) == [True] * 4
    assert (layer.use_bias, layer.activation) == (True, keras.activations.relu)


def test_grouped_convolutions_are_compiled_once_and_not_at_each_call(rng):
    layer = layers.L0Conv2D(4, 2, groups=2, l0_weight=0.0)
    for _ in range(3):
        layer(tf.constant(rng.normal(size=(2, 3, 3, 4)), tf.float32))
    assert layer._jit_compiled_convolution_op.experimental_get_tracing_count() == 1


def test_inputs_that_keras_does_not_cast_are_cast():
    layer = layers.VariationalDense(3, kl_weight=0.0, autocast=False)
    assert layer(tf.ones((2, 5), tf.float64), training=True).dtype == tf.float32


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


@pytest.mark.parametrize(("technique", "kind"), zip(TECHNIQUES, RAGGED, strict=True))
def test_ragged_inputs_give_what_their_values_give(technique, kind):
    plain, inputs = RAGGED[kind]
    model = keras.Sequential([plain])
    model(inputs)
    sparse = sos.sparsify(model, technique)
    (layer,) = sparse.layers
    for training in (False, True):
        ragged = layer(inputs, training=training)
        assert (
            ragged.row_lengths().numpy().tolist()
            == inputs.row_lengths().numpy().tolist()
        )
        # The noise is that of the step.
        layer.training_step.assign(0)
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
