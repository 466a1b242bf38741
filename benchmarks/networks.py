"""The networks whose steps are timed, each with a batch to train on."""

import dataclasses
import importlib
from typing import Any

import numpy as np
from absl import app, flags

from state_of_sparsity.models.images.resnet import resnet

_DEPTH = flags.DEFINE_integer("depth", 50, "Of the ResNet.")
_WIDTH = flags.DEFINE_float("width", 0.25, "Of the ResNet.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 32, "Pixels per side, of the ResNet.")
_BATCH = flags.DEFINE_integer("batch_size", 64, "Images per step.")
_VOCABULARY = flags.DEFINE_integer(
    "vocabulary_size", 33_288, "Subwords of the Transformer."
)
_LAYERS = flags.DEFINE_integer(
    "layers", 6, "Of its encoder, and of its decoder; or of the network `deep`."
)
_ROWS = flags.DEFINE_integer("rows", 32, "Of 64 tokens each, in its batch.")


@dataclasses.dataclass(frozen=True)
class Network:
    """A model that is not compiled, and what it is trained with.

    Args:
      inputs: a batch, as the model takes it.
      unit: what a batch has `count` of.
    """

    model: Any
    inputs: Any
    labels: np.ndarray
    optimizer: Any
    loss: Any
    unit: str
    count: int


def _on_images(keras, model, shape):
    rng = np.random.default_rng(0)
    return Network(
        model,
        rng.normal(size=(_BATCH.value, *shape)).astype("float32"),
        np.zeros(_BATCH.value, "int32"),
        keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "images",
        _BATCH.value,
    )


def resnet_on_images(keras):
    """A ResNet with `--depth` and `--width`, with the weight decay of the digits."""
    shape = (_IMAGE_SIZE.value, _IMAGE_SIZE.value, 3)
    model = resnet(_DEPTH.value, 10, _WIDTH.value, shape, 1e-4, keras=keras)
    return _on_images(keras, model, shape)


def cnn_on_digits(keras):
    """Two convolutions and two dense layers, as for digits of 8x8 pixels."""
    layers, shape = keras.layers, (8, 8, 1)
    model = keras.Sequential(
        [
            layers.InputLayer(shape),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10, dtype="float32"),
        ]
    )
    return _on_images(keras, model, shape)


def transformer_on_tokens(keras):
    """The base Transformer on random tokens, two sentences in each row."""
    if keras.__name__ != "tf_keras":
        raise app.UsageError("The Transformer is a model of tf_keras.")
    losses, transformer = (
        importlib.import_module(f"state_of_sparsity.models.{name}")
        for name in ("training.loop.losses", "translation.transformer")
    )
    shape = (_ROWS.value, 64)
    rng = np.random.default_rng(0)
    segments = np.broadcast_to(np.repeat([1, 2], 32), shape).astype("int32")
    positions = np.broadcast_to(np.tile(np.arange(32), 2), shape).astype("int32")
    inputs = {}
    for side in ("source", "target"):
        inputs[side] = rng.integers(3, _VOCABULARY.value, shape).astype("int32")
        inputs[f"{side}_segments"] = segments
        inputs[f"{side}_positions"] = positions
    model = transformer.Transformer(_VOCABULARY.value, _LAYERS.value)
    model.build()
    optimizer = keras.optimizers.Adam(1e-4)
    loss = losses.SmoothedCrossEntropy(0.1)
    count = inputs["target"].size
    return Network(model, inputs, inputs["target"], optimizer, loss, "tokens", count)


def deep(keras):
    """`--layers` dense layers of 1,024 units, whose first step takes to compile."""
    layers = [keras.layers.Dense(1024) for _ in range(_LAYERS.value)]
    model = keras.Sequential([keras.layers.InputLayer((1024,)), *layers])
    return _on_images(keras, model, (1024,))


NETWORKS = {
    "resnet": resnet_on_images,
    "cnn": cnn_on_digits,
    "transformer": transformer_on_tokens,
    "deep": deep,
}
