"""One threshold over all layers, as far as only tf_keras has it."""

import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras
from tests.flavour import compiled, fit
from tests.shared import zoo


def test_a_loaded_model_without_the_callbacks_is_an_error(rng, tmp_path):
    inputs, targets = zoo.data(rng)
    technique = sos.MagnitudePruning(0.7, 1, 6, 1)
    sparse = compiled(sos.sparsify(zoo.sequential(), technique, budget=sos.Global()))
    sparse.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    with pytest.raises(Exception, match="If the model was loaded and has one thresh"):
        loaded.fit(inputs, targets, verbose=0)
    fit(compiled(loaded), inputs, targets)
