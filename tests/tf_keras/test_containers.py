"""Models whose sparse layers are inside of other layers are saved and loaded."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras, tf
from state_of_sparsity.layers import tf_keras as layers
from tests.flavour import compiled, fit, sites, steps_of
from tests.shared import zoo

TECHNIQUES = [
    sos.MagnitudePruning(0.5, 0, 2, 1),
    sos.VariationalDropout(1e-3),
    sos.L0Regularization(1e-3),
]
FORMATS = [".keras", ".h5"]
STEPS, FEATURES = 4, 5


@keras.utils.register_keras_serializable("tests")
class Lists(keras.layers.Layer):
    """Makes its layers in `build`, in a list and in a dictionary."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        self.parts = [keras.layers.Dense(self.units), keras.layers.ReLU()]
        self.last = {"dense": keras.layers.Dense(self.units)}
        super().build(input_shape)

    def call(self, inputs):
        for part in self.parts:
            inputs = part(inputs)
        return self.last["dense"](inputs)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.utils.register_keras_serializable("tests")
class Appends(keras.layers.Layer):
    """Appends to lists in `build`, holds a layer twice, and has no `get_config`."""

    def __init__(self, scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale
        self.parts = []
        # A name that models have for something else.
        self.outputs = keras.layers.Dense(3)

    def build(self, input_shape):
        units = input_shape[-1]
        # HDF5 files need names that differ.
        for name in ("first", "second"):
            self.parts.append(keras.layers.Dense(units, name=name))
        twice = keras.layers.Dense(units, name="twice")
        self.one = twice
        self.more = {"a/b": twice, "a": keras.layers.Dense(units, name="last")}
        super().build(input_shape)

    def call(self, inputs):
        for part in [*self.parts, self.one, *self.more.values(), self.outputs]:
            inputs = self.scale * part(inputs)
        return inputs


@keras.utils.register_keras_serializable("tests")
class Around(keras.layers.Layer):
    """Holds a layer that it is given."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner
        self.own = keras.layers.Dense(3)

    def call(self, inputs):
        return self.own(self.inner(inputs))

    def get_config(self):
        inner = keras.layers.serialize(self.inner)
        return {**super().get_config(), "inner": inner}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        return cls(keras.layers.deserialize(config.pop("inner")), **config)


def functional(layer, times=1):
    inputs = keras.Input((STEPS, FEATURES))
    return keras.Model(inputs, layer(*[inputs] * times))


CONTAINERS = {
    "attention": lambda: functional(keras.layers.MultiHeadAttention(2, 3), times=2),
    "two_directions": lambda: functional(
        keras.layers.Bidirectional(
            keras.layers.LSTM(3),
            backward_layer=keras.layers.LSTM(3, go_backwards=True),
        )
    ),
    "custom_in_time_distributed": lambda: functional(
        keras.layers.TimeDistributed(Lists(3))
    ),
    "appends": lambda: functional(Appends(0.5)),
    "functional": zoo.functional,
    "subclassed": zoo.subclassed,
}


# Containers know of no technique, and a SavedModel takes most of a minute.
COMBINATIONS = [
    ("attention", TECHNIQUES[0], FORMATS),
    ("appends", TECHNIQUES[1], FORMATS),
    *(
        pytest.param(
            kind,
            TECHNIQUES[number % 3],
            [""] if kind in ("attention", "appends") else [*FORMATS, ""],
            marks=pytest.mark.slow,
        )
        for number, kind in enumerate(CONTAINERS)
    ),
]


@pytest.fixture
def inputs(rng):
    return rng.normal(size=(6, STEPS, FEATURES)).astype("float32")


def inputs_of(kind, rng):
    shape = (zoo.FEATURES,) if kind in zoo.ALL else (STEPS, FEATURES)
    return rng.normal(size=(6, *shape)).astype("float32")


def trained(model, technique, inputs):
    """A sparse copy with weights unlike its initial ones."""
    sparse = compiled(sos.sparsify(model, technique))
    fit(sparse, inputs, np.zeros(sparse(inputs).shape))
    if not isinstance(technique, sos.MagnitudePruning):
        for site in sites(sparse):
            for weight in site.layer.held.values():
                (extra,) = weight.state.values()
                extra.assign(tf.random.normal(extra.shape, 0.0, 5.0, seed=1))
    return sparse


@pytest.mark.parametrize(("kind", "technique", "formats"), COMBINATIONS)
def test_a_model_with_a_container_is_saved_and_loaded(
    kind, technique, formats, rng, tmp_path
):
    inputs = inputs_of(kind, rng)
    sparse = trained(CONTAINERS[kind](), technique, inputs)
    expected = sos.sparsity_report(sparse)
    assert 0.1 < expected.sparsity < 0.9
    for file_format in formats:
        if kind == "subclassed" and file_format == ".h5":
            continue  # Keras does not write these.
        path = tmp_path / f"model{file_format}"
        sparse.save(path)
        loaded = keras.models.load_model(path)
        np.testing.assert_allclose(loaded(inputs), sparse(inputs), atol=1e-6)
        assert [s.technique for s in sites(loaded)] == [
            s.technique for s in sites(sparse)
        ]
        report = sos.sparsity_report(loaded)
        assert [layer.zeros for layer in report.layers] == [
            layer.zeros for layer in expected.layers
        ]
        compiled(loaded)
        targets = np.zeros(loaded(inputs).shape)
        loss = loaded.evaluate(inputs, targets, verbose=0)
        assert loss == pytest.approx(sparse.evaluate(inputs, targets, verbose=0))
        # It goes on training, and counting the steps.
        fit(loaded, inputs, targets)
        assert steps_of(loaded) == {2 * steps for steps in steps_of(sparse)}


def test_strip_gives_containers_their_own_classes_back(rng):
    for kind in ("two_directions", "custom_in_time_distributed", "subclassed"):
        model, inputs = CONTAINERS[kind](), inputs_of(kind, rng)
        sparse = sos.sparsify(model, TECHNIQUES[1])
        stripped = sos.strip(sparse)
        assert classes(stripped) == classes(model), kind
        np.testing.assert_allclose(stripped(inputs), sparse(inputs), atol=1e-6)


def classes(model):
    return [type(layer) for layer in model._flatten_layers()]


def test_a_container_of_dense_layers_keeps_its_class():
    model = keras.Sequential(
        [
            keras.Input((STEPS, FEATURES)),
            keras.layers.Bidirectional(keras.layers.GRU(3), name="both"),
            keras.layers.Dense(3),
        ]
    )
    sparse = sos.sparsify(model, TECHNIQUES[1], {"both/.*": None})
    assert type(sparse.layers[0]) is keras.layers.Bidirectional


@pytest.mark.slow
def test_learned_layers_that_one_writes_into_wrappers_are_loaded(inputs, tmp_path):
    model = keras.Sequential(
        [
            keras.Input((STEPS, FEATURES)),
            keras.layers.TimeDistributed(layers.VariationalDense(3, kl_weight=1.0)),
            keras.layers.Bidirectional(layers.L0LSTM(3, l0_weight=1.0)),
        ]
    )
    for file_format in FORMATS:
        path = tmp_path / f"model{file_format}"
        model.save(path)
        loaded = keras.models.load_model(path)
        np.testing.assert_allclose(loaded(inputs), model(inputs), atol=1e-6)
        assert len(sos.sparsity_report(loaded).layers) == 5
    np.testing.assert_allclose(sos.strip(model)(inputs), model(inputs), atol=1e-6)


@pytest.mark.slow
def test_containers_that_share_a_container_are_loaded_from_a_saved_model(
    inputs, tmp_path
):
    shared = Lists(3)
    x = keras.Input((STEPS, FEATURES))
    model = keras.Model(x, Around(shared)(x) + Around(shared)(x))
    sparse = trained(model, TECHNIQUES[1], inputs)
    sparse.save(tmp_path / "model")
    loaded = keras.models.load_model(tmp_path / "model")
    np.testing.assert_allclose(loaded(inputs), sparse(inputs), atol=1e-6)
    assert len(list(sites(loaded))) == len(list(sites(sparse))) == 4


@pytest.mark.slow
def test_a_model_that_was_saved_is_sparsified_and_stripped(inputs, tmp_path):
    model = functional(keras.layers.Bidirectional(keras.layers.GRU(3)))
    # Keras leaves the methods of a layer that is written to a SavedModel among the
    # layer's attributes.
    model.save(tmp_path / "dense")
    sparse = trained(model, TECHNIQUES[1], inputs)
    noisy = [sparse(inputs, training=True).numpy() for _ in range(2)]
    assert np.abs(noisy[0] - noisy[1]).max() > 1e-3
    sparse.save(tmp_path / "sparse")
    np.testing.assert_allclose(sos.strip(sparse)(inputs), sparse(inputs), atol=1e-6)


def test_a_container_is_loaded_under_mixed_precision(rng, tmp_path):
    inputs, _ = zoo.data(rng)
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    sparse = sos.sparsify(zoo.functional(), TECHNIQUES[1])
    sparse.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("block").attention.compute_dtype == "bfloat16"
    np.testing.assert_array_equal(
        tf.cast(loaded(inputs), tf.float32), tf.cast(sparse(inputs), tf.float32)
    )


@pytest.mark.slow
def test_another_process_loads_a_container(inputs, tmp_path):
    sparse = trained(CONTAINERS["attention"](), TECHNIQUES[1], inputs)
    sparse.save(tmp_path / "model.keras")
    np.save(tmp_path / "inputs.npy", inputs)
    np.save(tmp_path / "outputs.npy", sparse(inputs))
    program = """
        import sys, numpy as np, tf_keras as keras
        from state_of_sparsity.layers import tf_keras as layers
        folder = sys.argv[1]
        model = keras.models.load_model(f"{folder}/model.keras")
        inputs, outputs = (np.load(f"{folder}/{n}.npy") for n in ("inputs", "outputs"))
        np.testing.assert_allclose(model([inputs]), outputs, atol=1e-6)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    subprocess.run(command, check=True)
