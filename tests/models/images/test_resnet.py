"""The ResNet, against an independent count and the description in the paper."""

import functools
import math
import os
import subprocess
import sys

import keras as keras3
import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras
from state_of_sparsity.models.images.resnet import DEPTHS, resnet

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
TINY = {"classes": 10, "width": 0.05, "image_shape": (32, 32, 3)}


def counted(depth, classes, size):
    """Trainable parameters and multiply-adds of a ResNet v1.5, layer by layer."""
    convolutions = []  # (kernel, inputs, outputs, positions of the output)

    def convolve(kernel, inputs, outputs, stride, size):
        size = math.ceil(size / stride)
        convolutions.append((kernel, inputs, outputs, size * size))
        return size

    size = convolve(7, 3, 64, 2, size)
    size = math.ceil(size / 2)
    channels = 64
    for stage, blocks in enumerate(BLOCKS[depth]):
        inner = 64 * 2**stage
        outputs = 4 * inner if depth >= 50 else inner
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            before = size
            if depth >= 50:
                convolve(1, channels, inner, 1, before)
                size = convolve(3, inner, inner, stride, before)
                convolve(1, inner, outputs, 1, size)
            else:
                size = convolve(3, channels, outputs, stride, before)
                convolve(3, outputs, outputs, 1, size)
            if not block:
                convolve(1, channels, outputs, stride, before)
            channels = outputs
    # A batch normalization with gamma and beta follows each convolution.
    parameters = sum(k * k * i * o + 2 * o for k, i, o, _ in convolutions)
    multiply_adds = sum(k * k * i * o * n for k, i, o, n in convolutions)
    logits = channels * classes
    return parameters + logits + classes, multiply_adds + logits


def trainable(model):
    return sum(math.prod(v.shape) for v in model.trainable_variables)


def convolutions(model):
    return [x for x in model.layers if isinstance(x, keras.layers.Conv2D)]


def kernels(model):
    return [x.kernel for x in model.layers if hasattr(x, "kernel")]


@functools.cache
def narrow(depth):
    """The model of the tests that change nothing of it."""
    return resnet(depth, **TINY)


@pytest.fixture(scope="module")
def resnet50():
    return resnet(50)


def test_resnet50_has_the_published_number_of_parameters(resnet50):
    assert trainable(resnet50) == 25_557_032 == counted(50, 1000, 224)[0]


@pytest.mark.parametrize("depth", [18, pytest.param(200, marks=pytest.mark.slow)])
def test_other_depths_have_the_parameters_of_their_blocks(depth):
    model = resnet(depth, image_shape=(64, 64, 3))
    assert trainable(model) == counted(depth, 1000, 64)[0]
    assert {depth: kind.blocks for depth, kind in DEPTHS.items()} == BLOCKS


def test_resnet50_takes_4_1_billion_multiply_adds_for_an_image(resnet50):
    multiply_adds = sos.count_flops(resnet50).dense / 2
    assert multiply_adds == counted(50, 1000, 224)[1]
    assert round(multiply_adds / 1e9, 1) == 4.1


@pytest.mark.parametrize("depth", [18, 50])
def test_convolutions_have_no_bias_and_first_blocks_a_projection(depth):
    model = narrow(depth)
    assert not any(layer.use_bias for layer in convolutions(model))
    assert model.get_layer("logits").use_bias
    names = {layer.name for layer in convolutions(model)}
    shortcuts = {name for name in names if name.endswith("_shortcut")}
    assert shortcuts == {f"stage{s}_block1_shortcut" for s in (1, 2, 3, 4)}
    assert model.losses == []


def test_the_stride_of_a_bottleneck_is_on_its_3x3_convolution(resnet50):
    strided = {
        x.name: x.kernel_size for x in convolutions(resnet50) if x.strides[0] > 1
    }
    shortcuts = {f"stage{stage}_block1_shortcut": (1, 1) for stage in (2, 3, 4)}
    branches = {f"stage{stage}_block1_conv2": (3, 3) for stage in (2, 3, 4)}
    assert strided == {"conv1": (7, 7)} | shortcuts | branches


