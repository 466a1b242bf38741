"""Networks as Keras's own examples write them: sparsified, trained, stripped, saved.

A vision transformer and a U-Net, both tiny.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops

import state_of_sparsity as sos
from tests.flavour import compiled, fit, outputs_of, register

CLASSES = 3


@register
class Patches(layers.Layer):
    """Cuts images into patches, in a row."""

    def __init__(self, patch_size, **kwargs):
        super().__init__(**kwargs)
        self.patch_size = patch_size

    def call(self, images):
        patches = ops.image.extract_patches(images, size=self.patch_size)
        flat = patches.shape[1] * patches.shape[2], patches.shape[3]
        return ops.reshape(patches, (-1, *flat))

    def get_config(self):
        return {**super().get_config(), "patch_size": self.patch_size}


@register
class PatchEncoder(layers.Layer):
    """Projects patches, and adds an embedding of their positions."""

    def __init__(self, patches, width, **kwargs):
        super().__init__(**kwargs)
        self.patches, self.width = patches, width
        self.projection = layers.Dense(width, name="projection")
        self.position_embedding = layers.Embedding(patches, width, name="positions")

    def build(self, input_shape):
        self.projection.build(input_shape)
        self.position_embedding.build((1, self.patches))

    def call(self, patches):
        positions = ops.expand_dims(ops.arange(self.patches), 0)
        return self.projection(patches) + self.position_embedding(positions)

    def get_config(self):
        own = {"patches": self.patches, "width": self.width}
        return {**super().get_config(), **own}


def vision_transformer():
    images = keras.Input((8, 8, 1))
    x = PatchEncoder(4, 8)(Patches(4)(images))
    for _ in range(2):
        normalized = layers.LayerNormalization(epsilon=1e-6)(x)
        attended = layers.MultiHeadAttention(2, 4, dropout=0.1)(normalized, normalized)
        x = layers.Add()([attended, x])
        hidden = layers.Dense(16, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([layers.Dense(8)(layers.Dropout(0.1)(hidden)), x])
    x = layers.Flatten()(layers.LayerNormalization()(x))
    return keras.Model(images, layers.Dense(CLASSES)(x))


def u_net():
    images = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, strides=2, padding="same")(images)
    x = layers.Activation("relu")(layers.BatchNormalization()(x))
    skipped = x
    x = layers.SeparableConv2D(8, 3, padding="same")(x)
    x = layers.Activation("relu")(layers.BatchNormalization()(x))
    x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    x = layers.add([x, layers.Conv2D(8, 1, strides=2, padding="same")(skipped)])
    x = layers.Conv2DTranspose(4, 3, padding="same")(x)
    x = layers.UpSampling2D(2)(layers.BatchNormalization()(x))
    x = layers.Concatenate()([x, skipped])
    x = layers.UpSampling2D(2)(layers.Conv2DTranspose(4, 3, padding="same")(x))
    return keras.Model(images, layers.Conv2D(CLASSES, 3, padding="same")(x))


NETWORKS = {f.__name__: f for f in (vision_transformer, u_net)}
TECHNIQUES = [
    sos.MagnitudePruning(0.75, 1, 4, 1),
    sos.VariationalDropout(1e-4),
]


def data(model, rng):
    inputs = rng.normal(size=(8, *model.inputs[0].shape[1:])).astype("float32")
    return inputs, rng.integers(0, CLASSES, (8, *model.outputs[0].shape[1:-1]))


@pytest.mark.slow
@pytest.mark.any_backend
@pytest.mark.feature("ViT, U-Net")
@pytest.mark.parametrize(
    ("network", "technique"),
    zip(NETWORKS.values(), TECHNIQUES, strict=True),
    ids=NETWORKS,
)
def test_a_network_is_sparsified_trained_stripped_saved_and_loaded(
    network, technique, rng, tmp_path
):
    model = network()
    inputs, targets = data(model, rng)
    sparse = sos.sparsify(model, technique)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    compiled(sparse, keras.optimizers.Adam(0.03), loss)
    losses = fit(sparse, inputs, targets, epochs=6)
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    if isinstance(technique, sos.MagnitudePruning):
        for row in sos.sparsity_report(sparse).sparsified:
            assert row.zeros == min(round(0.75 * row.size), row.size - 1), row
    stripped = sos.strip(sparse)
    expected = outputs_of(sparse, inputs)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        outputs_of(stripped, inputs), expected, atol=1e-5 * scale
    )
    sparse.save(tmp_path / "sparse.keras")
    loaded = keras.models.load_model(tmp_path / "sparse.keras")
    np.testing.assert_allclose(outputs_of(loaded, inputs), expected, atol=1e-6 * scale)
    assert sos.sparsity_report(loaded) == sos.sparsity_report(sparse)
