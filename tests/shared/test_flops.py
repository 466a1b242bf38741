"""Operations by hand, those that were published, and those of training."""

import numpy as np
import pytest
from keras import ops

from tests.flavour import (
    BACKEND,
    IS_KERAS3,
    begin_training,
    compiled,
    fit,
    keras,
    register,
    sos,
    to_numpy,
)
from tests.shared import zoo
from tests.shared.reference import cubic_sparsity

layers = keras.layers
NOW = sos.MagnitudePruning(0.6, begin_step=1, end_step=1, frequency=1)
pytestmark = [pytest.mark.feature("count_flops"), pytest.mark.any_backend]
training = pytest.mark.feature("count_training_flops")


def to_itself(layer):
    """A layer of attention, called with one tensor for all."""
    return lambda x: layer(x, x)


# Makes a layer, shape of its inputs, and multiply-adds by hand.
KINDS = {
    "Dense": (lambda: layers.Dense(3), (5, 4), 5 * 4 * 3),
    "EinsumDense": (
        lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 3)),
        (5, 4),
        5 * 4 * 2 * 3,
    ),
    "EinsumDense of any rank": (
        lambda: layers.EinsumDense("...x,xy->...y", 7),
        (2, 3, 4),
        2 * 3 * 4 * 7,
    ),
    "EinsumDense over positions": (
        lambda: layers.EinsumDense("abc,bd->adc", (6, None)),
        (5, 4),
        4 * 5 * 6,
    ),
    "Conv1D": (lambda: layers.Conv1D(3, 2, padding="causal"), (5, 4), 5 * 2 * 4 * 3),
    "Conv2D": (
        lambda: layers.Conv2D(6, 3, strides=2, groups=2),
        (9, 9, 4),
        16 * 9 * 2 * 6,
    ),
    "Conv1DTranspose": (
        lambda: layers.Conv1DTranspose(3, 2, strides=2),
        (4, 5),
        4 * 2 * 5 * 3,
    ),
    "Conv2DTranspose": (
        lambda: layers.Conv2DTranspose(3, 2, strides=2, padding="same"),
        (4, 4, 5),
        16 * 4 * 5 * 3,
    ),
    "Conv3DTranspose": (
        lambda: layers.Conv3DTranspose(2, 2),
        (2, 3, 2, 2),
        12 * 8 * 2 * 2,
    ),
    "DepthwiseConv2D": (
        lambda: layers.DepthwiseConv2D(3, depth_multiplier=2),
        (5, 5, 3),
        9 * 9 * 3 * 2,
    ),
    "SeparableConv2D": (
        lambda: layers.SeparableConv2D(5, 3, depth_multiplier=2, strides=2),
        (7, 7, 3),
        9 * (9 * 3 * 2 + 6 * 5),
    ),
    "Embedding": (lambda: layers.Embedding(9, 4), (3,), 0),
    "PReLU": (lambda: layers.PReLU(), (3, 4), 0),
    "LayerNormalization": (lambda: layers.LayerNormalization(axis=(1, 2)), (3, 4), 0),
    "SimpleRNN": (lambda: layers.SimpleRNN(3), (5, 2), 5 * (2 * 3 + 3 * 3)),
    "LSTM": (
        lambda: layers.LSTM(3, return_sequences=True),
        (5, 2),
        5 * 4 * (2 * 3 + 3 * 3),
    ),
    "GRU": (lambda: layers.GRU(3), (5, 2), 5 * 3 * (2 * 3 + 3 * 3)),
    "RNN of several cells": (
        lambda: layers.RNN([layers.GRUCell(2), layers.LSTMCell(3)]),
        (5, 4),
        5 * (3 * (4 * 2 + 2 * 2) + 4 * (2 * 3 + 3 * 3)),
    ),
    "Bidirectional": (
        lambda: layers.Bidirectional(layers.LSTM(3)),
        (5, 2),
        2 * 5 * 4 * (2 * 3 + 3 * 3),
    ),
    "TimeDistributed": (
        lambda: layers.TimeDistributed(layers.Conv1D(3, 2)),
        (5, 4, 2),
        5 * 3 * 2 * 2 * 3,
    ),
    "ConvLSTM2D": (
        lambda: layers.ConvLSTM2D(2, 3, return_sequences=True),
        (3, 5, 5, 2),
        3 * 9 * (9 * 2 * 8 + 9 * 2 * 8),
    ),
    # Projections of 5 positions, and 5 queries with 5 keys and values.
    "MultiHeadAttention": (
        lambda: to_itself(layers.MultiHeadAttention(2, 3)),
        (5, 6),
        4 * 5 * 6 * 2 * 3 + 5 * 5 * 2 * (3 + 3),
    ),
    # Rows attend to each other, for each of the 4 columns.
    "MultiHeadAttention along an axis": (
        lambda: to_itself(layers.MultiHeadAttention(2, 3, attention_axes=(1,))),
        (5, 4, 6),
        5 * 4 * 4 * 6 * 2 * 3 + 4 * 5 * 5 * 2 * (3 + 3),
    ),
    "Attention": (
        lambda: lambda x: layers.Attention()([x, x]),
        (5, 6),
        5 * 5 * (6 + 6),
    ),
}
if BACKEND != "jax":  # Where Keras has none of it.
    KINDS["MultiHeadAttention to wide values"] = (
        lambda: to_itself(layers.MultiHeadAttention(2, 3, value_dim=4)),
        (5, 6),
        5 * 6 * 2 * (3 + 3 + 4) + 5 * 2 * 4 * 6 + 5 * 5 * 2 * (3 + 4),
    )
