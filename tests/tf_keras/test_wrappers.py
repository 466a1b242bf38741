"""What Keras does around a layer it still does around a sparse one, and in graphs."""

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras, tf
from tests.flavour import compiled, fit, sites
from tests.shared import zoo

TECHNIQUES = [sos.MagnitudePruning(0.5, 1, 2, 1), sos.L0Regularization(0.0)]
techniques = pytest.mark.parametrize(
    "technique", TECHNIQUES, ids=lambda t: t.technique_name()
)
layers = keras.layers


def trained(model, technique, inputs):
    sparse = compiled(sos.sparsify(model, technique))
    fit(sparse, inputs, np.ones(model(inputs).shape), batch_size=len(inputs))
    return sparse


@techniques
def test_activity_regularizers_are_kept(technique, rng, tmp_path):
    inputs, _ = zoo.data(rng)
    first = layers.Dense(6, activity_regularizer=keras.regularizers.L2(0.5))
    model = keras.Sequential([keras.Input((zoo.FEATURES,)), first, layers.Dense(2)])
    sparse = trained(model, technique, inputs)
    sparse.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for each in (sparse, loaded, sos.strip(sparse)):
        activity = each.layers[0](inputs).numpy()
        each(inputs)
        # In Keras it is of the mean over examples; the other losses weigh nothing.
        expected = 0.5 * np.sum(activity.astype("float64") ** 2) / len(inputs)
        assert float(sum(each.losses)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("technique", "bidirectional"), zip(TECHNIQUES, [True, False], strict=True)
)
def test_states_are_kept_between_calls_and_reset(technique, bidirectional, rng):
    recurrent = layers.LSTM(3, stateful=True, name="lstm")
    if bidirectional:
        recurrent = layers.Bidirectional(recurrent)
    x = keras.Input(batch_shape=(2, 4, 5))
    model = keras.Model(x, layers.Dense(2)(recurrent(x)))
    inputs = rng.normal(size=(2, 4, 5)).astype("float32")
    sparse = trained(model, technique, inputs)
    for each in (sparse, sos.strip(sparse)):
        each.reset_states()
        first, second = each(inputs).numpy(), each(inputs).numpy()
        assert np.abs(first - second).max() > 1e-4
        each.reset_states()
        np.testing.assert_allclose(each(inputs), first, atol=1e-6)
    # The states of the model are its own.
    model.reset_states()
    before = model(inputs).numpy()
    model.reset_states()
    sparse(inputs)
    np.testing.assert_array_equal(model(inputs), before)


@pytest.mark.parametrize(
    ("technique", "kind"), zip(TECHNIQUES, ["dense", "embedding"], strict=True)
)
def test_spectral_normalization_of_a_sparse_layer_is_saved(
    technique, kind, rng, tmp_path
):
    if kind == "dense":
        x, inner = keras.Input((zoo.FEATURES,)), layers.Dense(6, name="inner")
        inputs, _ = zoo.data(rng)
    else:
        x, inner = keras.Input((zoo.FEATURES,)), layers.Embedding(9, 4, name="inner")
        inputs = rng.integers(0, 9, (8, zoo.FEATURES))
    y = layers.SpectralNormalization(inner, power_iterations=20, name="spectral")(x)
    model = keras.Model(x, layers.Dense(2)(layers.Flatten()(y)))
    sparse = trained(model, technique, inputs)
    assert sites(sparse)[0].path == "spectral/inner"
    assert all(s.is_sparse for s in sites(sparse))
    for file in ("model.keras", "model.h5"):
        sparse.save(tmp_path / file)
        loaded = keras.models.load_model(tmp_path / file)
        np.testing.assert_allclose(loaded(inputs), sparse(inputs), atol=1e-6)
        assert [s.technique for s in sites(loaded)] == [
            s.technique for s in sites(sparse)
        ]
    wrapper = loaded.layers[1]
    assert isinstance(wrapper, layers.SpectralNormalization)
    # What it normalizes is the weight that the layer uses.
    (theta,) = sites(loaded)[0].weights.values()
    assert theta is wrapper.kernel
    theta.assign(rng.normal(size=theta.shape))
    wrapper(inputs, training=True)
    norm = np.linalg.norm(theta.numpy(), 2)
    if isinstance(technique, sos.MagnitudePruning):
        # Then it is masked.
        assert norm < 1.02
    else:
        assert norm == pytest.approx(1.0, abs=0.02)
    assert type(sos.strip(sparse).layers[1]) is layers.SpectralNormalization


def with_operators():
    x = keras.Input((zoo.FEATURES,))
    first, second = (layers.Dense(4, name=name)(x) for name in "ab")
    outer = tf.einsum("na,nb->nab", first, second)
    mixed = tf.einsum("nab,bc->nac", outer, np.ones((4, 2), "float32"))
    mean = tf.reduce_mean(tf.stack([mixed, 2.0 * mixed], axis=1), axis=1)
    parts = tf.split(mean, [1, 3], axis=1)
    model = keras.Model(x, layers.Dense(2, name="c")(tf.concat(parts[::-1], 1)))
    model.add_loss(tf.reduce_sum(outer))
    model.add_metric(tf.reduce_mean(first), name="activity")
    return model


@techniques
def test_tensorflow_functions_with_several_arguments_are_converted(
    technique, rng, tmp_path
):
    inputs, _ = zoo.data(rng)
    model = with_operators()
    expected = model(inputs).numpy()
    if isinstance(technique, sos.MagnitudePruning):
        sparse = sos.sparsify(model, technique)
        np.testing.assert_allclose(sparse(inputs), expected, rtol=1e-5, atol=1e-6)
    sparse = trained(model, technique, inputs)
    np.testing.assert_array_equal(model(inputs), expected)
    stripped = sos.strip(sparse)
    np.testing.assert_allclose(stripped(inputs), sparse(inputs), rtol=1e-5, atol=1e-6)
    assert len(stripped.losses) == len(model.losses) == 1
    assert "activity" in [metric.name for metric in stripped.metrics]
    assert [x.name for x in stripped.layers] == [x.name for x in model.layers]
    sos.export(sparse, tmp_path / "exported")
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_allclose(
        exported.serve(inputs), sparse(inputs), rtol=1e-5, atol=1e-6
    )
