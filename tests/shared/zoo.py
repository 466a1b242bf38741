"""Small models of each kind, of whichever Keras the tests run with."""

import numpy as np

from tests.flavour import keras, register

FEATURES, CLASSES = 6, 3
EXAMPLES = 8


@register
class Block(keras.layers.Layer):
    """A custom layer that holds layers in attributes, lists and dictionaries."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        # An activation that Keras cannot serialize.
        self.first = keras.layers.Dense(4, activation=lambda x: 2 * x, name="first")
        self.more = [keras.layers.Dense(4, name="second")]
        self.named = {"third": keras.layers.Dense(4, activation="relu", name="third")}
        self.attention = keras.layers.MultiHeadAttention(2, 2, name="attention")

    def call(self, inputs):
        x = self.named["third"](self.more[0](self.first(inputs)))
        sequence = x[:, None, :]
        return self.attention(sequence, sequence)[:, 0]


@register
class Subclassed(keras.Model):
    """A subclassed model with a custom layer and a model inside of it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.block = Block(name="block")
        self.norm = keras.layers.BatchNormalization(name="norm")
        self.inner = keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(4, name="dense")], name="inner"
        )
        self.head = keras.layers.Dense(CLASSES, kernel_regularizer="l2", name="head")

    def call(self, inputs, training=None):
        x = self.norm(self.block(inputs), training=training)
        return self.head(self.inner(x))


def subclassed():
    model = Subclassed(name="subclassed")
    model(np.zeros((1, FEATURES), "float32"))
    return model


def sequential():
    return keras.Sequential(
        [
            keras.Input((FEATURES,)),
            keras.layers.Dense(5, activation="relu", name="a"),
            keras.layers.Dropout(0.1, name="dropout"),
            keras.layers.Dense(CLASSES, kernel_regularizer="l2", name="b"),
        ],
        name="sequential",
    )


def functional():
    """With a layer that is used twice, operators, a custom layer, an inner model."""
    inputs = keras.Input((FEATURES,))
    x = Block(name="block")(inputs)
    shared = keras.layers.Dense(4, name="shared")
    x = keras.layers.BatchNormalization(name="norm")(shared(shared(x)) * 2.0)
    inner = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(4, name="dense")], name="inner"
    )
    head = keras.layers.Dense(CLASSES, kernel_regularizer="l2", name="head")
    return keras.Model(inputs, head(inner(x)), name="functional")


def perceptron(hidden=8, **arguments):
    """Two layers, nothing random, nothing regularized."""
    return keras.Sequential(
        [
            keras.Input((FEATURES,)),
            keras.layers.Dense(hidden, activation="relu", name="hidden", **arguments),
            keras.layers.Dense(CLASSES, name="logits", **arguments),
        ],
        name="perceptron",
    )


ALL = {"sequential": sequential, "functional": functional, "subclassed": subclassed}


def data(rng, examples=EXAMPLES):
    """Inputs and real-valued targets."""
    inputs = rng.normal(size=(examples, FEATURES)).astype("float32")
    return inputs, rng.normal(size=(examples, CLASSES)).astype("float32")
