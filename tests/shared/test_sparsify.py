"""`sparsify`, training and `strip` on every kind of model."""

import dataclasses

import numpy as np
import pytest

from tests.flavour import (
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

TECHNIQUES = {
    "magnitude": sos.MagnitudePruning(0.6, begin_step=1, end_step=2, frequency=1),
    "random": sos.RandomPruning(0.6, begin_step=1, end_step=2, frequency=1),
    "variational": sos.VariationalDropout(1e-3),
    "l0": sos.L0Regularization(1e-3),
}
PRUNING = ("magnitude", "random")
EPOCHS = 2


@dataclasses.dataclass
class Trained:
    """A model, how it was before, its sparse copy after training, the inputs."""

    kind: str
    technique: str
    model: keras.Model
    before: np.ndarray
    untrained: np.ndarray
    sparse: keras.Model
    inputs: np.ndarray


# Each is trained once for all tests of this file.
@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            (kind, technique),
            id=f"{kind}-{technique}",
            marks=[pytest.mark.feature(f"{kind} models"), *marks],
        )
        for kind, technique, *marks in (
            ("sequential", "random"),
            ("functional", "l0"),
            ("subclassed", "magnitude"),
            ("subclassed", "variational", pytest.mark.any_backend),
        )
    ],
)
def trained(request):
    kind, technique = request.param
    keras.utils.set_random_seed(2)
    inputs, targets = zoo.data(np.random.default_rng(0))
    model = zoo.ALL[kind]()
    before = outputs_of(model, inputs)
    # With a layer that a step uses twice.
    in_graph = {"run_eagerly": False} if kind == "functional" else {}
    sparse = compiled(sos.sparsify(model, TECHNIQUES[technique]), **in_graph)
    untrained = outputs_of(sparse, inputs)
    fit(sparse, inputs, targets, epochs=EPOCHS)
    return Trained(kind, technique, model, before, untrained, sparse, inputs)


def test_the_sparse_copy_starts_from_the_weights_of_the_model(trained):
    # The gates of L0 regularization are not quite open in the beginning, and weights
    # below the initial noise of variational dropout, about 1e-3, are zero.
    tolerance = {"l0": 0.5, "variational": 1e-2}.get(trained.technique, 1e-6)
    difference = np.abs(trained.untrained - trained.before).max()
    assert difference <= tolerance * np.abs(trained.before).max()


def test_training_changes_the_copy_and_not_the_model(trained):
    now = outputs_of(trained.sparse, trained.inputs)
    assert np.abs(now - trained.untrained).max() > 1e-3
    np.testing.assert_array_equal(
        outputs_of(trained.model, trained.inputs), trained.before
    )
    assert {site.technique for site in sites(trained.model)} == {"dense"}


def test_every_sparse_layer_has_counted_every_step_once(trained):
    (steps,) = steps_of(trained.sparse)
    assert steps == EPOCHS * zoo.EXAMPLES // 4


def test_every_tensor_has_exactly_the_zeros_asked_for(trained):
    report = sos.sparsity_report(trained.sparse)
    assert len(report.layers) == {"sequential": 2}.get(
        trained.kind, 10 if trained.kind == "functional" else 9
    )
    if trained.technique in PRUNING:
        for layer in report.layers:
            assert layer.zeros == round(0.6 * layer.size), layer.name


def test_stripped_outputs_are_those_of_the_sparse_model(trained):
    stripped = sos.strip(trained.sparse)
    expected = outputs_of(trained.sparse, trained.inputs)
    np.testing.assert_allclose(
        outputs_of(stripped, trained.inputs),
        expected,
        rtol=0,
        atol=1e-5 * np.abs(expected).max(),
    )


def test_stripping_gives_every_layer_its_class_and_name_back(trained):
    stripped = sos.strip(trained.sparse)

    def described(model):
        return [(type(x), x.name) for x in model._flatten_layers()]

    assert described(stripped) == described(trained.model)
    assert isinstance(trained.sparse, type(trained.model))
    assert trained.sparse.name == trained.model.name
    assert stripped.count_params() == trained.model.count_params()


def test_masks_have_the_same_names_and_values_after_stripping(trained):
    masks = sos.weight_masks(trained.sparse)
    stripped = sos.weight_masks(sos.strip(trained.sparse))
    assert masks.keys() == stripped.keys() == sos.weight_masks(trained.model).keys()
    for name, mask in masks.items():
        assert mask.dtype == bool
        np.testing.assert_array_equal(stripped[name], mask, name)


def test_a_stripped_model_is_a_snapshot(trained):
    stripped = sos.strip(trained.sparse)
    before = outputs_of(stripped, trained.inputs)
    for variable in trained.sparse.trainable_variables[:2]:
        kept = to_numpy(variable).copy()
        variable.assign(kept + 1.0)
        np.testing.assert_array_equal(outputs_of(stripped, trained.inputs), before)
        variable.assign(kept)


