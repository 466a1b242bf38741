"""The Transformer, against a NumPy reference and the description in the paper."""

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras, tf
from state_of_sparsity.models.translation.decoding import beam_search
from state_of_sparsity.models.translation.special_ids import END_ID
from state_of_sparsity.models.translation.transformer import (
    INPUT_NAMES,
    Transformer,
    shifted_right,
    sinusoids,
)

VOCABULARY, WIDTH, HEADS = 20, 8, 2
PRUNING = sos.MagnitudePruning(0.5, begin_step=1, end_step=2, frequency=1)


def tiny(rng=None, layers=2, **kwargs):
    """A small built model; with `rng`, no bias is zero and no gamma one."""
    model = Transformer(VOCABULARY, layers, WIDTH, 16, HEADS, **kwargs)
    model.build()
    if rng is not None:
        for weight in model.weights:
            noise = rng.normal(size=weight.shape, scale=0.3)
            weight.assign_add(noise.astype("float32"))
    return model


@pytest.fixture(scope="module")
def model():
    """The model of the tests that change nothing of it."""
    keras.utils.set_random_seed(1)
    return tiny(np.random.default_rng(0))


def rows(*sentences, length):
    """Ids, segments and positions of sentences packed into one row."""
    ids, segments, positions = np.zeros((3, 1, length), "int32")
    begin = 0
    for number, sentence in enumerate(sentences, start=1):
        place = slice(begin, begin + len(sentence))
        ids[0, place], segments[0, place] = sentence, number
        positions[0, place] = np.arange(len(sentence))
        begin += len(sentence)
    return ids, segments, positions


def packed(pairs, source_length, target_length):
    """The inputs of a model for pairs of sentences packed into one row."""
    sources, targets = zip(*pairs, strict=True)
    arrays = rows(*sources, length=source_length) + rows(*targets, length=target_length)
    return dict(zip(INPUT_NAMES, arrays, strict=True))


def stacked(batches):
    return {name: np.concatenate([b[name] for b in batches]) for name in INPUT_NAMES}


@pytest.fixture
def pairs(rng):
    """Source and target sentences of several lengths."""
    lengths = [(3, 4), (2, 2), (4, 3), (1, 5)]
    return [
        tuple([*rng.integers(2, VOCABULARY, n), END_ID] for n in pair)
        for pair in lengths
    ]


def two_rows(pairs):
    """A batch with two of four pairs in each row, and padding on both sides."""
    return stacked([packed(half, 9, 12) for half in (pairs[:2], pairs[2:])])


@pytest.fixture
def batch(pairs):
    return two_rows(pairs)


def test_operations_of_a_row_are_those_of_its_matrices_and_of_attention():
    layers, source, target = 1, 9, 12
    model = tiny(layers=layers)
    example = {
        name: np.zeros((1, source if name.startswith("source") else target), "int32")
        for name in INPUT_NAMES
    }
    flops = sos.count_flops(model, example)
    # Scores and weighted sum of n queries and m keys, all heads together.
    pairs = source**2 + target**2 + target * source
    attention = {n: f.dense for n, f in flops.layers.items() if n.endswith("attention")}
    assert sum(attention.values()) == layers * 2 * 2 * pairs * WIDTH
    assert attention["encoder_1/attention"] == 2 * 2 * source * source * WIDTH
    assert len(attention) == 3 * layers
    feed_forward = 2 * WIDTH * 16
    matrices = source * (4 * WIDTH**2 + feed_forward)
    matrices += target * (4 * WIDTH**2 + 2 * WIDTH**2 + feed_forward)
    matrices += source * 2 * WIDTH**2
    logits = target * WIDTH * VOCABULARY
    expected = layers * (matrices + 2 * pairs * WIDTH) + logits
    assert flops.dense == 2 * expected


