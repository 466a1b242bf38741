"""Together with TensorFlow Model Optimization: what its users have keeps working."""

import numpy as np
import pytest
import tensorflow_model_optimization as tfmot

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import PruneLowMagnitude, keras
from tests.flavour import compiled
from tests.shared import zoo

tfmot_keras = tfmot.sparsity.keras
PRUNE_NOW = sos.MagnitudePruning(0.7, begin_step=1, end_step=1, frequency=1)


@pytest.fixture
def pruned_by_tf_mot(rng):
    model = tfmot_keras.prune_low_magnitude(
        zoo.perceptron(), tfmot_keras.ConstantSparsity(0.5, 0, frequency=1)
    )
    compiled(model)
    model.fit(*zoo.data(rng), verbose=0, callbacks=[tfmot_keras.UpdatePruningStep()])
    return model


def test_model_pruned_by_tf_mot_is_counted_but_not_its_training(pruned_by_tf_mot):
    flops = sos.count_flops(pruned_by_tf_mot)
    assert flops.dense == 2 * (6 * 8 + 8 * 3)
    assert flops.sparse == flops.dense / 2
    with pytest.raises(ValueError, match=r"'hidden' was not made sparse by sos"):
        sos.count_training_flops(pruned_by_tf_mot, 5)


def test_model_pruned_by_tf_mot_is_reported(pruned_by_tf_mot):
    report = sos.sparsity_report(pruned_by_tf_mot)
    assert [layer.name for layer in report.layers] == ["hidden/kernel", "logits/kernel"]
    assert [layer.zeros for layer in report.layers] == [24, 12]
    assert {layer.technique for layer in report.layers} == {"prune_low_magnitude"}
    assert report.parameters == zoo.perceptron().count_params()


def test_model_pruned_by_tf_mot_is_stripped_and_exported(
    pruned_by_tf_mot, rng, tmp_path
):
    inputs, _ = zoo.data(rng)
    stripped = sos.strip(pruned_by_tf_mot)
    assert not any(isinstance(layer, PruneLowMagnitude) for layer in stripped.layers)
    np.testing.assert_allclose(stripped(inputs), pruned_by_tf_mot(inputs), atol=1e-6)
    masks = sos.weight_masks(pruned_by_tf_mot)
    for name, mask in sos.weight_masks(stripped).items():
        np.testing.assert_array_equal(mask, masks[name])
    sos.export_saved_model(pruned_by_tf_mot, tmp_path / "export")
    assert (tmp_path / "export" / "saved_model.pb").is_file()


def test_callbacks_and_strip_of_tf_mot_work_with_our_wrapper(rng, tmp_path):
    inputs, targets = zoo.data(rng)
    sparse = compiled(sos.sparsify(zoo.sequential(), PRUNE_NOW))
    sparse.fit(
        inputs,
        targets,
        verbose=0,
        callbacks=[
            tfmot_keras.UpdatePruningStep(),
            tfmot_keras.PruningSummaries(str(tmp_path)),
        ],
    )
    assert all(
        layer.zeros == round(0.7 * layer.size)
        for layer in sos.sparsity_report(sparse).layers
    )
    assert isinstance(sparse.layers[0], PruneLowMagnitude)
    stripped = tfmot_keras.strip_pruning(sparse)
    assert type(stripped.layers[0]) is keras.layers.Dense
    np.testing.assert_allclose(stripped(inputs), sparse(inputs), atol=1e-6)


def fit(technique, rng, model=None):
    sparse = sos.sparsify(model or zoo.perceptron(), technique)
    compiled(sparse, run_eagerly=False)
    inputs, targets = zoo.data(rng, 32)
    sparse.fit(inputs, targets, 4, verbose=0, callbacks=sos.callbacks(sparse))
    return sparse


def test_custom_layer_names_its_own_weights(rng):
    class Scaled(keras.layers.Layer):
        def build(self, input_shape):
            self.table = self.add_weight("table", (input_shape[-1], 3))
            self.scale = self.add_weight("scale", (3,), initializer="ones")

        def call(self, inputs):
            # Decided in the graph: AutoGraph has to see the call of a wrapped layer.
            if tf_sum(inputs) > 1e9:
                inputs = -inputs
            return inputs @ self.table * self.scale

        def get_prunable_weights(self):
            return [self.table]

    model = keras.Sequential([Scaled(input_shape=(zoo.FEATURES,), name="scaled")])
    masks = sos.weight_masks(fit(PRUNE_NOW, rng, model))
    assert masks.keys() == {"scaled/table"}
    assert (~masks["scaled/table"]).sum() == 13


def test_custom_layer_names_weights_of_its_parts(rng):
    class Parts(keras.layers.Layer):
        def __init__(self):
            super().__init__(name="parts")
            self.inner = keras.layers.Dense(4)
            self.tables = [self.add_weight(f"table{n}", (4, n)) for n in (4, 3)]

        def call(self, inputs):
            return self.inner(inputs) @ self.tables[0] @ self.tables[1]

        def get_prunable_weights(self):
            return [self.inner.kernel, self.tables[1]]

    model = keras.Sequential([Parts()])
    model.build((None, zoo.FEATURES))
    masks = sos.weight_masks(fit(PRUNE_NOW, rng, model))
    assert masks.keys() == {"parts/inner.kernel", "parts/tables.1"}
    assert [(~mask).sum() for mask in masks.values()] == [17, 8]


def tf_sum(tensor):
    return keras.backend.sum(tensor)