def test_a_model_can_be_sparsified_again_once_it_is_stripped(trained):
    again = sos.sparsify(sos.strip(trained.sparse), TECHNIQUES["random"])
    assert len(sparse_layers(again)) == len(sparse_layers(trained.sparse))


@pytest.mark.feature("Masks after the ramp: exact zeros, which stay zero")
def test_masked_weights_stay_zero_under_momentum(rng):
    inputs, targets = zoo.data(rng)
    sparse = sos.sparsify(zoo.perceptron(), TECHNIQUES["magnitude"])
    compiled(sparse, sgd(0.1, momentum=0.9, nesterov=True), run_eagerly=False)
    fit(sparse, inputs, targets)
    masks = sos.weight_masks(sparse)
    fit(sparse, inputs, targets, epochs=3)
    for weight, mask in sos.weight_masks(sparse).items():
        np.testing.assert_array_equal(mask, masks[weight])
        assert (~mask).sum() == round(0.6 * mask.size)
    stripped = sos.strip(sparse)
    for layer in stripped.layers:
        kernel = to_numpy(layer.kernel)
        np.testing.assert_array_equal(kernel != 0, masks[f"{layer.name}/kernel"])


@pytest.mark.feature("a layer used several times in a step")
@pytest.mark.parametrize("name", ["magnitude", "variational"])
def test_a_layer_used_three_times_counts_each_step_once(name, rng):
    shared = keras.layers.Dense(zoo.FEATURES, name="shared")
    x = keras.Input((zoo.FEATURES,))
    model = keras.Model(x, keras.layers.Dense(3)(shared(shared(shared(x)))))
    sparse = compiled(sos.sparsify(model, TECHNIQUES[name]), run_eagerly=False)
    fit(sparse, *zoo.data(rng), epochs=3)
    assert steps_of(sparse) == {6}
    assert len(sos.sparsity_report(sparse).layers) == 2


@pytest.mark.feature("a layer that two models share")
@pytest.mark.any_backend
def test_models_that_share_a_layer_share_the_sparse_one(rng):
    shared = keras.layers.Dense(4, name="shared")
    first, second = (
        keras.Sequential([keras.Input((zoo.FEATURES,)), shared], name=name)
        for name in ("first", "second")
    )
    x = keras.Input((zoo.FEATURES,))
    both = keras.Model(x, keras.layers.Dense(3, name="head")(first(x) + second(x)))
    sparse = compiled(sos.sparsify(both, TECHNIQUES["magnitude"]), run_eagerly=False)
    inputs, targets = zoo.data(rng)
    fit(sparse, inputs, targets, epochs=2)
    one, other = (sparse.get_layer(n).layers[-1] for n in ("first", "second"))
    assert one is other
    assert steps_of(sparse) == {4}
    expected = outputs_of(sparse, inputs)
    np.testing.assert_allclose(
        outputs_of(sos.strip(sparse), inputs), expected, atol=1e-6
    )


@pytest.mark.feature("models and layers that hold layers in attributes, lists, dicts")
@pytest.mark.any_backend
def test_no_layer_is_left_out_wherever_a_model_holds_it():
    @register
    class Holder(keras.Model):
        def __init__(self):
            super().__init__()
            self.stages = [[keras.layers.Dense(4, name="in_list")]]
            self.heads = {"a": [keras.layers.Dense(4, name="in_dict")]}
            self.pair = (keras.layers.Dense(4, name="in_tuple"), None)
            self.own = zoo.Block(name="block")

        def call(self, inputs):
            x = self.pair[0](self.heads["a"][0](self.stages[0][0](inputs)))
            return self.own(x)

    model = Holder()
    inputs = np.ones((2, zoo.FEATURES), "float32")
    model(inputs)
    sparse = sos.sparsify(model, TECHNIQUES["magnitude"])
    expected = {
        "in_list",
        "in_dict",
        "in_tuple",
        "block/first",
        "block/second",
        "block/third",
        "block/attention/query",
        "block/attention/key",
        "block/attention/value",
        "block/attention/attention_output",
    }
    assert {site.path for site in sites(sparse) if site.is_sparse} == expected
    # What the model calls is what became sparse.
    assert sparse.stages[0][0] in sparse_layers(sparse)
    assert sparse.heads["a"][0] in sparse_layers(sparse)
    assert sparse.own.named["third"] in sparse_layers(sparse)
    assert model.stages[0][0] not in sparse_layers(sparse)


