"""Every kind of layer trains sparse, strips to equal outputs, is saved and loaded."""

import numpy as np
import pytest

from tests.flavour import (
    BACKEND,
    IS_KERAS3,
    compiled,
    fit,
    keras,
    outputs_of,
    register,
    sites,
    sos,
    sparse_layers,
    steps_of,
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
        new = keras.activations.tanh(self.inward(inputs) + self.onward[0](states[0]))
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
# What tf_keras has no linear map for, which the learned techniques refuse.
ONLY_PRUNED = ()
if not IS_KERAS3:
    ONLY_PRUNED = ("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "StackedRNNCells")
    # It counts each use of what such a cell holds.
    del KINDS["RNN of a custom cell"]
# What is compiled takes seconds for each kind: of the others, the slow tests ask.
QUICK_BACKEND = BACKEND == "torch"
QUICK = ("Dense", "Conv2D", "DepthwiseConv2D", "Embedding", "LSTM")


def make_model(kind):
    make, shape, *_ = KINDS[kind]
    x = keras.Input(shape, dtype="int32" if kind == "Embedding" else "float32")
    layer = make()
    return keras.Model(x, layer(x))


def make_inputs(kind, rng, examples=4):
    shape = (examples, *KINDS[kind][1])
    if kind == "Embedding":
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
    loaded = keras.models.load_model(tmp_path / "sparse.keras")
    assert len(sparse_layers(loaded)) == len(sparse_layers(sparse))
    np.testing.assert_array_equal(outputs_of(loaded, inputs), expected)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(
            kind,
            name,
            id=f"{kind}-{name}",
            marks=[
                pytest.mark.feature(f"{kind} layers"),
                *([] if kind in QUICK or QUICK_BACKEND else [pytest.mark.slow]),
            ],
        )
        for kind, name in zip(KINDS, [*TECHNIQUES] * len(KINDS), strict=False)
    ],
)
def test_a_kind_trains_strips_saves_and_loads(kind, name, rng, tmp_path):
    if kind in ONLY_PRUNED and name != "magnitude":
        with pytest.raises(ValueError, match="has no linear map for layer"):
            sos.sparsify(make_model(kind), TECHNIQUES[name])
        name = "magnitude"
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
@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("MultiHeadAttention", "variational"),
        *[("GroupQueryAttention", "magnitude")] * IS_KERAS3,
    ],
)
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


@pytest.mark.feature("masking of sequences")
@pytest.mark.any_backend
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


@pytest.mark.any_backend
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
