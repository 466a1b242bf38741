"""The techniques of the reparameterization family, on whole models."""

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras, tf
from state_of_sparsity.layers import tf_keras as layers
from state_of_sparsity.layers.tf_keras import Linear, Separable
from tests.flavour import compiled, fit, steps_of
from tests.shared import zoo
from tests.tf_keras.test_layers import TECHNIQUES

PRUNING = sos.MagnitudePruning(0.5, 0, 2, 1)


def test_replicas_have_the_penalty_in_the_loss_once(mirrored, rng):
    inputs, _ = zoo.data(rng)
    with mirrored.scope():
        layer = layers.VariationalDense(3, kl_weight=1e-3, kernel_initializer="ones")
        model = keras.Sequential([keras.Input((zoo.FEATURES,)), layer])
        # A learning rate of 0 keeps the penalty, and labels of weight 0 leave nothing
        # but it.
        model.compile(keras.optimizers.SGD(0.0), "mse")
    nothing = np.zeros(len(inputs))
    history = model.fit(inputs, inputs[:, :3], sample_weight=nothing, epochs=2)
    # The ramp is one step long.
    penalty = 1e-3 * float(layer.penalty())
    assert history.history["loss"] == pytest.approx([0.0, penalty], rel=1e-5)


@pytest.mark.parametrize(
    ("technique", "arguments", "message"),
    [
        (sos.VariationalDropout, {"kl_weight": -1.0}, "kl_weight must be at least 0"),
        (sos.VariationalDropout, {"log_alpha_threshold": "3"}, "log_alpha_threshold"),
        (sos.VariationalDropout, {"log_alpha_threshold": float("nan")}, "finite"),
        (sos.VariationalDropout, {"ramp": "square"}, "ramp must be one of"),
        (sos.VariationalDropout, {"ramp": ["linear"]}, "ramp must be one of"),
        (sos.VariationalDropout, {"clip_log_alpha": 0.0}, "clip_log_alpha must be abo"),
        (sos.VariationalDropout, {"ramp_length": 0}, "ramp_length must be at least 1"),
        (sos.L0Regularization, {"l0_weight": -1.0}, "l0_weight must be at least 0"),
        (sos.L0Regularization, {"gamma": 0.0}, "gamma must be below 0"),
        (sos.L0Regularization, {"zeta": 1.0}, "zeta must be above 1"),
        (sos.L0Regularization, {"beta": 0.0}, "beta must be above 0"),
    ],
)
def test_bad_hyperparameters_are_refused_at_construction(technique, arguments, message):
    weight = "kl_weight" if technique is sos.VariationalDropout else "l0_weight"
    required = {weight: 1.0}
    with pytest.raises((TypeError, ValueError), match=message):
        technique(**{**required, **arguments})
    layer = layers.LAYERS[technique, keras.layers.Dense]
    with pytest.raises((TypeError, ValueError), match=message):
        layer(3, **{**required, **arguments})


def test_a_kind_of_ones_own_is_converted_once_it_has_a_linear_map(rng):
    class UpSampling(keras.layers.Conv2DTranspose):
        pass

    model = keras.Sequential([UpSampling(2, 3, activation="relu", name="up")])
    images = rng.normal(size=(2, 4, 4, 3)).astype("float32")
    model(images)
    technique = sos.L0Regularization(1e-3)
    with pytest.raises(ValueError, match=r"no linear map for layer 'up' of kind UpSam"):
        sos.sparsify(model, technique)

    class L0UpSampling(Linear, UpSampling):
        technique_class = sos.L0Regularization

    sparse = sos.sparsify(model, technique)
    assert type(sparse.layers[0]) is L0UpSampling
    assert np.isfinite(sparse(images, training=True)).all()
    np.testing.assert_allclose(sparse(images), sos.strip(sparse)(images), atol=1e-6)


def test_a_kind_of_ones_own_without_a_technique_takes_any(rng):
    class Shrinking(keras.layers.Conv2D):
        pass

    class SparseShrinking(Linear, Shrinking):
        pass

    model = keras.Sequential([Shrinking(2, 3, input_shape=(4, 4, 3), name="own")])
    returning = sos.MagnitudePruning(0.5, 1, 1, 1, masked_weights="return")
    for technique in (returning, *TECHNIQUES):
        sparse = sos.sparsify(model, technique)
        assert type(sparse.layers[0]) is SparseShrinking
        assert np.isfinite(sparse(rng.normal(size=(2, 4, 4, 3)), training=True)).all()
    with pytest.raises(TypeError, match=r"SparseShrinking needs a technique.*None"):
        SparseShrinking(2, 3)