class Reference:
    """The forward pass in float64, one sentence, head and position at a time."""

    def __init__(self, model):
        self.values = {
            weight.name.split("/", 1)[1].split(":")[0]: weight.numpy().astype("float64")
            for weight in model.weights
        }
        self.layers = len(model.encoder)

    def logits(self, source, target, start=0):
        """Of a target whose first token is given that of id `start`."""
        memory = self.embed(source)
        for i in range(1, self.layers + 1):
            name = f"encoder_{i}"
            normed = self.norm(memory, f"{name}/attention_norm")
            memory = memory + self.attention(normed, normed, f"{name}/attention")
            memory = memory + self.feed_forward(memory, name)
        memory = self.norm(memory, "encoder_norm")

        x = self.embed([start, *target[:-1]])
        for i in range(1, self.layers + 1):
            name = f"decoder_{i}"
            normed = self.norm(x, f"{name}/self_attention_norm")
            x = x + self.attention(normed, normed, f"{name}/self_attention", True)
            normed = self.norm(x, f"{name}/cross_attention_norm")
            x = x + self.attention(normed, memory, f"{name}/cross_attention")
            x = x + self.feed_forward(x, name)
        x = self.norm(x, "decoder_norm")
        return x @ self.values["embedding/embeddings"].T

    def embed(self, ids):
        vectors = self.values["embedding/embeddings"][ids] * np.sqrt(WIDTH)
        vectors[np.equal(ids, 0)] = 0
        timescales = np.geomspace(1, 10_000, WIDTH // 2)
        for position in range(len(ids)):
            angles = position / timescales
            vectors[position] += np.concatenate([np.sin(angles), np.cos(angles)])
        return vectors

    def norm(self, x, name):
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        normed = (x - mean) / np.sqrt(variance + 1e-6)
        return normed * self.values[f"{name}/gamma"] + self.values[f"{name}/beta"]

    def attention(self, x, memory, name, causal=False):
        maps = ("query", "key", "value", "projection")
        query, key, value, projection = (
            self.values[f"{name}/{m}/kernel"] for m in maps
        )
        heads = []
        for columns in np.split(np.arange(WIDTH), HEADS):
            q, k, v = x @ query[:, columns], memory @ key[:, columns], memory @ value
            outputs = []
            for place in range(len(x)):
                seen = place + 1 if causal else len(memory)
                exponentials = np.exp(k[:seen] @ q[place] / np.sqrt(WIDTH / HEADS))
                weights = exponentials / exponentials.sum()
                outputs.append(weights @ v[:seen, columns])
            heads.append(outputs)
        return np.concatenate(heads, axis=-1) @ projection

    def feed_forward(self, x, name):
        values, normed = self.values, self.norm(x, f"{name}/feed_forward_norm")
        name = f"{name}/feed_forward"
        hidden = normed @ values[f"{name}/hidden/kernel"]
        hidden = np.maximum(hidden + values[f"{name}/hidden/bias"], 0)
        outputs = hidden @ values[f"{name}/projection/kernel"]
        return outputs + values[f"{name}/projection/bias"]


def test_logits_are_those_of_a_reference_in_float64(model, pairs, batch):
    logits = model(batch).numpy()
    assert logits.dtype == "float32"
    assert logits.shape == (2, 12, VOCABULARY)
    reference = Reference(model)
    for row, half in enumerate((pairs[:2], pairs[2:])):
        starts = (0, END_ID)
        expected = np.concatenate(
            [reference.logits(*p, s) for p, s in zip(half, starts, strict=True)]
        )
        actual = logits[row, : len(expected)]
        scale = np.abs(expected).max()
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * scale)


def test_the_target_is_shifted_right_within_its_row():
    target = tf.constant([[5, 6, 1, 7, 1, 0, 0], [8, 9, 1, 0, 0, 0, 0]])
    assert shifted_right(target).numpy().tolist() == [
        [0, 5, 6, 1, 7, 1, 0],
        [0, 8, 9, 1, 0, 0, 0],
    ]