@register
class Scaled(keras.layers.Layer):
    """A custom layer with weights of its own, which names one of them."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        self.matrix = self.add_weight(
            name="matrix",
            shape=(input_shape[-1], self.units),
            initializer="glorot_uniform",
        )
        self.scale = self.add_weight(
            name="scale", shape=(self.units,), initializer="ones"
        )
        self.built = True

    def call(self, inputs):
        return keras.activations.relu(inputs @ self.matrix * self.scale)

    def get_prunable_weights(self):
        return [self.matrix]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@pytest.mark.feature("custom layers that name their weights")
@pytest.mark.any_backend
def test_a_custom_layer_names_the_weights_to_make_sparse(rng):
    inputs, targets = zoo.data(rng)
    x = keras.Input((zoo.FEATURES,))
    model = keras.Model(x, Scaled(3, name="scaled")(x))
    sparse = compiled(sos.sparsify(model, TECHNIQUES["magnitude"]))
    fit(sparse, inputs, targets, epochs=2)
    (layer,) = sos.sparsity_report(sparse).layers
    assert (layer.name, layer.zeros) == ("scaled/matrix", round(0.6 * 18))
    stripped = sos.strip(sparse)
    assert type(stripped.get_layer("scaled")) is Scaled
    np.testing.assert_allclose(
        outputs_of(stripped, inputs), outputs_of(sparse, inputs), atol=1e-6
    )


@pytest.mark.feature("custom layers that name their weights")
def test_matrices_that_a_custom_layer_does_not_name_are_named_in_a_warning():
    @register
    class Unnamed(keras.layers.Layer):
        build = Scaled.build
        call = Scaled.call

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.units = 3

    x = keras.Input((zoo.FEATURES,))
    outputs = keras.layers.Dense(2)(Unnamed(name="unnamed")(x))
    with pytest.warns(UserWarning, match=r"stay dense: .*unnamed/matrix"):
        sos.sparsify(keras.Model(x, outputs), TECHNIQUES["magnitude"])


@pytest.mark.feature("regularizers and constraints are kept")
@pytest.mark.any_backend
def test_a_regularizer_sees_the_pruned_weight_and_counts_once(rng):
    inputs, targets = zoo.data(rng)
    sparse = compiled(sos.sparsify(zoo.sequential(), TECHNIQUES["magnitude"]))
    fit(sparse, inputs, targets, epochs=2)
    stripped = sos.strip(sparse)
    kernel = to_numpy(stripped.get_layer("b").kernel).astype("float64")
    for model in (sparse, stripped):
        assert len(model.losses) == 1
        np.testing.assert_allclose(
            to_numpy(model.losses[0]), 0.01 * np.sum(kernel**2), rtol=1e-5
        )


@pytest.mark.any_backend
@pytest.mark.feature("regularizers and constraints are kept")
@pytest.mark.parametrize("name", ["magnitude", "l0"])
def test_constraints_hold_in_the_sparse_and_the_stripped_model(name, rng):
    inputs, targets = zoo.data(rng)
    constraint = keras.constraints.MaxNorm(0.3, axis=0)
    model = zoo.perceptron(kernel_constraint=constraint)
    sparse = compiled(sos.sparsify(model, TECHNIQUES[name]), sgd(0.5))
    fit(sparse, inputs, targets, epochs=2)
    stripped = sos.strip(sparse)
    for layer in stripped.layers:
        norms = np.linalg.norm(to_numpy(layer.kernel), axis=0)
        # Gates of L0 regularization lie in [0, 1].
        assert norms.max() <= 0.3 + 1e-5
        assert layer.kernel_constraint is not None
    compiled(stripped, sgd(5.0))
    stripped.fit(inputs, targets, verbose=0)
    for layer in stripped.layers:
        assert np.linalg.norm(to_numpy(layer.kernel), axis=0).max() <= 0.3 + 1e-5


@pytest.mark.feature("what is not made sparse is not changed")
def test_layers_that_stay_dense_keep_class_and_behaviour():
    model = zoo.sequential()
    sparse = sos.sparsify(model, TECHNIQUES["magnitude"], overrides={"b": None})
    assert type(sparse.get_layer("b")) is keras.layers.Dense
    assert type(sparse.get_layer("dropout")) is keras.layers.Dropout
    assert type(sparse) is keras.Sequential
    drop = sparse.get_layer("dropout")
    ones = np.ones((50, 40), "float32")
    np.testing.assert_array_equal(outputs_of(drop, ones), ones)
    dropped = outputs_of(drop, ones, training=True)
    # 2,000 draws of probability 0.1: six deviations are 0.04.
    assert abs((dropped == 0).mean() - 0.1) < 0.04


@pytest.mark.feature("what is not made sparse is not changed")
def test_a_sparse_copy_is_not_compiled_and_the_model_still_is():
    model = compiled(zoo.perceptron())
    sparse = sos.sparsify(model, TECHNIQUES["magnitude"])
    for copy in (sparse, sos.strip(sparse)):
        assert getattr(copy, "optimizer", None) is None
    assert model.optimizer is not None
