"""ResNet v1.5 for images (He et al. 2016, arXiv 1512.03385).

"v1.5" puts the stride of a bottleneck block on its 3x3 convolution. Strided
convolutions are padded explicitly, so that the padding does not depend on the size
of the image. Convolutions have no bias; the last batch normalization of each
residual branch starts with gamma = 0, so that every block starts as its shortcut.

Initial values, the padding of the max pool, and a projection in the first block of
every stage, at depths 18 and 34 too, are those of the published runs (Gale, Elsen &
Hooker 2019, arXiv 1902.09574).

Keras is an argument, and nothing here imports it before it is needed: Keras 3 builds
the same network on any of its backends, without TensorFlow.
"""

import dataclasses
import functools

BATCH_NORM_MOMENTUM = 0.9
BATCH_NORM_EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class Depth:
    """How the blocks of a ResNet of some depth are made and counted."""

    bottleneck: bool
    blocks: tuple[int, int, int, int]


DEPTHS = {
    18: Depth(False, (2, 2, 2, 2)),
    34: Depth(False, (3, 4, 6, 3)),
    50: Depth(True, (3, 4, 6, 3)),
    101: Depth(True, (3, 4, 23, 3)),
    152: Depth(True, (3, 8, 36, 3)),
    200: Depth(True, (3, 24, 36, 3)),
}


def resnet(
    depth: int = 50,
    classes: int = 1000,
    width: float = 1.0,
    image_shape: tuple[int, int, int] = (224, 224, 3),
    weight_decay: float = 0.0,
    batch_norm_parts: int = 1,
    *,
    keras=None,
):
    """A ResNet v1.5 that maps images to float32 logits.

    Args:
      depth: one of 18, 34, 50, 101, 152 and 200.
      classes: number of logits.
      width: multiplies the number of channels of every convolution.
      image_shape: height, width and channels of an image.
      weight_decay: adds `weight_decay / 2 * sum(w ** 2)` to the loss for each
        kernel, so that `weight_decay * w` joins the gradient. Batch normalization
        and biases are never decayed.
      batch_norm_parts: into how many parts a batch is cut, of which each is normalized
        by its own mean and variance in training, as if it were on a device of its own.
        More than one is for `tf_keras` alone.
      keras: the module that builds it: `tf_keras`, which is the default, or Keras 3.

    Returns:
      A functional `keras.Model`: `(batch, *image_shape)` to `(batch, classes)`.

    Raises:
      ValueError: for an unknown depth, or for a width, class count or number of parts
        that is not positive, or parts with Keras 3.
    """
    if depth not in DEPTHS:
        raise ValueError(f"depth must be one of {sorted(DEPTHS)}. Received: {depth}")
    if not width > 0:
        raise ValueError(f"width must be positive. Received: {width}")
    if classes < 1:
        raise ValueError(f"classes must be at least 1. Received: {classes}")
    if batch_norm_parts < 1:
        raise ValueError(
            f"batch_norm_parts must be at least 1. Received: {batch_norm_parts}"
        )
    if keras is None:
        import tf_keras as keras
    build = _Builder(keras, weight_decay, batch_norm_parts)
    kind = DEPTHS[depth]

    images = keras.Input(image_shape, name="images")
    x = build.convolution(images, "conv1", _channels(64, width), kernel=7, strides=2)
    x = build.normalized_relu(x, "conv1")
    x = keras.layers.MaxPooling2D(3, strides=2, padding="same", name="pool1")(x)
    for stage, blocks in enumerate(kind.blocks):
        channels = _channels(64 * 2**stage, width)
        for block in range(blocks):
            x = build.block(
                x,
                f"stage{stage + 1}_block{block + 1}",
                channels,
                strides=2 if stage > 0 and block == 0 else 1,
                bottleneck=kind.bottleneck,
                projection=block == 0,
            )
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    # Logits stay in float32 under mixed precision: the softmax needs the range.
    logits = keras.layers.Dense(
        classes,
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        kernel_regularizer=build.regularizer(),
        dtype="float32",
        name="logits",
    )(x)
    return keras.Model(images, logits, name=f"resnet{depth}")


def _channels(channels: int, width: float) -> int:
    return max(1, round(channels * width))


def _in_parts(keras, parts):
    """Makes layers that normalize parts of a batch; see `resnet`."""
    if keras.__name__ != "tf_keras":
        raise ValueError(
            f"batch_norm_parts={parts} is for tf_keras. Received: {keras.__name__}"
        )
    # It imports TensorFlow, which Keras 3 does without on other backends.
    from state_of_sparsity.models.images.batch_norm import BatchNormalizationInParts

    return functools.partial(BatchNormalizationInParts, parts)


class _Builder:
    """Adds the parts of a ResNet to a functional model."""

    def __init__(self, keras, weight_decay: float, batch_norm_parts: int):
        self._keras = keras
        self._weight_decay = weight_decay
        self._batch_norm = keras.layers.BatchNormalization
        if batch_norm_parts > 1:
            self._batch_norm = _in_parts(keras, batch_norm_parts)

    def regularizer(self):
        if not self._weight_decay:
            return None
        return self._keras.regularizers.L2(self._weight_decay / 2)

    def convolution(self, x, name, channels, kernel, strides=1):
        if strides > 1 and kernel > 1:
            padding = (kernel - 1) // 2
            x = self._keras.layers.ZeroPadding2D(padding, name=f"{name}_pad")(x)
        return self._keras.layers.Conv2D(
            channels,
            kernel,
            strides=strides,
            padding="same" if strides == 1 else "valid",
            use_bias=False,
            kernel_initializer=self._keras.initializers.VarianceScaling(
                1.0, mode="fan_in", distribution="truncated_normal"
            ),
            kernel_regularizer=self.regularizer(),
            name=name,
        )(x)

    def normalized(self, x, name, gamma="ones"):
        return self._batch_norm(
            momentum=BATCH_NORM_MOMENTUM,
            epsilon=BATCH_NORM_EPSILON,
            gamma_initializer=gamma,
            name=f"{name}_bn",
        )(x)

    def normalized_relu(self, x, name):
        return self._keras.layers.ReLU(name=f"{name}_relu")(self.normalized(x, name))

    def block(self, x, name, channels, strides, bottleneck, projection):
        """A residual block; `channels` are those inside of a bottleneck."""
        # (kernel, channels, strides) of the convolutions of the residual branch.
        if bottleneck:
            outputs = 4 * channels
            branch = [(1, channels, 1), (3, channels, strides), (1, outputs, 1)]
        else:
            outputs = channels
            branch = [(3, channels, strides), (3, outputs, 1)]

        shortcut = x
        if projection:
            shortcut = self.convolution(x, f"{name}_shortcut", outputs, 1, strides)
            shortcut = self.normalized(shortcut, f"{name}_shortcut")
        for index, (kernel, width, stride) in enumerate(branch, start=1):
            last = index == len(branch)
            x = self.convolution(x, f"{name}_conv{index}", width, kernel, stride)
            if last:
                x = self.normalized(x, f"{name}_conv{index}", gamma="zeros")
            else:
                x = self.normalized_relu(x, f"{name}_conv{index}")
        x = self._keras.layers.Add(name=f"{name}_add")([shortcut, x])
        return self._keras.layers.ReLU(name=f"{name}_relu")(x)
