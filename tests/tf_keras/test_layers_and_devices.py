"""Pruned layers on several devices, in files and in a loop of one's own."""

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import PruneLowMagnitude, keras, tf
from tests.flavour import sites
from tests.tf_keras import zoo

PRUNE_NOW = sos.MagnitudePruning(0.7, begin_step=1, end_step=1, frequency=1)
layers = keras.layers


def test_layer_keeps_its_own_precision():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = keras.Sequential([layers.Dense(3, dtype="float32", input_shape=(2,))])
    sparse = sos.sparsify(model, PRUNE_NOW)
    assert sparse(np.zeros((1, 2))).dtype == tf.float32


def test_replicas_have_the_same_masks_as_one_device(mirrored, rng):
    technique = sos.RandomPruning(0.7, 1, 3, 1)
    inputs, labels = zoo.data(rng)

    def train():
        keras.utils.set_random_seed(0)
        sparse = zoo.compiled(
            sos.sparsify(zoo.sequential(), technique), run_eagerly=False
        )
        sparse.fit(
            inputs, labels, batch_size=8, epochs=2, shuffle=False, verbose=0,
            callbacks=sos.callbacks(sparse),
        )  # fmt: skip
        return sparse

    with mirrored.scope():
        distributed = train()
    for site in sites(distributed):
        for variables in site.layer.pruning_vars:
            for variable in variables:
                first, second = (
                    v.numpy() for v in mirrored.experimental_local_results(variable)
                )
                np.testing.assert_array_equal(first, second)
        assert site.layer.pruning_step.numpy() == 8
    for layer in sos.sparsity_report(distributed).layers:
        assert layer.zeros == round(0.7 * layer.size)
    # Outside of the scope, too.
    stripped = sos.strip(distributed)
    np.testing.assert_allclose(distributed(inputs), stripped(inputs), atol=1e-6)
    alone = sos.weight_masks(train())
    for name, mask in sos.weight_masks(distributed).items():
        np.testing.assert_array_equal(mask, alone[name])


@pytest.fixture
def trained(rng):
    sparse = zoo.compiled(
        sos.sparsify(zoo.sequential(), sos.MagnitudePruning(0.7, 1, 6, 1))
    )
    sparse.fit(*zoo.data(rng), batch_size=8, verbose=0, callbacks=sos.callbacks(sparse))
    return sparse


@pytest.mark.parametrize(
    "file", ["model.h5", pytest.param("model", marks=pytest.mark.slow)]
)
def test_saved_model_loads_with_masks_and_goes_on(trained, file, rng, tmp_path):
    inputs, labels = zoo.data(rng)
    trained.save(tmp_path / file)
    loaded = keras.models.load_model(tmp_path / file)
    np.testing.assert_allclose(loaded(inputs), trained(inputs), atol=1e-6)
    assert str(sos.sparsity_report(loaded)) == str(sos.sparsity_report(trained))
    before = sos.sparsity_report(loaded).sparsity
    assert before < 0.69
    loaded.fit(inputs, labels, batch_size=8, verbose=0, callbacks=sos.callbacks(loaded))
    assert sos.sparsity_report(loaded).sparsity == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize("file", ["weights.h5", "weights"])
def test_weights_restore_masks_and_steps(trained, file, rng, tmp_path):
    trained.save_weights(tmp_path / file)
    other = sos.sparsify(zoo.sequential(), sos.MagnitudePruning(0.7, 1, 6, 1))
    other.load_weights(tmp_path / file)
    for name, mask in sos.weight_masks(other).items():
        np.testing.assert_array_equal(mask, sos.weight_masks(trained)[name])
    assert [int(s.layer.pruning_step) for s in sites(other)] == [4, 4]


def test_configuration_of_the_wrapper_round_trip(trained):
    wrapper = next(
        layer for layer in trained.layers if isinstance(layer, PruneLowMagnitude)
    )
    copy = type(wrapper).from_config(wrapper.get_config())
    assert copy.technique == wrapper.technique
    assert (copy.name, copy.index) == (wrapper.name, wrapper.index)
    assert copy.layer.get_config() == wrapper.layer.get_config()


def test_custom_training_loop(rng):
    inputs, labels = map(tf.constant, zoo.data(rng))
    sparse = zoo.compiled(sos.sparsify(zoo.sequential(), PRUNE_NOW))
    for callback in sos.callbacks(sparse):
        callback.set_model(sparse)
        callback.on_train_begin()

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = sparse.compiled_loss(labels, sparse(inputs, training=True))
        variables = sparse.trainable_variables
        sparse.optimizer.apply_gradients(
            zip(tape.gradient(loss, variables), variables, strict=True)
        )

    for _ in range(3):
        step()
    for layer in sos.sparsity_report(sparse).layers:
        assert layer.zeros == round(0.7 * layer.size)
