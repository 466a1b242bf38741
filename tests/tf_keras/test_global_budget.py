"""One threshold over all layers, as far as only tf_keras has it."""

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras
from tests.flavour import sites
from tests.tf_keras import zoo

RAMP = sos.MagnitudePruning(0.7, 1, 6, 1)


def trained(technique, inputs, labels):
    keras.utils.set_random_seed(0)
    model = zoo.sequential()
    sparse = zoo.compiled(
        sos.sparsify(model, technique, budget=sos.Global()), run_eagerly=False
    )
    sparse.fit(
        inputs, labels, batch_size=8, epochs=2, shuffle=False, verbose=0,
        callbacks=sos.callbacks(sparse),
    )  # fmt: skip
    return sparse


@pytest.mark.slow
def test_replicas_have_the_same_masks_as_one_device(mirrored, rng):
    technique, data = sos.RandomPruning(0.7, 1, 3, 1), zoo.data(rng)
    with mirrored.scope():
        distributed = trained(technique, *data)
    for site in sites(distributed):
        for _, mask, _ in site.layer.pruning_vars:
            first, second = mirrored.experimental_local_results(mask)
            np.testing.assert_array_equal(first.numpy(), second.numpy())
        assert site.layer.pruning_step.numpy() == 8
    masks = sos.weight_masks(distributed)
    size = sum(mask.size for mask in masks.values())
    assert size - sum(mask.sum() for mask in masks.values()) == round(0.7 * size)
    assert len({mask.mean() for mask in masks.values()}) > 1
    alone = sos.weight_masks(trained(technique, *data))
    for name, mask in masks.items():
        np.testing.assert_array_equal(mask, alone[name])


def test_a_loaded_model_without_the_callbacks_is_an_error(rng, tmp_path):
    inputs, labels = zoo.data(rng)
    trained(RAMP, inputs, labels).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    with pytest.raises(Exception, match="If the model was loaded and has one thresh"):
        loaded.fit(inputs, labels, verbose=0)
    loaded = zoo.compiled(loaded)
    loaded.fit(inputs, labels, verbose=0, callbacks=sos.callbacks(loaded))