def test_layers_made_by_hand_load_as_earlier_releases_saved_them():
    config = keras.layers.Dense(3, name="old").get_config()
    old = {**config, "l0_weight": 0.25, "beta": 0.5, "version": 1}
    layer = layers.L0Dense.from_config(old)
    assert layer.technique == sos.L0Regularization(0.25, beta=0.5)
    again = layers.L0Dense.from_config(layer.get_config())
    assert again.technique == layer.technique
    with pytest.raises(ValueError, match="of version None"):
        layers.L0Dense.from_config({**config, "l0_weight": 0.25})


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: t.technique_name())
def test_a_separable_kind_of_ones_own_is_two_lines(technique, rng):
    class Narrow(keras.layers.SeparableConv1D):
        pass

    class LearnedNarrow(Separable, Narrow):
        technique_class = type(technique)

    model = keras.Sequential([Narrow(3, 2, input_shape=(5, 2), name="narrow")])
    inputs = rng.normal(size=(3, 5, 2)).astype("float32")
    sparse = sos.sparsify(model, technique)
    assert type(sparse.layers[0]) is LearnedNarrow
    np.testing.assert_allclose(sparse(inputs), sos.strip(sparse)(inputs), atol=1e-6)


def test_a_separable_kind_with_a_call_of_its_own_is_refused():
    class Doubled(keras.layers.SeparableConv1D):
        def call(self, inputs):
            return 2.0 * super().call(inputs)

    with pytest.raises(TypeError, match=r"without a `call`.*Received: Doubled"):

        class Learned(Separable, Doubled):
            technique_class = sos.L0Regularization

    assert (sos.L0Regularization, Doubled) not in layers.LAYERS
    assert Doubled not in layers.KINDS


@pytest.mark.parametrize(
    "technique", [TECHNIQUES[0], PRUNING], ids=lambda t: t.technique_name()
)
def test_variables_on_the_host_count_steps_once(technique, rng):
    with tf.distribute.experimental.CentralStorageStrategy().scope():
        sparse = compiled(sos.sparsify(zoo.sequential(), technique))
    fit(sparse, *zoo.data(rng), batch_size=8)
    assert steps_of(sparse) == {1}


# Keras's ".weights.h5" passes over layers in a dictionary in a list, dense ones too.
@pytest.mark.parametrize(
    ("kind", "technique", "file"),
    [
        ("functional", PRUNING, "model"),
        ("subclassed", TECHNIQUES[1], "model.h5"),
    ],
)
def test_weights_of_any_model_load_into_one_that_is_sparsified_again(
    kind, technique, file, rng, tmp_path
):
    inputs, targets = zoo.data(rng)
    sparse = compiled(sos.sparsify(zoo.ALL[kind](), technique))
    fit(sparse, inputs, targets)
    sparse.save_weights(tmp_path / file)
    again = sos.sparsify(zoo.ALL[kind](), technique)
    again.load_weights(tmp_path / file)
    np.testing.assert_allclose(again(inputs), sparse(inputs), atol=1e-6)
    assert steps_of(again) == steps_of(sparse)
    for mask, other in zip(
        sos.weight_masks(again).values(), sos.weight_masks(sparse).values(), strict=True
    ):
        np.testing.assert_array_equal(mask, other)


def test_weights_of_layers_of_the_same_name_go_into_one_file(rng, tmp_path):
    class Twice(keras.layers.Layer):
        def __init__(self):
            super().__init__(name="twice")
            self.first = keras.layers.MultiHeadAttention(1, 2, name="first")
            self.second = keras.layers.MultiHeadAttention(1, 2, name="second")

        def call(self, x):
            return self.second(self.first(x, x), x)

    inputs = keras.Input((3, 4))
    model = keras.Model(inputs, Twice()(inputs))
    for technique in (PRUNING, TECHNIQUES[0]):
        sparse = sos.sparsify(model, technique)
        sparse.save_weights(tmp_path / "weights.h5")
        sparse.load_weights(tmp_path / "weights.h5")
