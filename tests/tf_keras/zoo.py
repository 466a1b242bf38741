"""Small models of each kind, for tests of what works on any model."""

import numpy as np

from state_of_sparsity.engines.tf_keras.backend import keras

INPUTS = 10
CLASSES = 3


@keras.utils.register_keras_serializable("tests")
class Block(keras.layers.Layer):
    """A custom layer that holds layers in attributes, lists and dictionaries."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        # An activation that Keras cannot serialize.
        self.first = keras.layers.Dense(8, activation=lambda x: 2 * x, name="first")
        self.more = [
            keras.layers.Dense(8, name="second"),
            {"third": keras.layers.Dense(8, activation="relu", name="third")},
        ]
        self.attention = keras.layers.MultiHeadAttention(2, 4, name="attention")

    def call(self, inputs):
        x = self.more[1]["third"](self.more[0](self.first(inputs)))
        sequence = x[:, None, :]
        return self.attention(sequence, sequence)[:, 0]


class Subclassed(keras.Model):
    """A subclassed model with a custom layer and a model inside of it."""

    def __init__(self):
        super().__init__(name="subclassed")
        self.block = Block(name="block")
        self.norm = keras.layers.BatchNormalization(name="norm")
        self.inner = keras.Sequential(
            [keras.layers.Dense(8, input_shape=(8,), name="dense")], name="inner"
        )
        self.head = keras.layers.Dense(CLASSES, kernel_regularizer="l2", name="head")

    def call(self, inputs, training=None):
        x = self.norm(self.block(inputs), training=training)
        return self.head(self.inner(x))


def subclassed():
    model = Subclassed()
    model(np.zeros((1, INPUTS), "float32"))
    return model


def sequential():
    return keras.Sequential(
        [
            keras.layers.Dense(8, activation="relu", input_shape=(INPUTS,), name="a"),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(CLASSES, kernel_regularizer="l2", name="b"),
        ],
        name="sequential",
    )


def functional():
    """With a layer that is used twice, operators, a custom layer, an inner model."""
    inputs = keras.Input((INPUTS,))
    x = Block(name="block")(inputs)
    shared = keras.layers.Dense(8, name="shared")
    x = keras.layers.BatchNormalization(name="norm")(shared(shared(x)) * 2.0)
    x = keras.layers.Lambda(lambda t: t + 1.0)(x)
    inner = keras.Sequential(
        [keras.layers.Dense(8, input_shape=(8,), name="dense")], name="inner"
    )
    outputs = keras.layers.Dense(CLASSES, kernel_regularizer="l2", name="head")(
        inner(x)
    )
    return keras.Model(inputs, outputs, name="functional")


ALL = {"sequential": sequential, "functional": functional, "subclassed": subclassed}


def compiled(model, **kwargs):
    # Quick where a few steps are taken; a test of graphs says otherwise.
    kwargs.setdefault("run_eagerly", True)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, **kwargs)
    return model


def data(rng, examples=32):
    inputs = rng.normal(size=(examples, INPUTS)).astype("float32")
    return inputs, rng.integers(0, CLASSES, examples)