if IS_KERAS3:
    # 4 heads of queries, 2 of keys and values.
    KINDS["GroupQueryAttention"] = (
        lambda: to_itself(layers.GroupQueryAttention(3, 4, 2)),
        (5, 6),
        5 * 6 * 3 * (4 + 2 + 2) + 5 * 4 * 3 * 6 + 5 * 5 * 4 * (3 + 3),
    )


def of_one_layer(make, shape, dtype="float32"):
    x = keras.Input(shape, dtype=dtype)
    return keras.Model(x, make()(x))


@pytest.mark.parametrize("kind", KINDS)
def test_multiply_adds_of_a_kind(kind):
    make, shape, expected = KINDS[kind]
    model = of_one_layer(make, shape, "int32" if kind == "Embedding" else "float32")
    flops = sos.count_flops(model)
    assert flops.dense == 2 * expected
    assert flops.dense == sum(each.dense for each in flops.layers.values())
    for weight in model.trainable_weights:
        weight.assign(np.zeros(weight.shape))
    left = sos.count_flops(model)
    assert left.dense == flops.dense
    # Of layers without weights, the products of activations.
    products = [n for n, f in left.layers.items() if f.sparse]
    assert len(products) == ("Attention" in kind)
    assert all("/" not in name for name in products)


@pytest.mark.parametrize("untied", [False, True])
def test_logits_of_a_reversible_embedding_count_and_lookups_do_not(untied):
    if not IS_KERAS3:
        pytest.skip("a layer of Keras 3")
    embedding = layers.ReversibleEmbedding(9, 4, tie_weights=not untied)
    ids = keras.Input((3,), dtype="int32")
    model = keras.Model(ids, embedding(embedding(ids), reverse=True))
    assert sos.count_flops(model).dense == 2 * 3 * 4 * 9


def test_keys_may_be_others_than_queries():
    query, value = keras.Input((5, 6)), keras.Input((7, 8))
    attended = layers.MultiHeadAttention(2, 3)(value=value, query=query)
    model = keras.Model([query, value], attended)
    projections = 5 * 6 * 6 + 2 * 7 * 8 * 6 + 5 * 6 * 6
    assert sos.count_flops(model).dense == 2 * (projections + 5 * 7 * 2 * 6)


def cnn():
    """A small network with convolutions; and how much it computes, by hand."""
    network = [
        keras.Input((9, 9, 2)),
        layers.Conv2D(4, 3, strides=2, name="c"),
        layers.Conv2D(6, 3, padding="same", groups=2, name="g"),
        layers.Flatten(name="f"),
        layers.Dense(5, name="d"),
    ]
    # 9 x 9 x 2 inputs make 4 x 4 positions.
    operations = 2 * (16 * 4 * (9 * 2) + 16 * 6 * (9 * 2) + 96 * 5)
    return keras.Sequential(network), operations


