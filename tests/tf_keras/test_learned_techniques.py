"""The techniques of the reparameterization family, on whole models."""

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras, tf
from state_of_sparsity.engines.tf_keras.weights import plain_layer_of
from state_of_sparsity.layers import tf_keras as layers
from state_of_sparsity.layers.tf_keras import Linear, Separable
from tests.flavour import sites
from tests.tf_keras import zoo
from tests.tf_keras.layer_kinds import TECHNIQUES


def test_saved_layers_load(rng, tmp_path):
    technique = TECHNIQUES[0]
    inputs, labels = zoo.data(rng)
    sparse = zoo.compiled(sos.sparsify(zoo.sequential(), technique))
    sparse.fit(inputs, labels, verbose=0)
    sparse.save(tmp_path / "model")
    loaded = keras.models.load_model(tmp_path / "model")
    np.testing.assert_allclose(loaded(inputs), sparse(inputs), atol=1e-6)
    assert loaded.layers[0].technique == technique
    assert int(loaded.layers[0].training_step) == 1


def test_penalty_is_in_the_loss_once_with_the_weight_of_the_ramp(rng, mirrored):
    technique = TECHNIQUES[0]
    config = {**technique.get_config(), "ramp_begin": 1, "ramp_length": 4}
    ramped = type(technique).from_config(config)
    inputs, labels = zoo.data(rng)
    for scope in (tf.distribute.get_strategy().scope(), mirrored.scope()):
        with scope:
            layer_class = layers.LAYERS[type(ramped), keras.layers.Dense]
            model = keras.Sequential(
                [
                    keras.Input((zoo.INPUTS,)),
                    layer_class(zoo.CLASSES, kernel_initializer="ones", **config),
                ]
            )
            # A learning rate of 0 keeps the penalty, and labels of weight 0 leave
            # nothing but it.
            model.compile(keras.optimizers.SGD(0.0), "mse")
        history = []
        for _ in range(7):
            model.fit(
                inputs, labels, sample_weight=np.zeros(32), batch_size=32, verbose=0
            )
            history.append(model.history.history["loss"][0])
        penalty = float(model.layers[0].penalty())
        expected = [1e-3 * penalty * min(max(t - 1, 0) / 4, 1) for t in range(7)]
        np.testing.assert_allclose(history, expected, rtol=1e-5)


def test_unknown_layer_kind_is_named_with_a_way_out():
    class Own(keras.layers.Conv2DTranspose):
        pass

    model = keras.Sequential([Own(2, 3, input_shape=(5, 5, 2), name="up")])
    with pytest.raises(ValueError, match=r"no linear map for layer 'up' of kind Own"):
        sos.sparsify(model, TECHNIQUES[0])


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


def test_callbacks_after_ours_and_our_own_summaries_have_the_penalty(rng, tmp_path):
    sparse = zoo.compiled(sos.sparsify(zoo.sequential(), TECHNIQUES[0]))
    board = keras.callbacks.TensorBoard(tmp_path / "board", write_graph=False)
    ours = sos.callbacks(sparse, log_dir=tmp_path / "ours")
    sparse.fit(*zoo.data(rng), epochs=2, verbose=0, callbacks=[*ours, board])
    after = logged(tmp_path / "board")
    own = logged(tmp_path / "ours")
    penalty = sum(float(layer.penalty()) for layer in sparse.layers if layer.weights)
    assert after["epoch_penalty"] == own["penalty"] == pytest.approx(penalty, rel=1e-6)
    assert after["epoch_penalty_weight"] == own["penalty_weight"] == pytest.approx(1e-3)
    # Summaries are in float32.
    assert own["sparsity"] == np.float32(sos.sparsity_report(sparse).sparsity)


def logged(folder):
    """The last value of each scalar for TensorBoard."""
    return {
        value.tag: float(tf.make_ndarray(value.tensor))
        for path in sorted(folder.rglob("events*"))
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
        if value.tensor.dtype == tf.float32.as_datatype_enum
    }


