"""What an earlier version of the library saved is loaded, and goes on as it would have.

The files are in tests/data; `tests/make_earlier_files.py` has written them.
"""

import tarfile

import numpy as np
import pytest

from tests import earlier_files
from tests.flavour import (
    FLAVOUR,
    IS_KERAS3,
    compiled,
    keras,
    outputs_of,
    sgd,
    sos,
    steps_of,
)

ARCHIVES = {
    f"{path.parent.parent.name}-{path.name.partition('.')[0]}": path
    for path in earlier_files.archives()
}
# Backends add in another order than TensorFlow, which has written the files.
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
FEATURE = "files of earlier versions"


def _parameters():
    for name, path in ARCHIVES.items():
        # tf_keras traces the step of each model for seconds.
        slow = not IS_KERAS3 and "magnitude" not in name
        yield pytest.param(path, id=name, marks=[pytest.mark.slow] if slow else [])


@pytest.fixture(params=_parameters())
def earlier(request, tmp_path):
    """The folder with the files, the name of the technique, and what is expected."""
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    name = request.param.name.partition(".")[0]
    with np.load(tmp_path / "expected.npz") as expected:
        return tmp_path, name, dict(expected)


def check(model, expected):
    """That a model is what it was when it was saved."""
    inputs, _ = earlier_files.data()
    np.testing.assert_allclose(outputs_of(model, inputs), expected["outputs"], **CLOSE)
    masks = sos.weight_masks(model)
    assert masks.keys() == expected.keys() - {"outputs", "trained"}
    for name, mask in masks.items():
        np.testing.assert_array_equal(mask, expected[name], name)
    assert steps_of(model) == {earlier_files.STEPS}


def check_goes_on(model, name, expected):
    """That a step leads where it led the model that was saved."""
    inputs, _ = earlier_files.data()
    earlier_files.train(model, 1)
    assert steps_of(model) == {earlier_files.STEPS + 1}
    outputs = outputs_of(model, inputs)
    # The noise of tf_keras is not saved, and that of PyTorch is its own.
    same_noise = FLAVOUR in ("keras-tensorflow", "keras-jax")
    if same_noise or name not in earlier_files.DRAWS_NOISE:
        np.testing.assert_allclose(outputs, expected["trained"], **CLOSE)
    else:
        assert np.isfinite(outputs).all()
        assert not np.allclose(outputs, expected["outputs"], **CLOSE)


def test_there_are_files_of_each_technique():
    assert {path.name.partition(".")[0] for path in ARCHIVES.values()} == {
        *earlier_files.TECHNIQUES
    }
    sizes = [path.stat().st_size for path in earlier_files.FOLDER.rglob("*.xz")]
    assert sum(sizes) < 200_000


@pytest.mark.feature(FEATURE)
def test_a_keras_file_is_loaded_and_trains_on(earlier):
    folder, name, expected = earlier
    model = keras.models.load_model(folder / "model.keras")
    check(model, expected)
    stripped = sos.strip(model)
    inputs, _ = earlier_files.data()
    np.testing.assert_allclose(
        outputs_of(stripped, inputs), expected["outputs"], **CLOSE
    )
    check_goes_on(model, name, expected)


@pytest.mark.feature(FEATURE)
def test_a_file_of_weights_is_loaded(earlier):
    folder, name, expected = earlier
    model = earlier_files.sparse_model(name)
    model.load_weights(folder / "model.weights.h5")
    check(model, expected)


@pytest.mark.skipif(IS_KERAS3, reason="Keras 3 saves no sparse models as .h5")
@pytest.mark.feature(FEATURE)
def test_an_h5_file_is_loaded_and_trains(earlier):
    folder, _, expected = earlier
    # The momentum of such a file is given by position, and lost here.
    model = keras.models.load_model(folder / "model.h5", compile=False)
    check(model, expected)
    compiled(model, sgd(0.05))
    earlier_files.train(model, 1)
    assert steps_of(model) == {earlier_files.STEPS + 1}


@pytest.mark.skipif(IS_KERAS3, reason="Keras 3 has no checkpoints of TensorFlow's")
@pytest.mark.feature(FEATURE)
def test_a_checkpoint_is_restored_and_trains_on(earlier):
    folder, name, expected = earlier
    model = earlier_files.sparse_model(name)
    model.optimizer.build(model.trainable_variables)
    restored = earlier_files.checkpoint(model).read(str(folder / "checkpoint"))
    if any("noise_seed" in variable.name for variable in model.variables):
        # Up to 0.2.0, noise had no seed.
        restored.expect_partial().assert_nontrivial_match()
    else:
        restored.assert_existing_objects_matched().assert_consumed()
    check(model, expected)
    check_goes_on(model, name, expected)