def test_operations_of_a_cnn_dense_and_sparse(rng):
    model, expected = cnn()
    assert sos.count_flops(model) == sos.Flops(expected, expected)
    sparse = compiled(sos.sparsify(model, NOW))
    inputs = rng.normal(size=(4, 9, 9, 2)).astype("float32")
    fit(sparse, inputs, np.zeros((4, 5)))
    positions = {"c/kernel": 16, "g/kernel": 16, "d/kernel": 1}
    by_layer = {
        x.name: sos.Flops(
            2 * positions[x.name] * x.size, 2 * positions[x.name] * (x.size - x.zeros)
        )
        for x in sos.sparsity_report(sparse).layers
    }
    left = sum(each.sparse for each in by_layer.values())
    for counted in map(sos.count_flops, (sparse, sos.strip(sparse))):
        assert counted == sos.Flops(expected, left)
        assert counted.layers == by_layer


@pytest.mark.parametrize(
    ("kind", "technique"),
    [("functional", sos.L0Regularization(1e-3)), ("subclassed", NOW)],
)
def test_layers_within_layers_count_by_their_paths(kind, technique, rng):
    model = zoo.ALL[kind]()
    by_hand = {
        "block/first/kernel": 6 * 4,
        "block/second/kernel": 4 * 4,
        "block/third/kernel": 4 * 4,
        "block/attention/query/kernel": 4 * 4,
        "block/attention/key/kernel": 4 * 4,
        "block/attention/value/kernel": 4 * 4,
        "block/attention/attention_output/kernel": 4 * 4,
        # Of two heads: one query and one key of width 2, and one value.
        "block/attention": 2 * (2 + 2),
        "inner/dense/kernel": 4 * 4,
        "head/kernel": 4 * 3,
    }
    if kind == "functional":
        by_hand["shared/kernel"] = 2 * 4 * 4
    dense = sos.count_flops(model)
    assert {n: f.dense for n, f in dense.layers.items()} == {
        name: 2 * multiply_adds for name, multiply_adds in by_hand.items()
    }
    sparse = sos.sparsify(model, technique)
    begin_training(sparse)
    sparse(zoo.data(rng)[0], training=True)
    counted = sos.count_flops(sparse)
    assert counted.dense == dense.dense
    assert counted.layers["block/attention"].sparse == 2 * by_hand["block/attention"]
    for row in sos.sparsity_report(sparse).layers:
        flops = counted.layers[row.name]
        assert flops.sparse * row.size == flops.dense * (row.size - row.zeros)
    stripped = sos.strip(sparse)
    assert sos.count_flops(stripped) == counted
    assert sos.count_flops(stripped).layers == counted.layers


def test_layers_and_models_used_twice_count_twice():
    x = keras.Input((4,))
    layer = layers.Dense(4)
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4)])
    model = keras.Model(x, inner(inner(layer(layer(x)))))
    assert sos.count_flops(model).dense == 2 * 4 * 16


def test_a_model_is_applied_at_each_step():
    encoder, operations = cnn()
    x = keras.Input((3, 9, 9, 2))
    model = keras.Model(x, layers.LSTM(2)(layers.TimeDistributed(encoder)(x)))
    recurrent = 2 * 3 * 8 * (5 + 2)
    assert sos.count_flops(model).dense == 3 * operations + recurrent


def test_counting_leaves_a_model_as_it_was(rng):
    model = zoo.subclassed()
    inputs, _ = zoo.data(rng)
    before = to_numpy(model(inputs)), {id(x): set(vars(x)) for x in model.layers}
    sos.count_flops(model)
    np.testing.assert_array_equal(to_numpy(model(inputs)), before[0])
    assert {id(x): set(vars(x)) for x in model.layers} == before[1]


def test_an_example_says_what_the_model_leaves_open():
    x = keras.Input((None, 2))
    model = keras.Model(x, layers.Conv1D(3, 2)(x))
    with pytest.raises(ValueError, match=r"inputs of no fixed size.* Pass `inputs`"):
        sos.count_flops(model)
    examples = np.zeros((8, 5, 2), "float32")
    assert sos.count_flops(model, examples).dense == 2 * 4 * 2 * 2 * 3


