"""Smaller models: of the same outputs, without what is masked."""

import warnings

import keras
import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity import runtime
from tests.flavour import compiled, outputs_of

layers = keras.layers
pytestmark = pytest.mark.slow
TAKEN_OUT = pytest.mark.feature("shrink: channels, units and heads are taken out")
NAMED = pytest.mark.feature("shrink: what is not followed is named, and stays")
OF_KERAS_HUB = pytest.mark.feature("shrink: BERT, ViT and GPT-2 of KerasHub, generate")


def randomize(model, rng):
    """Weights and statistics as of a trained model: biases are not 0."""
    for variable in model.weights:
        value = rng.normal(size=variable.shape) * 0.3
        is_scale = variable.name in ("moving_variance", "gamma")
        variable.assign(1 + np.abs(value) if is_scale else value)


def mask(layer, *channels, axis=-1):
    """Sets what makes some outputs of a layer to zero."""
    value = keras.ops.convert_to_numpy(layer.kernel).copy()
    np.moveaxis(value, axis, 0)[list(channels)] = 0
    layer.kernel.assign(value)


def mask_heads(attention, *heads):
    mask(attention.value_dense, *heads, axis=1)
    bias = keras.ops.convert_to_numpy(attention.value_dense.bias).copy()
    bias[list(heads)] = 0
    attention.value_dense.bias.assign(bias)


def parameters(model):
    return sum(int(np.prod(v.shape)) for v in model.weights)