def test_a_kind_of_ones_own_is_converted(rng):
    class UpSampling(keras.layers.Conv2DTranspose):
        pass

    model = keras.Sequential([UpSampling(2, 3, activation="relu")])
    images = rng.normal(size=(2, 4, 4, 3)).astype("float32")
    model(images)

    class L0UpSampling(Linear, UpSampling):
        technique_class = sos.L0Regularization

    sparse = sos.sparsify(model, sos.L0Regularization(1e-3))
    assert type(sparse.layers[0]) is L0UpSampling
    assert np.isfinite(sparse(images, training=True)).all()
    np.testing.assert_allclose(sparse(images), sos.strip(sparse)(images), atol=1e-6)


def test_kinds_without_a_linear_map_are_not_passed_over():
    model = keras.Sequential(
        [
            keras.layers.ConvLSTM1D(2, 2, input_shape=(4, 5, 3), name="film"),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )
    with pytest.raises(ValueError, match="no linear map for layer 'film'"):
        sos.sparsify(model, TECHNIQUES[0])
    sparse = sos.sparsify(model, TECHNIQUES[0], {"film": None})
    (report,) = sos.sparsity_report(sparse).sparsified
    assert report.name == "dense/kernel"


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


def test_constraints_hold_after_sparsify_and_strip(rng):
    inputs = rng.normal(size=(32, 4)).astype("float32")
    for technique in (TECHNIQUES[0], sos.MagnitudePruning(0.25, 0, 2, 1)):
        layer = keras.layers.Dense(
            2, kernel_constraint="non_neg", bias_constraint="non_neg", name="only"
        )
        model = keras.Sequential([keras.Input((4,)), layer])
        sparse = sos.sparsify(model, technique)
        for each in (sparse, sos.strip(sparse)):
            each.compile(keras.optimizers.SGD(0.1), "mse")
            further = sos.callbacks(sparse) if each is sparse else []
            # Towards negative weights.
            each.fit(inputs, -inputs[:, :2] - 1, epochs=5, verbose=0, callbacks=further)
            (report,) = sites(each)
            for variable in plain_layer_of(report.layer).trainable_weights:
                if "log_" not in variable.name:
                    assert (variable.numpy() >= 0).all()


@pytest.mark.parametrize(
    "technique",
    [TECHNIQUES[0], sos.MagnitudePruning(0.5, 0, 2, 1)],
    ids=lambda t: t.technique_name(),
)
def test_variables_on_the_host_count_steps_once(technique, rng):
    with tf.distribute.experimental.CentralStorageStrategy().scope():
        sparse = zoo.compiled(sos.sparsify(zoo.sequential(), technique))
    inputs, labels = zoo.data(rng)
    sparse.fit(inputs, labels, verbose=0, callbacks=sos.callbacks(sparse))
    (layer, _) = (site.layer for site in sites(sparse))
    step = getattr(layer, "training_step", getattr(layer, "pruning_step", None))
    assert int(step) == 1


# Keras's ".weights.h5" passes over layers in a dictionary in a list, dense ones too.
@pytest.mark.parametrize(
    ("kind", "technique", "file"),
    [
        ("functional", TECHNIQUES[0], "model"),
        ("subclassed", TECHNIQUES[1], "model.h5"),
    ],
)
def test_weights_of_any_model_load_into_one_that_is_sparsified_again(
    kind, technique, file, rng, tmp_path
):
    inputs, labels = zoo.data(rng)
    sparse = zoo.compiled(sos.sparsify(zoo.ALL[kind](), technique))
    sparse.fit(inputs, labels, verbose=0, callbacks=sos.callbacks(sparse))
    sparse.save_weights(tmp_path / file)
    again = sos.sparsify(zoo.ALL[kind](), technique)
    again.load_weights(tmp_path / file)
    np.testing.assert_allclose(again(inputs), sparse(inputs), atol=1e-6)
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
    for technique in (sos.MagnitudePruning(0.5, 0, 2, 1), TECHNIQUES[0]):
        sparse = sos.sparsify(model, technique)
        sparse.save_weights(tmp_path / "weights.h5")
        sparse.load_weights(tmp_path / "weights.h5")
