"""The networks that classify images, by the name of their flag.

Another one is a function of what it is built for, and an entry in `NETWORKS`.
"""

import dataclasses
import types
from collections.abc import Callable

from state_of_sparsity.engines.tf_keras.backend import keras
from state_of_sparsity.models.images.resnet import resnet


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a network is built for.

    Attributes:
      image_shape: of the inputs, without the batch.
      classes: number of logits.
      width: multiplies the channels or units of every hidden layer.
      weight_decay: of kernels, added to their gradient.
      depth: of the ResNet.
      batch_norm_parts: see `resnet`.
      keras: the module that builds it: `tf_keras`, or Keras 3.
    """

    image_shape: tuple[int, ...]
    classes: int
    width: float = 1.0
    weight_decay: float = 0.0
    depth: int = 50
    batch_norm_parts: int = 1
    keras: types.ModuleType = keras

    def units(self, units: int) -> int:
        return max(1, round(units * self.width))

    def regularizer(self):
        # Half of it, since the square's derivative has a 2.
        decay = self.weight_decay
        return self.keras.regularizers.L2(decay / 2) if decay else None

    def dense(self, units: int, name: str, activation: str | None = None):
        return self.keras.layers.Dense(
            units,
            activation,
            kernel_initializer="he_normal" if activation else "glorot_uniform",
            kernel_regularizer=self.regularizer(),
            dtype=None if activation else "float32",
            name=name,
        )


def _resnet(setting: Setting) -> keras.Model:
    return resnet(
        setting.depth,
        setting.classes,
        setting.width,
        setting.image_shape,
        setting.weight_decay,
        setting.batch_norm_parts,
        keras=setting.keras,
    )


def lenet_300_100(setting: Setting) -> keras.Model:
    """Two hidden layers of 300 and 100 units (LeCun et al. 1998)."""
    return setting.keras.Sequential(
        [
            setting.keras.Input(setting.image_shape, name="images"),
            setting.keras.layers.Flatten(name="flatten"),
            setting.dense(setting.units(300), "dense1", "relu"),
            setting.dense(setting.units(100), "dense2", "relu"),
            setting.dense(setting.classes, "logits"),
        ],
        name="lenet_300_100",
    )


def lenet5(setting: Setting) -> keras.Model:
    """LeNet-5 as Caffe has it: two convolutions of 5x5, and 500 units."""

    def convolution(filters, name):
        return setting.keras.layers.Conv2D(
            setting.units(filters),
            5,
            kernel_initializer="he_normal",
            kernel_regularizer=setting.regularizer(),
            name=name,
        )

    return setting.keras.Sequential(
        [
            setting.keras.Input(setting.image_shape, name="images"),
            convolution(20, "conv1"),
            setting.keras.layers.MaxPooling2D(2, name="pool1"),
            convolution(50, "conv2"),
            setting.keras.layers.MaxPooling2D(2, name="pool2"),
            setting.keras.layers.Flatten(name="flatten"),
            setting.dense(setting.units(500), "dense1", "relu"),
            setting.dense(setting.classes, "logits"),
        ],
        name="lenet5",
    )


def cnn1d(setting: Setting) -> keras.Model:
    """Four convolutions of signals, each with batch normalization."""
    layers = [setting.keras.Input(setting.image_shape, name="images")]
    for number, (filters, kernel, strides) in enumerate(
        [(32, 5, 2), (64, 3, 2), (64, 3, 2), (64, 3, 2)], start=1
    ):
        layers += [
            setting.keras.layers.Conv1D(
                setting.units(filters),
                kernel,
                strides,
                padding="same",
                use_bias=False,
                kernel_initializer="he_normal",
                kernel_regularizer=setting.regularizer(),
                name=f"conv{number}",
            ),
            setting.keras.layers.BatchNormalization(momentum=0.9, name=f"bn{number}"),
            setting.keras.layers.ReLU(name=f"relu{number}"),
        ]
    layers += [
        setting.keras.layers.Flatten(name="flatten"),
        setting.dense(setting.classes, "logits"),
    ]
    return setting.keras.Sequential(layers, name="cnn1d")


@dataclasses.dataclass(frozen=True)
class Network:
    """A kind of network.

    Attributes:
      build: makes one for a setting.
      rank: of the images that it takes, without the batch; None for any.
      options: names of the options that no other network has.
    """

    build: Callable[[Setting], keras.Model]
    rank: int | None = None
    options: tuple[str, ...] = ()


NETWORKS = {
    "resnet": Network(_resnet, rank=3, options=("depth", "batch_norm_batch")),
    "lenet_300_100": Network(lenet_300_100),
    "lenet5": Network(lenet5, rank=3),
    "cnn1d": Network(cnn1d, rank=2),
}