def test_strided_convolutions_are_padded_alike_on_all_sides(resnet50):
    for layer in convolutions(resnet50):
        if layer.strides[0] > 1 and layer.kernel_size[0] > 1:
            padding = resnet50.get_layer(f"{layer.name}_pad").padding
            half = layer.kernel_size[0] // 2
            assert padding == ((half, half), (half, half))
            assert layer.padding == "valid"


def test_the_max_pool_begins_at_the_first_row_and_column(resnet50):
    size = 112
    x = np.arange(size * size, dtype="float32").reshape(1, size, size, 1)
    largest = resnet50.get_layer("pool1")(np.repeat(x, 64, axis=-1)).numpy()[0, ..., 0]
    # Windows are rows and columns 2 i to 2 i + 2, of which the last ones lack one.
    ends = np.minimum(2 * np.arange(56) + 2, size - 1)
    np.testing.assert_array_equal(largest, x[0, ..., 0][np.ix_(ends, ends)])


def test_convolutions_start_from_a_truncated_normal_of_variance_one_over_fan_in(
    resnet50,
):
    for layer in convolutions(resnet50):
        kernel = layer.kernel.numpy().astype("float64")
        deviation = np.prod(kernel.shape[:3]) ** -0.5
        # At two deviations of a normal of which 0.8796 is left: no fourth moment is
        # above 3, so that six standard errors are at most these.
        assert abs(kernel.std() / deviation - 1) < 6 / np.sqrt(2 * kernel.size)
        assert abs(kernel.mean()) < 6 * deviation / np.sqrt(kernel.size)
        largest = np.abs(kernel).max() / deviation
        assert 1.9 / 0.8796 < largest < 2.0001 / 0.8796


@pytest.mark.parametrize(("depth", "last"), [(18, "conv2"), (50, "conv3")])
def test_every_residual_branch_starts_at_zero_and_all_else_at_one(depth, last):
    model = narrow(depth)
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    assert len(norms) == len(convolutions(model))
    ends = [x for x in norms if x.name.endswith(f"_{last}_bn")]
    assert len(ends) == sum(BLOCKS[depth])
    for layer in norms:
        np.testing.assert_array_equal(layer.gamma, 0.0 if layer in ends else 1.0)


def test_batch_normalization_has_momentum_0_9_and_epsilon_1e_5(resnet50):
    norms = [
        x for x in resnet50.layers if isinstance(x, keras.layers.BatchNormalization)
    ]
    assert {(x.momentum, x.epsilon) for x in norms} == {(0.9, 1e-5)}


def test_the_last_layer_starts_from_a_normal_distribution_of_width_0_01(resnet50):
    kernel = resnet50.get_layer("logits").kernel.numpy()
    # The relative standard error of a standard deviation is 1 / sqrt(2 n).
    assert abs(kernel.std() / 0.01 - 1) < 5 / np.sqrt(2 * kernel.size)
    assert abs(kernel.mean()) < 5 * 0.01 / np.sqrt(kernel.size)


def test_the_width_multiplies_the_channels_of_every_convolution(resnet50):
    narrow = resnet(50, width=0.25, image_shape=(32, 32, 3))
    assert [4 * x.filters for x in convolutions(narrow)] == [
        x.filters for x in convolutions(resnet50)
    ]


def test_logits_are_float32_under_mixed_precision():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = resnet(18, **TINY)
    assert model.output.dtype == "float32"
    assert {x.compute_dtype for x in convolutions(model)} == {"bfloat16"}


def penalty(arrays, weight_decay):
    squares = sum(float(np.sum(np.square(a, dtype="float64"))) for a in arrays)
    return weight_decay / 2 * squares