def check_smaller(model, inputs, rng):
    """That a model of the same outputs is left, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        smaller = sos.shrink(model)
    check_same(model, smaller, inputs)
    assert parameters(smaller) < parameters(model)
    return smaller


def check_same(model, other, inputs):
    found = zip(all_outputs(model, inputs), all_outputs(other, inputs), strict=True)
    for expected, given in found:
        atol = 1e-5 * max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(given, expected, rtol=0, atol=atol)


def all_outputs(model, inputs):
    outputs = keras.tree.flatten(model(inputs, training=False))
    return [keras.ops.convert_to_numpy(x) for x in outputs]


def functional(build, shape=(6, 6, 2)):
    x = keras.Input(shape)
    return keras.Model(x, build(x))


def conv(filters, name, size=3, **arguments):
    arguments = {"padding": "same", "name": name} | arguments
    return layers.Conv2D(filters, size, **arguments)


def head(x):
    return layers.Dense(3, name="logits")(layers.GlobalAveragePooling2D()(x))


def normalized(x, activation="relu", **arguments):
    x = layers.BatchNormalization(**arguments)(x)
    return layers.Activation(activation)(x)


def convolutions(x):
    x = normalized(conv(8, "a", use_bias=False)(x))
    x = layers.MaxPooling2D()(layers.Dropout(0.5)(x))
    return head(layers.ReLU(6.0)(conv(4, "b")(x)))


def residual(x):
    x = conv(8, "a")(x)
    y = conv(8, "b")(normalized(x))
    return head(normalized(layers.Add()([x, y]), center=False))


def concatenated(x):
    x = layers.Concatenate()([conv(8, "a")(x), conv(8, "b")(x), x])
    return head(conv(4, "c", strides=2)(layers.LeakyReLU()(x)))


def depthwise(x):
    x = conv(8, "a", activation="relu")(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="each")(x)
    return head(conv(4, "b", 1)(normalized(x, "relu6")))


def separable(x):
    x = conv(8, "a", use_bias=False)(x)
    x = layers.SeparableConv2D(
        8, 3, padding="same", activation="tanh", use_bias=False, name="b"
    )(x)
    return head(conv(4, "c")(layers.ZeroPadding2D()(x)))


def transposed(x):
    x = layers.Conv2DTranspose(8, 3, strides=2, activation="sigmoid", name="a")(x)
    return head(conv(4, "b")(layers.UpSampling2D()(x)))


def flattened(x):
    x = layers.AveragePooling2D(2, padding="same")(conv(8, "a", activation="elu")(x))
    x = layers.Flatten()(x)
    return layers.Dense(3)(layers.Dense(8, activation="gelu", name="b")(x))


def excited(x):
    x = conv(8, "a", activation="relu", use_bias=False)(x)
    y = layers.GlobalAveragePooling2D()(x)
    y = conv(4, "b", 1, activation="silu")(layers.Reshape((1, 1, 8))(y))
    return head(x * conv(8, "gate", 1, activation="sigmoid")(y))


def nested(x):
    both = [keras.Input((6, 6, 8), name=name) for name in ("first", "second")]
    inner = keras.Model(both, normalized(conv(8, "b")(both[0] * both[1])))
    x = conv(8, "a", activation="relu")(x)
    x = inner(inputs={"second": x, "first": x})
    last = keras.Sequential([keras.Input((6, 6, 8)), conv(4, "c", 1)])
    return head(keras.Sequential([last])(x))


def attention(x):
    x = layers.Dense(8, name="a")(layers.Reshape((36, 2))(x))
    x = layers.MultiHeadAttention(4, 3, name="heads")(x, x)
    return layers.Dense(3)(layers.GlobalMaxPooling1D()(x))


# By builder, of which layers the first half of the channels is masked.
CASES = {
    convolutions: "ab",
    residual: "ab",
    concatenated: "abc",
    depthwise: ("a", "b"),
    separable: "abc",
    transposed: "ab",
    flattened: "ab",
    excited: ("a", "b"),
    nested: "abc",
    attention: ("a",),
}


def find(model, name):
    inner = [x for x in model._flatten_layers() if x.name == name]
    return inner[0]


def masked(build, rng):
    model = functional(build)
    randomize(model, rng)
    for name in CASES[build]:
        layer = find(model, name)
        if isinstance(layer, layers.SeparableConv2D):
            value = keras.ops.convert_to_numpy(layer.pointwise_kernel).copy()
            value[..., :4] = 0
            layer.pointwise_kernel.assign(value)
            continue
        is_transposed = isinstance(layer, layers.Conv2DTranspose)
        axis = -2 if is_transposed else -1
        outputs = layer.kernel.shape[axis]
        mask(layer, *range(outputs // 2), axis=axis)
    if build is attention:
        mask_heads(find(model, "heads"), 0, 2)
    return model


@TAKEN_OUT
@pytest.mark.parametrize("build", CASES)
def test_outputs_stay(build, rng, tmp_path):
    model = masked(build, rng)
    inputs = rng.normal(size=(3, 6, 6, 2)).astype("float32")
    smaller = check_smaller(model, inputs, rng)
    smaller.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert parameters(loaded) == parameters(smaller)
    check_same(model, loaded, inputs)
    before = outputs_of(smaller, inputs)
    compiled(smaller).fit(inputs, np.ones_like(before), verbose=0)
    assert np.abs(outputs_of(smaller, inputs) - before).max() > 0
    assert type(smaller) is type(model)


@pytest.mark.any_backend
def test_a_unit_whose_constant_is_not_zero_takes_over(rng):
    model = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(8, activation="sigmoid", name="a"),
            layers.Dense(6, activation="relu", use_bias=False, name="b"),
            layers.Dense(3),
        ]
    )
    randomize(model, rng)
    mask(model.layers[0], 0, 1, 2)
    mask(model.layers[1], 4, 5)
    smaller = check_smaller(model, rng.normal(size=(4, 5)), rng)
    # One of the three stays for the others; those that give 0 all go.
    assert [x.units for x in smaller.layers] == [6, 4, 3]
    assert [x.shape for x in smaller.layers[1].weights] == [(6, 4)]
    assert smaller.layers[1].input_spec.axes == {-1: 6}


@pytest.mark.any_backend
def test_of_what_scales_of_0_follow_one_stays_and_nothing_for_it(rng):
    """Its column of the kernel has weights for units that are gone by then."""
    dense = [layers.Dense(8, "sigmoid", name="a"), layers.Dense(6, name="b")]
    end = [layers.BatchNormalization(), layers.Dense(3)]
    model = keras.Sequential([keras.Input((5,)), *dense, *end])
    randomize(model, rng)
    mask(dense[0], 0, 1, 2)
    kernel = keras.ops.convert_to_numpy(dense[1].kernel).copy()
    kernel[:3, 2:] = 0
    dense[1].kernel.assign(kernel)
    end[0].gamma.assign([0, 0, 1, 1, 1, 1])
    smaller = check_smaller(model, rng.normal(size=(4, 5)), rng)
    assert [find(smaller, name).units for name in "ab"] == [5, 5]


@pytest.mark.any_backend
def test_what_nothing_uses_goes(rng):
    model = functional(lambda x: head(normalized(conv(4, "b")(conv(8, "a")(x)))))
    randomize(model, rng)
    # Nothing takes the first of b, nor, in what stays of b, the second and third of a.
    find(model, "logits").kernel.assign(
        rng.normal(size=(4, 3)) * np.array([0, 1, 1, 1])[:, None]
    )
    value = keras.ops.convert_to_numpy(find(model, "b").kernel).copy()
    value[:, :, 1:3, 1:] = 0
    find(model, "b").kernel.assign(value)
    smaller = check_smaller(model, rng.normal(size=(2, 6, 6, 2)), rng)
    assert find(smaller, "a").filters == 6
    assert find(smaller, "b").filters == 3
    assert find(smaller, "b").kernel.shape == (3, 3, 6, 3)


@pytest.mark.any_backend
def test_slimmed_normalization(rng):
    model = functional(convolutions)
    randomize(model, rng)
    scale = find(model, model.layers[2].name).gamma
    scale.assign(rng.normal(size=8) * (np.arange(8) > 3))
    smaller = check_smaller(model, rng.normal(size=(2, 6, 6, 2)), rng)
    # A constant one stays, unless all are 0 after ReLU.
    assert find(smaller, "a").filters in (4, 5)


@pytest.mark.any_backend
def test_a_layer_that_is_used_twice(rng):
    shared = layers.Dense(8, activation="relu", name="a")
    both = keras.Input((4,)), keras.Input((4,))
    x = layers.Dense(3)(layers.Concatenate()([shared(x) for x in both]))
    model = keras.Model(both, x)
    randomize(model, rng)
    mask(shared, 0, 1, 2)
    inputs = [rng.normal(size=(2, 4)) for _ in both]
    smaller = check_smaller(model, inputs, rng)
    assert find(smaller, "a").units in (5, 6)


def unfollowed(x):
    x = conv(8, "padded", activation="sigmoid")(x)
    x = layers.DepthwiseConv2D(3, padding="same", name="each")(x)
    x = conv(8, "grouped", 1, groups=2)(x)
    x = conv(8, "one")(x) + conv(8, "other")(x)
    x = conv(8, "mixed")(layers.ReLU()(x))
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.BatchNormalization()(conv(4, "batch")(x), training=True)
    x = layers.EinsumDense("abcd,de->abce", (6, 6, 4), name="einsum")(x)
    return head(x)


@NAMED
@pytest.mark.any_backend
def test_what_stays_is_named(rng):
    model = functional(unfollowed)
    randomize(model, rng)
    for name in ("padded", "grouped", "one", "mixed", "batch", "einsum", "logits"):
        mask(find(model, name), 0)
    with pytest.warns(UserWarning, match="stay") as caught:
        smaller = sos.shrink(model)
    (warning,) = [w for w in caught if w.category is UserWarning]
    for said in (
        "padded (Conv2D mixes them)",
        "one (a sum, a product or a padded",
        "mixed (LayerNormalization mixes them)",
        "batch (BatchNormalization is called with training=True)",
        "logits (the model returns them)",
        "grouped (Conv2D is not followed",
        "einsum (EinsumDense is not followed",
    ):
        assert said in str(warning.message)
    assert warning.filename == __file__
    check_same(model, smaller, rng.normal(size=(2, 6, 6, 2)))
    assert parameters(smaller) == parameters(model)


@pytest.mark.any_backend
def test_a_model_within_that_trains_stays(rng):
    inner = functional(lambda x: normalized(conv(4, "b")(x)), (6, 6, 8))
    model = functional(lambda x: head(inner(conv(8, "a")(x), training=True)))
    randomize(model, rng)
    mask(find(model, "a"), 0, 1)
    mask(find(model, "b"), 0)
    stay = r"a \(Functional is called with training=True\); b \(Conv2D is not"
    with pytest.warns(UserWarning, match=stay):
        smaller = sos.shrink(model)
    check_same(model, smaller, rng.normal(size=(2, 6, 6, 2)))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, inputs):
        return self.dense(inputs)


@pytest.mark.any_backend
def test_errors(rng):
    subclassed = Subclassed()
    subclassed(np.ones((1, 2)))
    with pytest.raises(ValueError, match=r"subclassed.*functional model"):
        sos.shrink(subclassed)
    model = masked(convolutions, rng)
    sparse = sos.sparsify(model, sos.MagnitudePruning(0.5, 0, 1, 1))
    with pytest.raises(ValueError, match=r"call sos.strip first.*\ba\b"):
        sos.shrink(sparse)
    mask(find(model, "b"), *range(4))
    with pytest.raises(ValueError, match=r"All channels of these .*: a, .*\bb\b"):
        sos.shrink(model)
    model = masked(attention, rng)
    mask_heads(find(model, "heads"), *range(4))
    with pytest.raises(ValueError, match=r"All channels of these .*: a, heads,"):
        sos.shrink(model)
    with pytest.raises(TypeError, match=r"must be a keras\.Model"):
        sos.shrink(layers.Dense(2))


def masked_transformer(model, rng, mlp):
    """Masks heads and units, other ones in each layer."""
    randomize(model, rng)
    inner = model._flatten_layers()
    wide = [x for x in inner if x.name == mlp]
    heads = [x for x in inner if isinstance(x, layers.MultiHeadAttention)]
    for place, (layer, attention_layer) in enumerate(zip(wide, heads, strict=True)):
        mask(layer, *range(10 + 4 * place))
        mask_heads(attention_layer, *range(1 + place))
    return heads


def check_transformer(model, inputs, rng, tmp_path, mlp):
    heads = masked_transformer(model, rng, mlp)
    smaller = check_smaller(model, inputs, rng)
    smaller.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    check_same(model, loaded, inputs)
    for one in (smaller, loaded):
        found = [
            x for x in one._flatten_layers() if isinstance(x, layers.MultiHeadAttention)
        ]
        numbers = [x.num_heads for x in found]
        assert numbers == [x.num_heads - i - 1 for i, x in enumerate(heads)]
        units = [x.units for x in one._flatten_layers() if x.name == mlp]
        # Of those that are masked, one stays with a constant for the others.
        assert units == [32 - 9, 32 - 13]
    return smaller, loaded


@OF_KERAS_HUB
def test_bert(rng, tmp_path):
    hub = pytest.importorskip("keras_hub").models
    size = {"vocabulary_size": 16, "num_layers": 2, "num_heads": 4, "hidden_dim": 16}
    backbone = hub.BertBackbone(**size, intermediate_dim=32, max_sequence_length=8)
    model = hub.BertTextClassifier(backbone, num_classes=3)
    ids = rng.integers(1, 16, (3, 8))
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    inputs["segment_ids"] = np.zeros_like(ids)
    check_transformer(model, inputs, rng, tmp_path, "feedforward_intermediate_dense")


@OF_KERAS_HUB
def test_vit(rng, tmp_path):
    hub = pytest.importorskip("keras_hub").models
    size = {"num_layers": 2, "num_heads": 4, "hidden_dim": 16, "mlp_dim": 32}
    backbone = hub.ViTBackbone(image_shape=(16, 16, 3), patch_size=4, **size)
    model = hub.ViTImageClassifier(backbone, num_classes=3)
    inputs = rng.normal(size=(2, 16, 16, 3)).astype("float32")
    check_transformer(model, inputs, rng, tmp_path, "dense_1")


def gpt2():
    hub = pytest.importorskip("keras_hub").models
    size = {"vocabulary_size": 16, "num_layers": 2, "num_heads": 4, "hidden_dim": 16}
    backbone = hub.GPT2Backbone(**size, intermediate_dim=32, max_sequence_length=8)
    return hub.GPT2CausalLM(backbone)


@OF_KERAS_HUB
def test_gpt2_generates(rng, tmp_path):
    model = gpt2()
    ids = rng.integers(1, 16, (3, 8))
    inputs = {"token_ids": ids, "padding_mask": np.arange(8) < np.full((3, 1), 4)}
    mlp = "feedforward_intermediate_dense"
    models = check_transformer(model, inputs, rng, tmp_path, mlp)
    model.compile(sampler="greedy")
    expected = model.generate(inputs, stop_token_ids=None)["token_ids"]
    assert np.any(expected != ids)
    for smaller in models:
        smaller.compile(sampler="greedy")
        found = smaller.generate(inputs, stop_token_ids=None)["token_ids"]
        np.testing.assert_array_equal(found, expected)
    smaller, _ = models
    targets = np.roll(ids, -1, axis=1)
    compiled(smaller, loss="sparse_categorical_crossentropy")
    smaller.fit(inputs, targets, verbose=0)


@pytest.mark.any_backend
def test_a_smaller_transformer_is_made_sparse_and_smaller_again(rng, tmp_path):
    model = gpt2()
    ids = rng.integers(1, 16, (3, 8))
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    masked_transformer(model, rng, "feedforward_intermediate_dense")
    smaller = check_smaller(model, inputs, rng)
    masks = sos.MagnitudePruning(0.5, 0, 1, 1)
    sparse = sos.sparsify(smaller, masks, overrides={".*embedding": None})
    sparse.save(tmp_path / "sparse.keras")
    loaded = keras.saving.load_model(tmp_path / "sparse.keras")
    check_same(loaded, smaller, inputs)
    for layer in smaller._flatten_layers():
        if isinstance(layer, layers.MultiHeadAttention):
            mask_heads(layer, 1)
    again = check_smaller(smaller, inputs, rng)
    again.save(tmp_path / "again.keras")
    loaded = keras.saving.load_model(tmp_path / "again.keras")
    check_same(loaded, again, inputs)
    with pytest.raises(ValueError, match=r"by the name of a class.*\.keras file"):
        again.save_to_preset(tmp_path / "preset")


@pytest.mark.any_backend
@pytest.mark.parametrize("build", CASES)
def test_mixed_precision(build, rng):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = masked(build, rng)
        smaller = sos.shrink(model)
    finally:
        keras.config.set_dtype_policy("float32")
    assert parameters(smaller) < 0.65 * parameters(model)
    assert {variable.dtype for variable in smaller.weights} == {"float32"}
    inputs = rng.normal(size=(3, 6, 6, 2)).astype("float32")
    found, expected = (outputs_of(each, inputs) for each in (smaller, model))
    # Steps of bfloat16 are 2 ** -8 of a value.
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())


@pytest.mark.any_backend
def test_a_smaller_model_is_smaller_again_and_exported(rng, tmp_path):
    inputs = rng.normal(size=(3, 6, 6, 2)).astype("float32")
    smaller = sos.shrink(masked(convolutions, rng))
    mask(find(smaller, "a"), -1, -2)
    again = check_smaller(smaller, inputs, rng)
    check_same(again, sos.shrink(again), inputs)
    expected = outputs_of(again, inputs)
    sos.export(again, tmp_path / "model.sparse", format="sparse")
    (found,) = runtime.load(tmp_path / "model.sparse").run(inputs).values()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    onnxruntime = pytest.importorskip("onnxruntime")
    sos.export(again, tmp_path / "model.onnx", format="onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: inputs})
    np.testing.assert_allclose(found, expected, atol=1e-5)


def mask_convolutions(model, rng):
    """Masks half of what each convolution makes, and its depthwise kernels."""
    for layer in model._flatten_layers():
        is_depthwise = isinstance(layer, layers.DepthwiseConv2D)
        if isinstance(layer, layers.Conv2D) or is_depthwise:
            axis = -2 if is_depthwise else -1
            mask(layer, *range(layer.kernel.shape[axis] // 2), axis=axis)
        elif isinstance(layer, layers.BatchNormalization):
            # What is masked gives 0.
            half = np.arange(layer.gamma.shape[0]) >= layer.gamma.shape[0] // 2
            layer.moving_mean.assign(rng.normal(size=half.shape) * half)
            layer.beta.assign(rng.normal(size=half.shape) * half)


def resnet():
    hub = pytest.importorskip("keras_hub").models
    backbone = hub.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 2],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        image_shape=(32, 32, 3),
    )
    return hub.ResNetImageClassifier(backbone, num_classes=3)


def mobile_net():
    return keras.applications.MobileNetV2((32, 32, 3), 0.35, weights=None, classes=3)


def efficient_net():
    return keras.applications.EfficientNetB0(
        weights=None, input_shape=(32, 32, 3), classes=3
    )


@pytest.mark.any_backend
@pytest.mark.parametrize("build", [resnet, mobile_net, efficient_net])
def test_networks_of_images(build, rng, tmp_path):
    keras.utils.set_random_seed(0)
    model = build()
    mask_convolutions(model, rng)
    inputs = rng.normal(size=(2, 32, 32, 3)).astype("float32")
    smaller = check_smaller(model, inputs, rng)
    assert parameters(smaller) < 0.45 * parameters(model)
    smaller.save(tmp_path / "model.keras")
    check_same(model, keras.saving.load_model(tmp_path / "model.keras"), inputs)
