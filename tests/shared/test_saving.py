"""Sparse models are saved, loaded and copied, and train on as if nothing had been."""

import copy
import functools

import numpy as np
import pytest

from tests.flavour import (
    IS_KERAS3,
    compiled,
    fit,
    keras,
    outputs_of,
    register,
    sgd,
    sites,
    sos,
    sparse_layers,
    steps_of,
    to_numpy,
)
from tests.shared import zoo

clone_model = keras.models.clone_model
TECHNIQUES = {
    "magnitude": sos.MagnitudePruning(0.6, begin_step=1, end_step=4, frequency=1),
    "random": sos.RandomPruning(0.6, begin_step=1, end_step=4, frequency=1),
    "variational": sos.VariationalDropout(1e-3, ramp_begin=1, ramp_length=5),
    "l0": sos.L0Regularization(1e-3, ramp_begin=1, ramp_length=5),
}


@pytest.fixture
def data():
    return zoo.data(np.random.default_rng(2))


def fresh(name, make=zoo.perceptron, seed=5, **arguments):
    """Another seed gives other weights and other noise."""
    keras.utils.set_random_seed(seed)
    optimizer = arguments.pop("optimizer", None) or sgd(0.05, momentum=0.9)
    return compiled(sos.sparsify(make(), TECHNIQUES[name]), optimizer, **arguments)


@functools.cache
def uninterrupted(name, momentum=0.9):
    """The state of a model after four epochs without a break."""
    model = fresh(name, optimizer=sgd(0.05, momentum=momentum))
    fit(model, *zoo.data(np.random.default_rng(2)), epochs=4)
    return state(model)


def state(model):
    return [to_numpy(variable).copy() for variable in model.variables]


def assert_same_state(model, expected):
    for variable, value, other in zip(
        model.variables, state(model), expected, strict=True
    ):
        np.testing.assert_array_equal(value, other, variable.name)


@pytest.mark.feature(".keras files, and exact training on from them")
@pytest.mark.parametrize(
    "name",
    [
        "magnitude",
        pytest.param("variational", marks=pytest.mark.slow),
        pytest.param("l0", marks=pytest.mark.slow),
    ],
)
def test_a_saved_and_loaded_model_trains_on_to_the_bit(name, data, tmp_path):
    model = fresh(name)
    fit(model, *data, epochs=2)
    model.save(tmp_path / "model.keras")
    keras.utils.set_random_seed(99)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same_state(loaded, state(model))
    fit(loaded, *data, epochs=2)
    assert steps_of(loaded) == {8}
    assert_same_state(loaded, uninterrupted(name))


@pytest.mark.feature(".keras files, and exact training on from them")
@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("kind", "name"), [("functional", "l0"), ("subclassed", "magnitude")]
)
def test_models_of_every_kind_are_saved_and_loaded(kind, name, data, tmp_path):
    sparse = fresh(name, zoo.ALL[kind])
    fit(sparse, *data)
    sparse.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        outputs_of(loaded, data[0]), outputs_of(sparse, data[0]), atol=1e-6
    )
    assert [(s.path, s.technique) for s in sites(loaded)] == [
        (s.path, s.technique) for s in sites(sparse)
    ]
    assert isinstance(loaded, type(zoo.ALL[kind]()))
    if IS_KERAS3 or name == "magnitude":
        # Random numbers depend on it.
        indices = [[x.index for x in sparse_layers(m)] for m in (loaded, sparse)]
        assert indices[0] == indices[1]
    masks = sos.weight_masks(sparse)
    for weight, mask in sos.weight_masks(loaded).items():
        np.testing.assert_array_equal(mask, masks[weight])
    fit(loaded, *data)
    assert steps_of(loaded) == {2 * steps for steps in steps_of(sparse)}
    stripped = sos.strip(loaded)
    np.testing.assert_allclose(
        outputs_of(stripped, data[0]), outputs_of(loaded, data[0]), atol=1e-5
    )


@pytest.mark.feature(".keras files, and exact training on from them")
@pytest.mark.any_backend
def test_a_stripped_model_is_saved_and_loaded_as_any(data, tmp_path):
    sparse = fresh("magnitude", zoo.subclassed)
    stripped = sos.strip(sparse)
    stripped.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        outputs_of(loaded, data[0]), outputs_of(stripped, data[0])
    )
    expected = sos.sparsity_report(sparse).sparsity
    assert sos.sparsity_report(loaded).sparsity == expected


@pytest.mark.feature(".keras files, and exact training on from them")
@pytest.mark.any_backend
def test_techniques_by_layer_are_restored(data, tmp_path):
    overrides = {"hidden": sos.L0Regularization(0.25, gamma=-0.2), "logits": 0.3}
    sparse = sos.sparsify(zoo.perceptron(), TECHNIQUES["random"], overrides)
    sparse.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for one, other in zip(sparse_layers(sparse), sparse_layers(loaded), strict=True):
        assert one.technique == other.technique
    assert sparse_layers(loaded)[0].technique == overrides["hidden"]


@pytest.mark.slow
@pytest.mark.feature(".weights.h5 files, and exact training on from them")
@pytest.mark.parametrize("name", ["random", "l0"])
def test_weights_in_a_newly_sparsified_model_train_on_to_the_bit(name, data, tmp_path):
    # Momentum is of the optimizer, which a file of weights may lack.
    model = fresh(name, optimizer=sgd(0.05))
    fit(model, *data, epochs=2)
    model.save_weights(tmp_path / "model.weights.h5")
    other = fresh(name, optimizer=sgd(0.05), seed=99)
    other.load_weights(tmp_path / "model.weights.h5")
    fit(other, *data, epochs=2)
    assert_same_state(other, uninterrupted(name, momentum=0.0))


