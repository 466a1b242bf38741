"""Models that turn text into numbers, whose lookup tables are no variables.

TensorFlow looks up, in whatever Keras.
"""

import importlib

import numpy as np
import pytest

from tests.flavour import (
    BACKEND,
    IS_KERAS3,
    compiled,
    keras,
    outputs_of,
    register,
    sites,
    sos,
    sparse_layers,
)

if BACKEND == "tensorflow":
    tf = importlib.import_module("tensorflow")

pytestmark = [
    pytest.mark.feature("TextVectorization, StringLookup, IntegerLookup"),
    pytest.mark.skipif(
        BACKEND != "tensorflow", reason="a model with strings in it is TensorFlow's"
    ),
]

layers = keras.layers
TEXTS = np.array([["a b c"], ["c d"], ["e"], ["b b"]])
TECHNIQUES = {
    "magnitude": sos.MagnitudePruning(0.5, 1, 1, 1),
    "variational": sos.VariationalDropout(1e-3),
}


def vectorized():
    text = layers.TextVectorization(output_sequence_length=3, name="text")
    text.adapt(TEXTS)
    x = keras.Input((1,), dtype="string")
    words = layers.Embedding(10, 4, name="words")(text(x))
    return keras.Model(x, layers.Dense(2, name="head")(layers.Flatten()(words)))


@register
class Looked(keras.Model):
    """A subclassed model with lookups in a list."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        texts = layers.StringLookup(vocabulary=["a b c", "c d"], name="texts")
        self.lookups = [texts, layers.IntegerLookup(vocabulary=[1, 2], name="ids")]
        self.words = layers.Embedding(10, 4, name="words")
        self.head = layers.Dense(2, name="head")

    def call(self, inputs):
        ids = self.lookups[0](inputs)
        return self.head(self.words(self.lookups[1](ids)))[:, 0]


def looked():
    model = Looked(name="looked")
    model(tf.constant(TEXTS))
    return model


MODELS = {"vectorized": vectorized, "looked": looked}


@pytest.mark.parametrize(
    ("kind", "technique"),
    [("vectorized", "variational"), ("looked", "magnitude")],
)
def test_a_model_with_lookup_tables_is_trained_and_exported(kind, technique, tmp_path):
    model, inputs = MODELS[kind](), tf.constant(TEXTS)
    sparse = compiled(sos.sparsify(model, TECHNIQUES[technique]))
    sparse.fit(inputs, np.ones((4, 2)), verbose=0, callbacks=sos.callbacks(sparse))
    report = sos.sparsity_report(sparse)
    assert len(report.layers) == len(sites(model)) == len(sparse_layers(sparse))
    assert report.parameters == sum(
        int(np.prod(v.shape)) for v in model.trainable_variables
    )
    masks = sos.weight_masks(sparse)
    zeros = [int((~mask).sum()) for mask in masks.values()]
    assert zeros == [layer.zeros for layer in report.layers]
    if technique == "magnitude":
        assert zeros == [mask.size // 2 for mask in masks.values()]
    expected = outputs_of(sparse, inputs)
    stripped = sos.strip(sparse)
    assert not sparse_layers(stripped)
    np.testing.assert_allclose(outputs_of(stripped, inputs), expected, atol=1e-6)
    if not (IS_KERAS3 and kind == "looked"):
        # Keras 3 does not note what dtype a subclassed model takes.
        sos.export(sparse, tmp_path / "exported", format="tf_saved_model")
        exported = tf.saved_model.load(str(tmp_path / "exported"))
        np.testing.assert_allclose(exported.serve(inputs), expected, atol=1e-6)
    sparse.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(outputs_of(loaded, inputs), expected, atol=1e-6)