def test_weight_decay_is_half_the_squares_of_the_kernels_alone():
    model = resnet(18, **TINY, weight_decay=1e-2)
    for variable in model.trainable_variables:
        # So that gammas, betas and biases would show.
        variable.assign_add(0.1 * np.ones(variable.shape, "float32"))
    expected = penalty([kernel.numpy() for kernel in kernels(model)], 1e-2)
    assert len(model.losses) == len(kernels(model))
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("depth", 20, r"depth must be one of \[18, 34, 50.*Received: 20"),
        ("width", 0.0, "width must be positive. Received: 0.0"),
        ("width", float("nan"), "width must be positive. Received: nan"),
        ("classes", 0, "classes must be at least 1. Received: 0"),
        ("batch_norm_parts", 0, "batch_norm_parts must be at least 1. Received: 0"),
    ],
)
def test_a_bad_argument_is_an_error_which_names_it(argument, value, message):
    with pytest.raises(ValueError, match=message):
        resnet(**{argument: value})


def test_keras_3_gives_resnet50_the_published_number_of_parameters():
    model = resnet(50, keras=keras3)
    assert isinstance(model, keras3.Model)
    assert trainable(model) == 25_557_032


def test_keras_3_normalizes_a_batch_as_a_whole():
    with pytest.raises(ValueError, match="batch_norm_parts=2 is for tf_keras"):
        resnet(18, **TINY, batch_norm_parts=2, keras=keras3)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [18, 50])
def test_either_keras_computes_the_same(depth, rng):
    arguments = TINY | {"depth": depth, "weight_decay": 1e-2}
    ours, theirs = resnet(**arguments), resnet(**arguments, keras=keras3)
    for layer in ours.layers:
        # Above 0, as variances are; so that gammas of 0 hide no branch.
        weights = [
            array if array.ndim > 1 else rng.uniform(0.5, 1.5, array.shape)
            for array in layer.get_weights()
        ]
        layer.set_weights(weights)
        # Which has layers of the same names and shapes.
        theirs.get_layer(layer.name).set_weights(weights)
    assert len(theirs.layers) == len(ours.layers)
    assert len(theirs.losses) == len(ours.losses)
    assert float(sum(theirs.losses)) == pytest.approx(float(sum(ours.losses)), rel=1e-5)
    images = rng.normal(size=(4, 32, 32, 3)).astype("float32")
    for training in (False, True):
        own, other = (np.asarray(m(images, training=training)) for m in (ours, theirs))
        largest = np.abs(own).max()
        np.testing.assert_allclose(other, own, rtol=0, atol=1e-4 * largest)
        # Logits differ from image to image: it is not the biases alone that agree.
        assert np.ptp(own, axis=0).max() > 1e-2 * largest


def test_either_keras_starts_from_the_same_distributions():
    arguments = {"depth": 18, "width": 0.5, "image_shape": (32, 32, 3)}
    ours, theirs = resnet(**arguments), resnet(**arguments, keras=keras3)
    for layer in ours.layers:
        twin = theirs.get_layer(layer.name)
        for own, other in zip(layer.get_weights(), twin.get_weights(), strict=True):
            if own.ndim == 1:
                np.testing.assert_array_equal(other, own)
            else:
                # The relative standard error of either is 1 / sqrt(2 n).
                error = abs(other.std() / own.std() - 1)
                assert error < 5 / np.sqrt(own.size), layer.name


@pytest.mark.slow
def test_keras_3_builds_it_where_there_is_no_tensorflow():
    script = (
        "import sys; "
        "sys.modules.update(tensorflow=None, tf_keras=None); "
        "from state_of_sparsity.models.images.resnet import resnet; "
        "assert 'keras' not in sys.modules; "
        "import keras, numpy; "
        f"model = resnet(18, **{TINY}, keras=keras); "
        "print(model(numpy.zeros((2, 32, 32, 3), 'float32')).shape)"
    )
    # Keras's own backend, which needs nothing but NumPy.
    environment = os.environ | {"KERAS_BACKEND": "numpy"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, env=environment
    )
    assert b"(2, 10)" in done.stdout
