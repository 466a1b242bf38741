"""Every kind of layer trains sparse, strips to equal outputs, is saved and loaded."""

import numpy as np
import pytest

from tests.flavour import (
    BACKEND,
    compiled,
    fit,
    keras,
    outputs_of,
    register,
    sites,
    sos,
    sparse_layers,
    steps_of,
    to_numpy,
)

layers = keras.layers
TECHNIQUES = {
    "magnitude": sos.MagnitudePruning(0.5, begin_step=1, end_step=2, frequency=1),
    "variational": sos.VariationalDropout(1e-3, initial_log_sigma2=-4.0),
    "l0": sos.L0Regularization(1e-3),
}


@register
class Cell(layers.Layer):
    """A recurrent cell of one's own, which holds Dense layers."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units
        self.inward = layers.Dense(units, name="inward")
        self.onward = [layers.Dense(units, use_bias=False, name="onward")]

    def build(self, input_shape):
        self.inward.build(input_shape)
        self.onward[0].build((None, self.units))
        self.built = True

    def call(self, inputs, states):
        new = keras.ops.tanh(self.inward(inputs) + self.onward[0](states[0]))
        return new, [new]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def stacked():
    return layers.RNN([layers.GRUCell(2), layers.LSTMCell(3)])


# Makes a layer, shape of its inputs, how many weights become sparse by pruning, and by
# the others, which take depthwise kernels too.
KINDS = {
    "Dense": (lambda: layers.Dense(3), (4,), 1, 1),
    "EinsumDense": (
        lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de"),
        (3, 4),
        1,
        1,
    ),
    "Conv1D": (lambda: layers.Conv1D(3, 2, padding="causal"), (5, 2), 1, 1),
    "Conv2D": (
        lambda: layers.Conv2D(2, 3, strides=2, padding="same", groups=2),
        (5, 5, 2),
        1,
        1,
    ),
    "Conv3D": (lambda: layers.Conv3D(2, 2, activation="relu"), (3, 3, 3, 2), 1, 1),
    "Conv1DTranspose": (lambda: layers.Conv1DTranspose(3, 2), (4, 2), 1, 1),
    "Conv2DTranspose": (
        lambda: layers.Conv2DTranspose(2, 2, strides=2),
        (3, 3, 2),
        1,
        1,
    ),
    "Conv3DTranspose": (lambda: layers.Conv3DTranspose(2, 2), (2, 2, 2, 2), 1, 1),
    "DepthwiseConv1D": (lambda: layers.DepthwiseConv1D(2), (5, 2), 0, 1),
    "DepthwiseConv2D": (
        lambda: layers.DepthwiseConv2D(2, depth_multiplier=2),
        (4, 4, 2),
        0,
        1,
    ),
    "SeparableConv1D": (lambda: layers.SeparableConv1D(3, 2), (5, 2), 1, 2),
    "SeparableConv2D": (lambda: layers.SeparableConv2D(3, 2), (4, 4, 2), 1, 2),
    "Embedding": (lambda: layers.Embedding(9, 4), (3,), 1, 1),
    "ReversibleEmbedding": (lambda: layers.ReversibleEmbedding(9, 4), (3,), 1, 1),
    "SimpleRNN": (lambda: layers.SimpleRNN(3), (3, 2), 2, 2),
    "LSTM": (lambda: layers.LSTM(3), (3, 2), 2, 2),
    "GRU": (lambda: layers.GRU(3, return_sequences=True), (3, 2), 2, 2),
    "ConvLSTM1D": (lambda: layers.ConvLSTM1D(2, 2), (3, 4, 2), 2, 2),
    "ConvLSTM2D": (lambda: layers.ConvLSTM2D(2, 2), (3, 3, 3, 2), 2, 2),
    "ConvLSTM3D": (lambda: layers.ConvLSTM3D(1, 2), (2, 3, 3, 3, 1), 2, 2),
    "Bidirectional": (lambda: layers.Bidirectional(layers.LSTM(2)), (3, 2), 4, 4),
    "TimeDistributed": (lambda: layers.TimeDistributed(layers.Dense(3)), (3, 2), 1, 1),
    "StackedRNNCells": (stacked, (3, 2), 4, 4),
    "RNN of a custom cell": (lambda: layers.RNN(Cell(3)), (3, 2), 2, 2),
}
IDS = ("Embedding", "ReversibleEmbedding")
# What is compiled takes seconds for each kind: of the others, the slow tests ask.
QUICK = ("Dense", "EinsumDense", "Conv2D", "DepthwiseConv2D", "Embedding", "LSTM")


def make_model(kind):
    make, shape, *_ = KINDS[kind]
    x = keras.Input(shape, dtype="int32" if kind in IDS else "float32")
    layer = make()
    return keras.Model(x, layer(x))


def make_inputs(kind, rng, examples=4):
    shape = (examples, *KINDS[kind][1])
    if kind in IDS:
        return rng.integers(0, 9, shape).astype("int32")
    return rng.normal(size=shape).astype("float32")


def check_trained(sparse, inputs, tmp_path):
    """What holds of every trained sparse model: see the test's name."""
    expected = outputs_of(sparse, inputs)
    largest = np.abs(expected).max()
    stripped = sos.strip(sparse)
    np.testing.assert_allclose(
        outputs_of(stripped, inputs), expected, rtol=0, atol=1e-5 * largest
    )
    assert not sparse_layers(stripped)
    sparse.save(tmp_path / "sparse.keras")
    stripped.save(tmp_path / "stripped.keras")
    for name in ("sparse", "stripped"):
        loaded = keras.models.load_model(tmp_path / f"{name}.keras")
        np.testing.assert_allclose(
            outputs_of(loaded, inputs), expected, rtol=0, atol=1e-5 * largest
        )
        assert len(sparse_layers(loaded)) == (
            len(sparse_layers(sparse)) if name == "sparse" else 0
        )
    sparse.save_weights(tmp_path / "sparse.weights.h5")
    before = [to_numpy(v).copy() for v in sparse.weights]
    for variable in sparse.weights:
        variable.assign(np.zeros(tuple(variable.shape)))
    sparse.load_weights(tmp_path / "sparse.weights.h5")
    for variable, value in zip(sparse.weights, before, strict=True):
        np.testing.assert_array_equal(to_numpy(variable), value)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(
            kind,
            name,
            id=f"{kind}-{name}",
            marks=[
                pytest.mark.feature(f"{kind} layers"),
                *([] if kind in QUICK or BACKEND == "torch" else [pytest.mark.slow]),
            ],
        )
        for place, kind in enumerate(KINDS)
        for number, name in enumerate(TECHNIQUES)
        # Each kind is pruned, and learns with one of the others.
        if number == 0 or place % 2 == number - 1
    ],
)
def test_a_kind_trains_strips_saves_and_loads(kind, name, rng, tmp_path):
    model = make_model(kind)
    *_, pruned, learned = KINDS[kind]
    count = pruned if name == "magnitude" else learned
    overrides = None
    if count == 0:
        # Pruning leaves depthwise kernels dense unless they are named.
        overrides, count = {model.layers[-1].name: TECHNIQUES[name]}, 1
    sparse = compiled(sos.sparsify(model, TECHNIQUES[name], overrides))
    inputs = make_inputs(kind, rng)
    before = outputs_of(sparse, inputs)
    fit(sparse, inputs, np.ones_like(before), batch_size=2)
    assert steps_of(sparse) == {2}
    assert np.abs(outputs_of(sparse, inputs) - before).max() > 1e-5
    report = sos.sparsity_report(sparse)
    assert len(report.sparsified) == count
    assert report == sos.sparsity_report(sos.strip(sparse))
    if name == "magnitude":
        for layer in report.sparsified:
            assert layer.zeros == round(0.5 * layer.size), layer.name
    check_trained(sparse, inputs, tmp_path)


