"""What files of sparse models hold, and how they are read."""

import io
import math
import zipfile

import h5py
import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras
from tests.flavour import sites
from tests.shared import zoo
from tests.tf_keras.test_containers import CONTAINERS

PRUNING = sos.MagnitudePruning(0.5, 0, 2, 1)
LEARNED = sos.VariationalDropout(1e-3)


def datasets(file):
    """The arrays in an HDF5 file, by path."""
    found = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    file.visititems(visit)
    return found


@pytest.mark.parametrize(
    ("kind", "technique", "suffix"),
    [
        ("attention", PRUNING, ".keras"),
        ("two_directions", LEARNED, ".weights.h5"),
        ("appends", PRUNING, ".weights.h5"),
        ("subclassed", LEARNED, ".keras"),
    ],
)
def test_each_weight_is_stored_once_and_a_bit_of_each_mask(
    kind, technique, suffix, tmp_path
):
    sparse = sos.sparsify(CONTAINERS[kind](), technique)
    path = tmp_path / f"model{suffix}"
    if suffix == ".keras":
        sparse.save(path)
        path = io.BytesIO(zipfile.ZipFile(path).read("model.weights.h5"))
    else:
        sparse.save_weights(path)
    with h5py.File(path) as file:
        stored = datasets(file)
    masks = [
        mask.shape
        for site in sites(sparse)
        for _, mask, _ in getattr(site.layer, "pruning_vars", [])
    ]
    bits = sum(math.ceil(math.prod(shape) / 8) for shape in masks)
    plain = sum(math.prod(v.shape) * v.dtype.size for v in sparse.weights)
    plain -= sum(4 * math.prod(shape) for shape in masks)
    assert sum(values.nbytes for values in stored.values()) == plain + bits


def saved_weights(model, path):
    model.save_weights(path)
    return path


def test_masks_of_another_model_are_an_error(tmp_path):
    def model(units):
        layer = keras.layers.Dense(units, input_shape=(5,), name="only")
        return sos.sparsify(keras.Sequential([layer]), PRUNING)

    path = saved_weights(model(3), tmp_path / "model.weights.h5")
    with pytest.raises(ValueError, match=r"'only' is of shape \(5, 7\).*of 2 bytes"):
        model(7).load_weights(path)


def test_more_masks_than_a_layer_has_are_an_error(tmp_path):
    def model(cls):
        layer = cls(3, input_shape=(4, 5), name="only")
        return sos.sparsify(keras.Sequential([layer]), PRUNING)

    path = saved_weights(model(keras.layers.LSTM), tmp_path / "model.weights.h5")
    with pytest.raises(ValueError, match="a layer with 2 masks, not 1"):
        model(keras.layers.Dense).load_weights(path)


def test_masks_of_layers_in_half_precision_are_restored(rng, tmp_path):
    keras.mixed_precision.set_global_policy("mixed_float16")
    sparse = sos.sparsify(zoo.sequential(), PRUNING)
    for site in sites(sparse):
        for _, mask, threshold in site.layer.pruning_vars:
            mask.assign((rng.random(mask.shape) < 0.5).astype("float32"))
            threshold.assign(0.25)
    sparse.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for one, other in zip(loaded.weights, sparse.weights, strict=True):
        np.testing.assert_array_equal(one, other)
