"""Layers of the reparameterization family: every kind, with both techniques."""

import concurrent.futures

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras, tf
from state_of_sparsity.engines.tf_keras.weights import weight_variable
from state_of_sparsity.layers import tf_keras as layers
from tests.tf_keras.layer_kinds import (
    EVERY_KIND,
    TECHNIQUES,
    as_model,
    assign,
    make_inputs,
    make_layer,
    reference_deployed,
    run,
    with_a_technique,
)


@with_a_technique(EVERY_KIND)
def test_in_inference_a_layer_is_its_namesake_with_the_deployed_weight(
    technique, kind, rng
):
    embeds = issubclass(EVERY_KIND[kind].cls, keras.layers.Embedding)
    further = {} if embeds else {"activation": "relu"}
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


@with_a_technique(EVERY_KIND, first=1)
def test_a_kind_is_converted_saved_and_stripped(technique, kind, rng, tmp_path):
    described, inputs = EVERY_KIND[kind], make_inputs(kind, rng)
    model = as_model(kind, described.cls(**described.arguments))
    sparse = sos.sparsify(model, technique)
    layer = sparse.layers[-1]
    assert type(layer) is layers.LAYERS[type(technique), described.cls]
    for weight in layer.sparse_weights:
        theta = weight_variable(layer, weight)
        np.testing.assert_array_equal(theta, weight_variable(model.layers[-1], weight))
        extra = getattr(layer, layer.extra_name(weight))
        extra.assign(rng.normal(0, 3, size=extra.shape))
    expected = run(kind, layer, inputs)
    sparse.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    (stripped,) = (each for each in sos.strip(loaded).layers if each.weights)
    assert type(stripped) is described.cls
    for each in (loaded.layers[-1], stripped):
        np.testing.assert_allclose(
            run(kind, each, inputs), expected, rtol=1e-6, atol=1e-6
        )


# What is left of the noise of variational dropout is its variance of 1e-8, which moves
# a weight by less than a thousandth of what training does.
@with_a_technique(["dense", "strided", "grouped", "einsum", "embedding", "lstm"])
def test_without_noise_a_layer_trains_as_its_namesake(kind, technique, rng):
    quiet, tolerance = 60.0, 1e-6
    if isinstance(technique, sos.VariationalDropout):
        technique = sos.VariationalDropout(0.0, clip_log_alpha=60.0)
        quiet, tolerance = -60.0, 1e-2
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


@with_a_technique(["dense", "conv2d", "einsum", "lstm"])
def test_every_activation_is_that_of_the_namesake(technique, kind, rng):
    name = {"dense": "softmax", "conv2d": "gelu", "einsum": "tanh"}.get(
        kind, "softplus"
    )
    layer, plain = make_layer(kind, technique, rng, activation=name)
    for weight in layer.sparse_weights:
        assign(plain, weight, layer.deployed_weight(weight))
    inputs = make_inputs(kind, rng)
    np.testing.assert_allclose(
        run(kind, layer, inputs), run(kind, plain, inputs), rtol=1e-6, atol=1e-6
    )


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


def test_masks_pass_learned_layers(tmp_path):
    path = [
        keras.layers.Embedding(9, 4, mask_zero=True),
        keras.layers.Dense(4, activation="relu"),
        keras.layers.TimeDistributed(keras.layers.Dense(4)),
        keras.layers.LSTM(3),
    ]
    ids = np.array([[1, 2, 0, 0], [3, 0, 0, 0], [4, 5, 6, 7]])
    model = keras.Sequential(path)
    model(ids)
    sparse = sos.sparsify(model, TECHNIQUES[0])
    assert np.isfinite(sparse(ids, training=True)).all()
    np.testing.assert_allclose(sparse(ids), sos.strip(sparse)(ids), atol=1e-6)
    # What is masked plays no part.
    longer = np.concatenate([ids, np.zeros((3, 2), int)], axis=1)
    np.testing.assert_allclose(sparse(longer), sparse(ids), atol=1e-6)
    sparse.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(ids), sparse(ids), atol=1e-6)


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
    layer, _ = make_layer("dense", TECHNIQUES[0], rng, activation="relu")
    batches = [tf.constant(make_inputs("dense", rng)) for _ in range(4)]
    expected = [layer(batch).numpy() for batch in batches]

    def call(index):
        return all(
            np.array_equal(layer(batches[index]), expected[index]) for _ in range(50)
        )

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(call, range(4))) == [True] * 4
    assert (layer.use_bias, layer.activation) == (True, keras.activations.relu)


def test_grouped_convolutions_are_compiled_once_and_not_at_each_call(rng):
    layer, _ = make_layer("grouped", sos.L0Regularization(0.0), rng)
    before = layer._jit_compiled_convolution_op.experimental_get_tracing_count()
    for _ in range(3):
        layer(make_inputs("grouped", rng))
    after = layer._jit_compiled_convolution_op.experimental_get_tracing_count()
    assert before <= after <= before + 1
    assert after > 0


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
