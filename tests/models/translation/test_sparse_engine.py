"""A Transformer that the runtime computes translates as TensorFlow's does."""

import os

import numpy as np
import pytest

from state_of_sparsity.engines.tf_keras.backend import keras, tf
from state_of_sparsity.models.translation.decoding import beam_search, greedy
from state_of_sparsity.models.translation.sparse_engine import (
    DECODER,
    ENCODER,
    SparseTransformer,
    write_sparse,
)
from state_of_sparsity.models.translation.transformer import Transformer

VOCABULARY = 50


@pytest.fixture(scope="module")
def dense():
    """With random weights, of which 80 % are zero."""
    keras.utils.set_random_seed(0)
    model = transformer()
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if variable.shape.rank > 1:
            kept = rng.random(variable.shape) < 0.2
            variable.assign(3 * np.where(kept, variable.numpy(), 0))
    return model


@pytest.fixture(scope="module")
def sparse(dense):
    return SparseTransformer(dense, threads=1)


@pytest.fixture(scope="module")
def source():
    ids = np.random.default_rng(1).integers(3, VOCABULARY, (3, 7))
    ids[1, 4:] = 0
    return tf.constant(ids, tf.int32)


@pytest.mark.slow
def test_encoder_and_decoder_step_compute_the_same(dense, sparse, source):
    encoded = dense.encode(source), sparse.encode(source)
    for one, other in zip(*map(tf.nest.flatten, encoded), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)
    cache = dense.start_cache(6, 9)
    ids = tf.range(6)
    for step in map(tf.constant, (0, 1)):
        expected, after = dense.decode_step(ids, step, encoded[0], cache)
        found, cache = sparse.decode_step(ids, step, encoded[1], cache)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
        for one, other in zip(*map(tf.nest.flatten, (after, cache)), strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("search", [beam_search, greedy])
def test_searches_find_the_same_tokens(dense, sparse, source, search):
    expected = tf.function(lambda: search(dense, source, 12))()
    found = search(sparse, source, 12)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4)


@pytest.fixture(scope="module")
def files(dense, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    write_sparse(dense, folder / DECODER)
    assert sorted(os.listdir(folder)) == [DECODER, ENCODER]
    return folder


def differences(one, other, source):
    """By array of the encoded source, the largest difference, relative."""
    encoded = (tf.nest.flatten(model.encode(source)[0]) for model in (one, other))
    return [
        np.abs(a - b).max() / np.abs(a).max() for a, b in zip(*encoded, strict=True)
    ]


def test_files_of_a_transformer_compute_what_it_does(dense, sparse, source, files):
    read = SparseTransformer(dense, threads=1, folder=files)
    assert max(differences(sparse, read, source)) <= 1e-6
    found = beam_search(read, source, 12)
    np.testing.assert_array_equal(found.ids, beam_search(sparse, source, 12).ids)


@pytest.mark.slow
def test_files_with_rounded_weights_compute_nearly_the_same(
    dense, sparse, source, tmp_path
):
    write_sparse(dense, tmp_path / DECODER, "float16")
    found = differences(sparse, SparseTransformer(dense, 1, tmp_path), source)
    assert 1e-6 < min(found) <= max(found) <= 1e-2


def transformer(vocabulary=VOCABULARY, layers=1, width=32):
    model = Transformer(vocabulary, layers, width, 64, heads=4)
    model.build()
    return model


@pytest.mark.slow
def test_files_of_another_model_are_refused(dense, files):
    with pytest.raises(ValueError, match=f"{DECODER} is of another model.*50.*51"):
        SparseTransformer(transformer(vocabulary=51), 1, files)
    with pytest.raises(ValueError, match=f"{DECODER} is of another model.*shapes"):
        SparseTransformer(transformer(layers=2), 1, files)
    with pytest.raises(FileNotFoundError, match=ENCODER):
        SparseTransformer(dense, 1, files / "none")