@pytest.mark.feature("MultiHeadAttention, GroupedQueryAttention")
@pytest.mark.parametrize("name", ["magnitude", "variational"])
@pytest.mark.parametrize("kind", ["MultiHeadAttention", "GroupQueryAttention"])
def test_all_projections_of_attention_become_sparse(kind, name, rng, tmp_path):
    x = keras.Input((3, 4))
    if kind == "MultiHeadAttention":
        attention = layers.MultiHeadAttention(2, 2, dropout=0.1, name="attention")
    else:
        attention = layers.GroupQueryAttention(2, 2, 1, name="attention")
    model = keras.Model(x, attention(x, x, use_causal_mask=True))
    sparse = compiled(sos.sparsify(model, TECHNIQUES[name]))
    inputs = rng.normal(size=(4, 3, 4)).astype("float32")
    fit(sparse, inputs, inputs)
    names = {site.path for site in sites(sparse) if site.is_sparse}
    parts = ("query", "key", "value", "attention_output")
    assert names == {f"attention/{part}" for part in parts}
    assert steps_of(sparse) == {1}
    check_trained(sparse, inputs, tmp_path)


@pytest.mark.feature("ReversibleEmbedding layers")
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["magnitude", "variational"])
def test_a_reversible_embedding_is_used_both_ways(name, tied, rng, tmp_path):
    x = keras.Input((3,), dtype="int32")
    embedding = layers.ReversibleEmbedding(9, 4, tie_weights=tied, name="embedding")
    model = keras.Model(x, embedding(embedding(x), reverse=True))
    sparse = compiled(sos.sparsify(model, TECHNIQUES[name]))
    inputs = rng.integers(0, 9, (4, 3)).astype("int32")
    fit(sparse, inputs, rng.normal(size=(4, 3, 9)).astype("float32"))
    assert steps_of(sparse) == {1}
    assert len(sos.sparsity_report(sparse).layers) == (1 if tied else 2)
    check_trained(sparse, inputs, tmp_path)


