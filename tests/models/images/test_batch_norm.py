"""Batch normalization over parts of a batch, against NumPy and against devices."""

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras, tf
from state_of_sparsity.models.images.batch_norm import BatchNormalizationInParts
from state_of_sparsity.models.images.options import ImageOptions
from state_of_sparsity.models.images.resnet import resnet
from state_of_sparsity.models.images.task import ImageTask

EPSILON, MOMENTUM = 1e-3, 0.9
SHAPE = (3, 3, 4)
TINY = {"classes": 10, "width": 0.05, "image_shape": (32, 32, 3)}


def layer_of(parts, rng, **arguments):
    layer = BatchNormalizationInParts(
        parts, epsilon=EPSILON, momentum=MOMENTUM, **arguments
    )
    layer.build((None, *SHAPE))
    layer.set_weights([rng.uniform(0.5, 1.5, 4) for _ in range(4)])
    return layer


def images_of(rng, count):
    # Examples of different means and widths: no two parts are alike.
    scale, shift = rng.uniform(0.5, 3, (2, count, 1, 1, 1))
    return (scale * rng.normal(size=(count, *SHAPE)) + shift).astype("float32")


def normalized(parts, gamma, beta):
    """Outputs, and mean and unbiased variance of each part, in float64."""
    outputs, means, variances = [], [], []
    for part in parts:
        part = part.astype("float64")
        mean, variance = part.mean(axis=(0, 1, 2)), part.var(axis=(0, 1, 2))
        outputs.append((part - mean) / np.sqrt(variance + EPSILON) * gamma + beta)
        count = part.size // part.shape[-1]
        means.append(mean)
        variances.append(variance * count / (count - 1))
    return np.concatenate(outputs), np.mean(means, axis=0), np.mean(variances, axis=0)


@pytest.mark.parametrize(
    ("count", "sizes"), [(8, (8,)), (8, (4, 4)), (12, (4, 4, 4)), (8, (3, 3, 2))]
)
@pytest.mark.parametrize("in_graph", [False, True])
def test_each_part_is_normalized_by_itself(rng, count, sizes, in_graph):
    layer, images = layer_of(len(sizes), rng), images_of(rng, count)
    gamma, beta, old_mean, old_variance = layer.get_weights()
    call = tf.function(layer) if in_graph else layer
    outputs = call(images, training=True)
    parts = np.split(images, np.cumsum(sizes)[:-1])
    expected, mean, variance = normalized(parts, gamma, beta)
    np.testing.assert_allclose(outputs, expected, atol=1e-4)
    np.testing.assert_allclose(
        layer.moving_mean, 0.9 * old_mean + 0.1 * mean, rtol=1e-5
    )
    np.testing.assert_allclose(
        layer.moving_variance, 0.9 * old_variance + 0.1 * variance, rtol=1e-5
    )


def test_gradients_are_those_of_the_parts(rng):
    layer, images = layer_of(2, rng), images_of(rng, 6)
    plain = keras.layers.BatchNormalization(epsilon=EPSILON)
    plain.build((None, *SHAPE))
    plain.set_weights(layer.get_weights())
    factors = tf.constant(rng.normal(size=images.shape).astype("float32"))

    def slopes(function, norm):
        values = tf.constant(images)
        with tf.GradientTape() as tape:
            tape.watch(values)
            loss = tf.reduce_sum(function(values) * factors)
        return tape.gradient(loss, [values, norm.gamma, norm.beta])

    halves = slopes(
        lambda x: tf.concat([plain(x[:3], training=True), plain(x[3:], True)], 0), plain
    )
    for ours, theirs in zip(
        slopes(lambda x: layer(x, training=True), layer), halves, strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("frozen", [False, True])
def test_inference_takes_the_moving_averages(rng, frozen):
    layer, images = layer_of(2, rng), images_of(rng, 5)
    layer.trainable = not frozen
    before = layer.get_weights()
    gamma, beta, mean, variance = before
    expected = (images - mean) / np.sqrt(variance + EPSILON) * gamma + beta
    np.testing.assert_allclose(layer(images, training=frozen), expected, atol=1e-4)
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


def test_half_precision_keeps_its_statistics_in_float32(rng):
    layer = layer_of(2, rng, dtype="mixed_float16")
    outputs = layer(images_of(rng, 4), training=True)
    assert outputs.dtype == tf.float16
    assert {w.dtype for w in layer.get_weights()} == {np.dtype("float32")}


@pytest.mark.slow
def test_a_sparse_resnet_in_parts_is_stripped_and_saved(rng, tmp_path):
    technique = sos.MagnitudePruning(0.5, begin_step=0, end_step=1, frequency=1)
    model = resnet(18, **TINY, batch_norm_parts=2)
    stripped = sos.strip(sos.sparsify(model, technique))
    stripped.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    layer = loaded.get_layer("conv1_bn")
    assert isinstance(layer, BatchNormalizationInParts)
    assert layer.parts == 2
    images = rng.normal(size=(2, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(loaded(images), stripped(images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("batch", "most", "parts"),
    [(1024, 128, 8), (64, 128, 1), (200, 128, 2)],
)
def test_a_device_normalizes_as_many_parts_as_its_images_need(batch, most, parts):
    options = ImageOptions(
        depth=18, width=0.05, batch_size=batch, batch_norm_batch=most
    )
    layer = ImageTask(options.resolved()).build().get_layer("conv1_bn")
    assert getattr(layer, "parts", 1) == parts


def test_two_devices_have_half_of_the_parts_each(mirrored):
    options = ImageOptions(depth=18, width=0.05, batch_size=16, batch_norm_batch=4)
    with mirrored.scope():
        model = ImageTask(options.resolved()).build()
    assert model.get_layer("conv1_bn").parts == 2