@pytest.mark.feature(".weights.h5 files, and exact training on from them")
@pytest.mark.any_backend
def test_weights_of_a_subclassed_model_are_saved_and_loaded(data, tmp_path):
    sparse = fresh("magnitude", zoo.subclassed)
    fit(sparse, *data)
    sparse.save_weights(tmp_path / "model.weights.h5")
    other = fresh("magnitude", zoo.subclassed, seed=99)
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_allclose(
        outputs_of(other, data[0]), outputs_of(sparse, data[0]), atol=1e-6
    )


class InterruptedFitError(Exception):
    pass


class Interrupt(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise InterruptedFitError


@pytest.mark.feature("BackupAndRestore")
@pytest.mark.parametrize("name", ["magnitude", "variational"])
def test_an_interrupted_fit_goes_on_to_the_bit(name, data, tmp_path):
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(InterruptedFitError):
        fit(fresh(name), *data, epochs=4, callbacks=[backup, Interrupt()])
    again = fresh(name, seed=99)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    losses = fit(again, *data, epochs=4, callbacks=[backup])
    assert len(losses) == 2
    assert_same_state(again, uninterrupted(name))


@pytest.mark.feature("ModelCheckpoint")
@pytest.mark.any_backend
def test_checkpoints_of_the_best_epoch_are_written(data, tmp_path):
    sparse = fresh("magnitude")
    path = tmp_path / "best.keras"
    checkpoint = keras.callbacks.ModelCheckpoint(
        str(path), monitor="loss", save_best_only=True
    )
    fit(sparse, *data, epochs=2, callbacks=[checkpoint])
    loaded = keras.models.load_model(path)
    assert steps_of(loaded) <= {2, 4}
    assert len(sparse_layers(loaded)) == 2


CLONED, COPIED = map(pytest.mark.feature, ("clone_model", "copy.deepcopy"))


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("copied", "kind", "name"),
    [
        pytest.param(clone_model, "sequential", "variational", marks=CLONED),
        pytest.param(
            clone_model, "functional", "magnitude", marks=[CLONED, pytest.mark.slow]
        ),
        pytest.param(copy.deepcopy, "sequential", "variational", marks=COPIED),
        pytest.param(copy.deepcopy, "subclassed", "magnitude", marks=COPIED),
    ],
)
def test_a_copy_is_sparse_and_has_weights_of_its_own(copied, kind, name, data):
    sparse = fresh(name, zoo.ALL[kind])
    fit(sparse, *data)
    before = outputs_of(sparse, data[0])
    duplicate = copied(sparse)
    assert len(sparse_layers(duplicate)) == len(sparse_layers(sparse))
    if copied is clone_model:
        duplicate.set_weights(sparse.get_weights())
    np.testing.assert_allclose(outputs_of(duplicate, data[0]), before, atol=1e-6)
    fit(compiled(duplicate), *data)
    assert steps_of(duplicate) == {2 * steps for steps in steps_of(sparse)}
    np.testing.assert_array_equal(outputs_of(sparse, data[0]), before)


@pytest.mark.feature("load_model after a custom class is given (custom_objects)")
@pytest.mark.any_backend
def test_unregistered_classes_come_from_custom_objects(data, tmp_path):
    class Own(zoo.Block):
        pass

    x = keras.Input((zoo.FEATURES,))
    model = keras.Model(x, Own(name="own")(x))
    sparse = sos.sparsify(model, TECHNIQUES["l0"])
    # Keras 3 writes no custom layers into HDF5.
    for path in (tmp_path / "model.keras", *[tmp_path / "model.h5"] * (not IS_KERAS3)):
        sparse.save(path)
        loaded = keras.models.load_model(path, custom_objects={"Own": Own})
        assert isinstance(loaded.get_layer("own"), Own)
        np.testing.assert_allclose(
            outputs_of(loaded, data[0]), outputs_of(sparse, data[0]), atol=1e-6
        )
        with pytest.raises((TypeError, ValueError), match="'Own'"):
            keras.models.load_model(path)


@register
class Late(keras.layers.Layer):
    """Makes its layer in its first call, after it has been built."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.parts = []

    def build(self, input_shape):
        self.built = True

    def call(self, inputs):
        if not self.parts:
            self.parts.append(keras.layers.Dense(2, name="late_part"))
        return self.parts[0](inputs)


@pytest.mark.feature("what cannot be loaded sparse is an error, and never dense")
def test_a_layer_that_is_made_too_late_to_be_restored_is_an_error(tmp_path):
    late, inputs = Late(name="late"), np.ones((1, zoo.FEATURES), "float32")
    if IS_KERAS3:
        # Keras itself refuses such layers.
        with pytest.raises(ValueError, match="layer that is already built"):
            late(inputs)
        return
    late(inputs)
    x = keras.Input((zoo.FEATURES,))
    sparse = sos.sparsify(keras.Model(x, late(x)), TECHNIQUES["l0"])
    sparse.save(tmp_path / "model.keras")
    with pytest.raises(Exception, match=r"'late' was saved with sparse\s+layers at"):
        keras.models.load_model(tmp_path / "model.keras")