def test_a_sentence_starts_from_zeros_and_not_from_a_trained_vector(batch):
    changed = tiny()
    before = changed(batch).numpy()
    encoded, cache = changed.encode(batch["source"]), changed.start_cache(2, 3)
    first = changed.decode_step(tf.zeros(2, tf.int32), 0, encoded, cache)[0].numpy()
    embeddings = changed.embedding.embeddings
    embeddings.assign(tf.concat([2 * embeddings[:1], embeddings[1:]], axis=0))
    # Of the row of id 0, nothing but its own logit depends on it.
    np.testing.assert_array_equal(changed(batch)[..., 1:], before[..., 1:])
    assert not np.allclose(changed(batch)[..., 0], before[..., 0], atol=0.1)
    again = changed.decode_step(tf.zeros(2, tf.int32), 0, encoded, cache)[0].numpy()
    np.testing.assert_array_equal(again[:, 1:], first[:, 1:])


def test_positions_are_sines_then_cosines_of_timescales_from_1_to_10000():
    positions = np.array([[0, 1, 5], [63, 64, 1000]])
    angles = positions[..., None] / np.geomspace(1, 10_000, 16)
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
    np.testing.assert_allclose(sinusoids(positions, 32), expected, atol=2e-4)
    near = positions < 100
    np.testing.assert_allclose(
        sinusoids(positions, 32).numpy()[near], expected[near], atol=1e-5
    )


@pytest.mark.slow
def test_the_base_model_has_the_parameters_of_the_closed_form():
    model = Transformer(33_288)
    model.build()
    feed_forward = 512 * 2048 + 2048 + 2048 * 512 + 512
    encoder = 6 * (4 * 512**2 + feed_forward + 2 * 2 * 512)
    decoder = 6 * (8 * 512**2 + feed_forward + 3 * 2 * 512)
    expected = 33_288 * 512 + encoder + decoder + 2 * 2 * 512
    assert expected == 61_147_136
    assert model.count_params() == expected


def test_the_embedding_starts_from_a_normal_distribution():
    model = Transformer(2000, layers=1, width=16, feed_forward=8, heads=1)
    model.build()
    values = model.embedding.embeddings.numpy()
    assert abs(values.std() * 4 - 1) < 5 / np.sqrt(2 * values.size)
    kernel = model.encoder[0].feed_forward.hidden.kernel.numpy()
    assert np.abs(kernel).max() <= np.sqrt(6 / (16 + 8))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_computes_the_same_but_for_rounding(policy, model, batch):
    keras.mixed_precision.set_global_policy(policy)
    rounded = tiny()
    rounded.set_weights(model.get_weights())
    assert rounded(batch).dtype == "float32"
    assert rounded.encoder[0].attention.query.compute_dtype == policy.split("_")[1]
    real = batch["target_segments"] != 0
    expected = model(batch).numpy()[real]
    error = np.abs(rounded(batch).numpy()[real] - expected).max()
    # The spacing of numbers between 1 and 2 is 2**-10 and 2**-7.
    spacing = {"mixed_float16": 2**-10, "mixed_bfloat16": 2**-7}[policy]
    assert error < 10 * spacing * np.abs(expected).max()


def test_every_variable_gets_a_gradient(rng, batch):
    # Without dropout, training and inference are the same.
    model = tiny(rng, dropout=0.0, layers=1)
    np.testing.assert_array_equal(model(batch, training=True), model(batch))
    real = tf.cast(batch["target_segments"] != 0, tf.float32)
    with tf.GradientTape() as tape:
        losses = keras.losses.sparse_categorical_crossentropy(
            batch["target"], model(batch, training=True), from_logits=True
        )
        loss = tf.reduce_sum(losses * real)
    gradients = tape.gradient(loss, model.trainable_variables)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert np.abs(tf.convert_to_tensor(gradient)).max() > 0, variable.name


def test_dropout_is_for_training_alone(batch):
    model = tiny(dropout=0.5, layers=1)
    expected = model(batch, training=False).numpy()
    np.testing.assert_array_equal(model(batch), expected)
    assert not np.allclose(model(batch, training=True), expected, atol=0.1)