@pytest.mark.feature("masking of sequences")
@pytest.mark.parametrize("name", ["magnitude", "variational"])
def test_masks_of_sequences_reach_the_layers_behind(name, rng):
    x = keras.Input((None,), dtype="int32")
    embedded = layers.Embedding(9, 3, mask_zero=True, name="embedding")(x)
    model = keras.Model(x, layers.LSTM(3, name="lstm")(embedded))
    sparse = sos.sparsify(model, TECHNIQUES[name])
    short, long = np.array([[3, 5, 0, 0]]), np.array([[3, 5, 1, 1]])
    padded = np.array([[3, 5]])
    y = outputs_of(sparse, short)
    np.testing.assert_allclose(y, outputs_of(model, short), rtol=0.05, atol=1e-2)
    assert np.abs(y - outputs_of(sparse, long)).max() > 1e-4
    np.testing.assert_allclose(y, outputs_of(sparse, padded), atol=1e-6)


@pytest.mark.feature("layers made by hand (state_of_sparsity.layers)")
@pytest.mark.parametrize("prefix", ["Variational", "L0"])
def test_layers_by_hand_are_those_that_sparsify_makes(prefix, rng, tmp_path):
    from state_of_sparsity import layers as by_hand

    weight = {"kl_weight": 1e-3} if prefix == "Variational" else {"l0_weight": 1e-3}
    make = {
        kind: getattr(by_hand, f"{prefix}{kind}")
        for kind in ("Embedding", "GRU", "Dense")
    }
    x = keras.Input((3,), dtype="int32")
    h = make["Embedding"](9, 4, name="e", **weight)(x)
    h = make["GRU"](3, name="g", **weight)(h)
    y = make["Dense"](
        2, activation="relu", kernel_regularizer="l2", name="d", **weight
    )(h)
    model = compiled(keras.Model(x, y))
    assert len(sparse_layers(model)) == 3
    inputs = rng.integers(0, 9, (4, 3)).astype("int32")
    fit(model, inputs, np.ones((4, 2), "float32"), batch_size=2)
    assert steps_of(model) == {2}
    # Three penalties and a regularizer.
    assert len(model.losses) == 5
    check_trained(model, inputs, tmp_path)