@register
class MadeInInit(keras.Model):
    """Has its weights before it was ever called."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(3)
        self.dense.build((None, 2))
        self.built = True

    def call(self, inputs):
        return self.dense(inputs)


def test_a_model_of_which_no_inputs_are_known_takes_an_example():
    model = MadeInInit(name="unknown")
    with pytest.raises(ValueError, match=r"inputs of model 'unknown' are not known"):
        sos.count_flops(model)
    assert sos.count_flops(model, np.zeros((1, 4, 2), "float32")).dense == 2 * 4 * 2 * 3


@register
class Mixing(layers.Layer):
    """Multiplies with a matrix of its own."""

    def build(self, input_shape):
        size = input_shape[-1]
        self.matrix = self.add_weight(shape=(size, size), name="matrix")
        self.built = True

    def call(self, inputs):
        return inputs @ self.matrix

    def get_prunable_weights(self):
        return [self.matrix]


@register
class CountedMixing(Mixing):
    def weight_uses(self, input_shape, output_shape):
        del output_shape
        return {"matrix": input_shape[0] * input_shape[1]}


@register
class Cell(layers.Layer):
    """A recurrent cell of one's own."""

    state_size = units = 2

    def build(self, input_shape):
        self.inward = layers.Dense(2)
        self.inward.build(input_shape)
        self.built = True

    def call(self, inputs, states):
        return self.inward(inputs) + states[0], states


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mixing(name="m"), r"No rule .*'m' of kind Mixing with matrix"),
        (lambda: layers.RNN(Cell(name="c")), r"No rule .*'c' of kind Cell"),
    ],
    ids=["matrix", "cell"],
)
def test_what_has_no_rule_is_an_error(make, message):
    with pytest.raises(ValueError, match=message):
        sos.count_flops(of_one_layer(make, (5, 4)))


def test_a_layer_of_ones_own_says_how_often_its_weights_are_used():
    model = of_one_layer(lambda: CountedMixing(name="m"), (5, 4))
    flops = sos.count_flops(sos.sparsify(model, NOW))
    assert flops.dense == 2 * 5 * 4 * 4
    assert set(flops.layers) == {"m/matrix"}


@register
class Attending(layers.Layer):
    """Self-attention over layers of Keras, whose products it computes itself."""

    def build(self, input_shape):
        self.inward = layers.Dense(input_shape[-1], use_bias=False, name="inward")
        self.inward.build(input_shape)
        self.built = True

    def call(self, queries, memory):
        keys = self.inward(memory)
        return ops.einsum(
            "bts,bsd->btd", ops.einsum("btd,bsd->bts", queries, keys), keys
        )


@register
class CountedAttending(Attending):
    def activation_products(self, input_shapes, output_shape):
        (batch, length, width), memory = input_shapes
        assert output_shape == (batch, length, width)
        return 2 * batch * length * memory[1] * width


@register
class CountedHeads(layers.MultiHeadAttention):
    """Of a kind that is counted anyway."""

    def activation_products(self, input_shapes, output_shape):
        del output_shape
        return input_shapes[0][1]


def attending(make, memory=(5, 4)):
    inputs = keras.Input((5, 4)), keras.Input(memory)
    return keras.Model(inputs, make()(*inputs))


def test_a_layer_of_ones_own_says_what_it_computes_of_activations():
    plain = sos.count_flops(attending(lambda: Attending(name="own")))
    assert plain.dense == 2 * 5 * 4 * 4
    for length in (5, 7):
        model = attending(lambda: CountedAttending(name="own"), (length, 4))
        flops = sos.count_flops(model)
        # Scores and weighted sum: a multiply-add for each pair and feature.
        assert flops.layers["own"] == sos.Flops(*[2 * 2 * 5 * length * 4] * 2)
        assert flops.dense == 2 * length * 4 * 4 + 2 * 2 * 5 * length * 4
        sparse = sos.count_flops(sos.sparsify(model, NOW))
        assert sparse.layers["own"] == flops.layers["own"]