def test_a_saved_model_loads_with_its_outputs(model, batch, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(batch), model(batch))
    assert loaded.get_config() == model.get_config()


def test_an_exported_model_takes_its_inputs_by_name_in_any_length(batch, tmp_path):
    # The names are those of the inputs, however many models were made before.
    tiny(layers=1)
    sparse = sos.sparsify(tiny(layers=1), PRUNING)
    sos.export_saved_model(sparse, tmp_path)
    serve = tf.saved_model.load(tmp_path).signatures["serving_default"]
    for part in (batch, {name: array[:1, :5] for name, array in batch.items()}):
        inputs = {name: tf.constant(array) for name, array in part.items()}
        (logits,) = serve(**inputs).values()
        np.testing.assert_allclose(logits, sos.strip(sparse)(part), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "technique",
    [
        PRUNING,
        pytest.param(sos.VariationalDropout(1e-3), marks=pytest.mark.slow),
        pytest.param(sos.L0Regularization(1e-3), marks=pytest.mark.slow),
    ],
    ids=lambda technique: type(technique).__name__,
)
def test_a_sparse_model_trains_and_its_stripped_one_computes_the_same(technique):
    batch = two_rows([([3, 4, 5, 1], [6, 7, 1]), ([8, 1], [9, 10, 11, 1])] * 2)
    dense = tiny(layers=1)
    sparse = sos.sparsify(dense, technique)
    # Queries, keys, values and projections of three attentions, two feed-forward
    # blocks and the embedding: every matrix, and no other weight.
    report = sos.sparsity_report(sparse)
    assert len(report.layers) == 3 * 4 + 2 * 2 + 1
    assert {layer.technique for layer in report.layers} == {technique.technique_name()}
    matrices = [w for w in dense.weights if w.shape.rank > 1]
    sizes = sum(matrix.shape.num_elements() for matrix in matrices)
    assert sum(layer.size for layer in report.layers) == sizes

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    sparse.compile(keras.optimizers.Adam(0.01), loss)
    sparse.fit(
        batch,
        batch["target"],
        sample_weight=(batch["target_segments"] != 0).astype("float32"),
        batch_size=1,
        epochs=2,
        callbacks=sos.callbacks(sparse),
        verbose=0,
    )
    # The embedding is used several times, and counts a step once.
    pruned = technique is PRUNING
    counter = "pruning_step" if pruned else "training_step"
    assert int(getattr(sparse.embedding, counter)) == 4

    stripped = sos.strip(sparse)
    assert type(stripped) is Transformer
    assert type(stripped.embedding).__name__ == "TiedEmbedding"
    assert type(stripped.encoder[0].attention.query) is keras.layers.Dense
    assert stripped.count_params() == dense.count_params()
    np.testing.assert_allclose(stripped(batch), sparse(batch), atol=1e-5)
    for layer in sos.sparsity_report(stripped).layers if pruned else ():
        assert layer.zeros == round(0.5 * layer.size), layer.name

    source = tf.constant([[3, 4, 5, 1], [8, 1, 0, 0]])
    found = [beam_search(m, source, 6, beams=2) for m in (sparse, stripped)]
    np.testing.assert_array_equal(found[0].ids, found[1].ids)
    np.testing.assert_allclose(found[0].scores, found[1].scores, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocabulary_size": 0}, "vocabulary_size must be at least 1. Received: 0"),
        ({"layers": 0}, "layers must be at least 1. Received: 0"),
        ({"heads": 3}, "multiple of heads. Received: width=512, heads=3"),
        ({"width": 7, "heads": 1}, "width must be even .* Received: width=7"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\). Received: 1.0"),
    ],
)
def test_a_bad_argument_is_an_error_which_names_it(arguments, message):
    with pytest.raises(ValueError, match=message):
        Transformer(**{"vocabulary_size": 10, **arguments})