@pytest.mark.feature("LoRA and quantized layers are refused")
@pytest.mark.parametrize("obstacle", ["LoRA", "quantized"])
def test_layers_that_hide_their_weights_are_refused(obstacle):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="d")])
    if obstacle == "LoRA":
        model.layers[0].enable_lora(2)
    else:
        model.quantize("int8")
    with pytest.raises(ValueError, match=rf"Layer 'd' .*{obstacle}"):
        sos.sparsify(model, TECHNIQUES["magnitude"])


@pytest.mark.feature("LoRA and quantized layers are refused")
@pytest.mark.parametrize("name", TECHNIQUES)
def test_sparse_layers_are_not_quantized_nor_given_lora(name):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="d")])
    sparse = sos.sparsify(model, TECHNIQUES[name])
    with pytest.raises(ValueError, match=r"'d' cannot be given LoRA.*sos\.strip"):
        sparse.layers[0].enable_lora(2)
    with pytest.raises(ValueError, match=r"'d' cannot be quantized.*sos\.strip"):
        sparse.layers[0].quantize("int8")
    with pytest.raises(ValueError, match=r"'d' cannot be quantized.*sos\.strip"):
        sparse.quantize("int8")
    stripped = sos.strip(sparse)
    stripped.layers[0].enable_lora(2)


@pytest.mark.feature("parts of a sparse model in another model")
@pytest.mark.parametrize("name", ["magnitude", "variational"])
def test_a_part_of_a_sparse_model_trains_in_another_model(name, rng):
    x = keras.Input((4,))
    features = layers.Dense(3, activation="tanh", name="features")(x)
    model = keras.Model(x, layers.Dense(2, name="head")(features))
    sparse = sos.sparsify(model, TECHNIQUES[name])
    part = keras.Model(sparse.inputs, sparse.get_layer("features").output)
    new = compiled(keras.Sequential([part, layers.Dense(1, name="new")]))
    inputs = rng.normal(size=(4, 4)).astype("float32")
    fit(new, inputs, np.ones((4, 1), "float32"), batch_size=2)
    assert steps_of(new) == {2}
    if name == "variational":
        assert len(new.losses) == 1
    stripped = sos.strip(new)
    np.testing.assert_allclose(
        outputs_of(stripped, inputs), outputs_of(new, inputs), atol=1e-5
    )


@pytest.mark.feature("models of hundreds of layers")
def test_a_model_of_more_layers_than_python_has_frames(rng):
    x = y = keras.Input((2,))
    for place in range(400):
        y = keras.layers.Add(name=f"add_{place}")([y, x])
    model = keras.Model(x, keras.layers.Dense(2, name="head")(y))
    sparse = sos.sparsify(model, TECHNIQUES["magnitude"])
    inputs = rng.normal(size=(3, 2)).astype("float32")
    np.testing.assert_array_equal(outputs_of(sparse, inputs), outputs_of(model, inputs))
    stripped = sos.strip(sparse)
    np.testing.assert_array_equal(
        outputs_of(stripped, inputs), outputs_of(model, inputs)
    )


@pytest.mark.feature("budgets: uniform, first dense and last capped, ERK")
def test_the_part_of_a_separable_convolution_that_stays_dense_is_made_up_for(rng):
    x = keras.Input((8, 8, 4))
    y = keras.layers.SeparableConv2D(6, 3, name="separable")(x)
    y = keras.layers.Dense(5, name="dense")(keras.layers.Flatten()(y))
    sparse = compiled(
        sos.sparsify(
            keras.Model(x, y), sos.MagnitudePruning(0.6, 1, 1, 1), budget=sos.ERK()
        )
    )
    fit(sparse, rng.normal(size=(4, 8, 8, 4)), np.ones((4, 5)))
    report = sos.sparsity_report(sparse)
    zeros = {layer.name: layer.zeros for layer in report.layers}
    assert zeros["separable/depthwise_kernel"] == 0
    size = sum(layer.size for layer in report.layers)
    assert sum(zeros.values()) == round(0.6 * size)