def test_what_a_layer_says_takes_the_place_of_the_rule_for_its_kind():
    flops = sos.count_flops(attending(lambda: CountedHeads(2, 3, name="own")))
    assert flops.layers["own"].dense == 2 * 5
    kernels = [n for n in flops.layers if n.endswith("/kernel")]
    assert len(kernels) == 4


# Multiply-adds for an image of the model's own size.
PUBLISHED = {
    "MobileNetV2": 300e6,  # Sandler et al. 2018 (arXiv 1801.04381), table 4
    "ResNet50": 3.86e9,  # Hu et al. 2018 (arXiv 1709.01507), table 2
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "MobileNetV2" else pytest.mark.slow)
        for name in PUBLISHED
    ],
)
def test_published_counts(name):
    model = getattr(keras.applications, name)(weights=None)
    multiply_adds = sos.count_flops(model).dense / 2
    assert multiply_adds == pytest.approx(PUBLISHED[name], rel=0.02)


RAMPS = {
    "single weights": sos.MagnitudePruning(0.9, 2, 9, 3),
    "blocks": sos.MagnitudePruning(0.5, 0, 7, 2, 0.3, block_size=(2, 2)),
    "two of four": sos.MagnitudePruning(0.5, 2, 9, 3, sparsity_m_by_n=(2, 4)),
}


@training
@pytest.mark.parametrize("name", RAMPS)
def test_operations_of_training_are_those_of_each_step_summed_up(name, rng):
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(12, name="hidden"),
            layers.Dense(4, name="logits"),
        ]
    )
    sparse = sos.sparsify(
        model, RAMPS[name], {"logits": sos.RandomPruning(0.5, 4, 8, 1)}
    )
    begin_training(sparse)
    inputs = rng.normal(size=(2, 8)).astype("float32")
    by_step = []
    for _ in range(12):
        sparse(inputs, training=True)
        kept = {n: m.sum() for n, m in sos.weight_masks(sparse).items()}
        # A weight is used once forward, twice backward.
        by_step.append(3 * 2 * sum(kept.values()))
    assert len(set(by_step)) > 3
    for steps in (1, 3, 8, 12):
        flops = sos.count_training_flops(sparse, steps)
        assert flops == sos.Flops(6 * steps * (8 * 12 + 12 * 4), sum(by_step[:steps]))


@training
def test_operations_of_a_long_training_after_the_formula():
    model = of_one_layer(lambda: layers.Dense(200, name="d"), (100,))
    steps, begin, end, every = 128_000, 40_000, 76_000, 2_000
    sparse = sos.sparsify(model, sos.MagnitudePruning(0.9, begin, end, every))
    renewals = np.arange(begin, end + 1, every)
    ramp = [cubic_sparsity(step, 0.9, begin, end) for step in renewals]
    at = np.searchsorted(renewals, np.arange(1, steps + 1), side="right")
    density = np.mean(1 - np.array([0.0, *ramp])[at])
    flops = sos.count_training_flops(sparse, steps)
    assert flops.dense == 6 * steps * 20_000
    assert flops.sparse == pytest.approx(flops.dense * density, rel=1e-4)


@training
@pytest.mark.parametrize(
    "technique", [sos.L0Regularization(1e-3), sos.VariationalDropout(1e-3)]
)
def test_learned_techniques_train_all_weights(technique):
    sparse = sos.sparsify(zoo.perceptron(), technique)
    flops = sos.count_training_flops(sparse, 7)
    assert flops.sparse == flops.dense == 3 * 7 * 2 * (6 * 8 + 8 * 3)


@training
def test_attention_and_dense_layers_train_as_ever():
    model = zoo.functional()
    dense = sos.count_training_flops(model, 10)
    assert dense.sparse == dense.dense == 30 * sos.count_flops(model).dense
    sparse = sos.sparsify(model, NOW, {"shared": None})
    trained = sos.count_training_flops(sparse, 10)
    assert trained.dense == dense.dense
    for name in ("shared/kernel", "block/attention"):
        assert trained.layers[name] == dense.layers[name]
    # From the first step on, 10 of 24 are kept: 24 - round(0.6 * 24).
    kernel = trained.layers["block/first/kernel"]
    assert kernel.sparse * 24 == kernel.dense * 10
