"""One matrix that is looked up and, transposed, multiplied: dense and sparse."""

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras, tf
from state_of_sparsity.layers import tf_keras as layers
from tests.flavour import compiled, fit, from_logits, sites, steps_of
from tests.shared import zoo
from tests.tf_keras.test_layers import TECHNIQUES


def test_logits_of_a_tied_embedding_take_vectors_only():
    layer = layers.L0TiedEmbedding(9, 4, l0_weight=1.0)
    with pytest.raises(TypeError, match="takes floating-point inputs"):
        layer(keras.Input((5,), dtype="int32"), transposed=True)


class Tagger(keras.Model):
    """A subclassed model whose embedding is used twice in a step."""

    def __init__(self):
        super().__init__()
        self.tied = layers.TiedEmbedding(zoo.CLASSES + 4, 8, name="tied")

    def call(self, ids):
        return self.tied(self.tied(ids), transposed=True)


@pytest.mark.parametrize(
    ("technique", "functional"),
    [
        (sos.MagnitudePruning(0.5, 0, 2, 1), True),
        (TECHNIQUES[0], True),
        (TECHNIQUES[1], False),
    ],
)
def test_a_tied_embedding_becomes_sparse_in_both_of_its_uses(
    technique, functional, rng, tmp_path
):
    ids = rng.integers(0, zoo.CLASSES, (16, 5))
    model = Tagger()
    model(ids)
    if functional:
        inputs = keras.Input((5,), dtype="int32")
        model = keras.Model(inputs, model.tied(model.tied(inputs), transposed=True))
    sparse = sos.sparsify(model, technique)
    compiled(sparse, loss=from_logits(), run_eagerly=False)
    fit(sparse, ids, ids, epochs=3, batch_size=8)
    pruned = isinstance(technique, sos.MagnitudePruning)
    # Two batches in each of three epochs, and one penalty for the two uses.
    assert steps_of(sparse) == {6}
    assert len(sparse.losses) == (0 if pruned else 1)
    stripped = sos.strip(sparse)
    (plain,) = sites(stripped)
    assert type(plain.layer) is layers.TiedEmbedding
    np.testing.assert_allclose(stripped(ids), sparse(ids), rtol=1e-6, atol=1e-6)
    if pruned:
        assert sos.sparsity_report(stripped).sparsity == 0.5
    if functional:
        sparse.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_allclose(loaded(ids), sparse(ids), rtol=1e-6, atol=1e-6)


def test_only_a_lookup_makes_a_mask(rng):
    tied = layers.TiedEmbedding(5, 4, mask_zero=True)
    ids = tf.constant([[1, 0, 2]])
    vectors = tied(ids)
    assert tied.compute_mask(ids).numpy().tolist() == [[True, False, True]]
    assert tied.compute_mask(vectors) is None
    assert tied(vectors, transposed=True).shape == (1, 3, 5)
    np.testing.assert_allclose(
        tied(vectors, transposed=True),
        vectors.numpy() @ tied.embeddings.numpy().T,
        rtol=1e-5,
        atol=1e-7,
    )


@pytest.mark.parametrize("cls", [layers.TiedEmbedding, layers.L0TiedEmbedding])
def test_a_lookup_of_vectors_is_refused(cls):
    further = {"l0_weight": 1.0} if cls is layers.L0TiedEmbedding else {}
    with pytest.raises(TypeError, match="looks up integers: give keras"):
        cls(5, 4, **further)(keras.Input((3,)))
