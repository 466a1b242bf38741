"""Models whose class has something of its own stay what they were."""

import numpy as np
import pytest

from tests.flavour import (
    IS_KERAS3,
    compiled,
    fit,
    keras,
    outputs_of,
    plain_part,
    register,
    sites,
    sos,
    sparse_layers,
    steps_of,
    to_numpy,
)
from tests.shared import zoo

TECHNIQUES = {
    "magnitude": sos.MagnitudePruning(0.5, 1, 2, 1),
    "l0": sos.L0Regularization(0.0),
}
layers = keras.layers

pytestmark = [
    pytest.mark.feature("classes of models are kept, with their methods"),
    pytest.mark.any_backend,
]


class OwnLoss:
    """A loss that moves nothing; a model that lost its class trains with the MSE."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **kwargs):
        return 0.0 * super().compute_loss(x, y, y_pred, sample_weight, **kwargs)


@register
class Stack(OwnLoss, keras.Sequential):
    """Sequential, with nothing but another loss."""


@register
class Network(OwnLoss, keras.Model):
    """Functional, with nothing but another loss."""


@register
class Scaled(OwnLoss, keras.Sequential):
    """Sequential, with arguments, a call and attributes of its own."""

    def __init__(self, units=3, scale=3.0, **kwargs):
        super().__init__(
            [
                keras.Input((zoo.FEATURES,)),
                layers.Dense(5, activation="relu", name="hidden"),
                layers.Dense(units, name="logits"),
            ],
            **kwargs,
        )
        self.units, self.scale = units, scale

    def call(self, inputs, training=None, mask=None):
        return self.scale * super().call(inputs, training=training, mask=mask)

    def get_config(self):
        return {"units": self.units, "scale": self.scale, "name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@register
class Branched(OwnLoss, keras.Model):
    """Functional, with a model and a layer beside its graph."""

    def __init__(self, units=3, **kwargs):
        x = keras.Input((zoo.FEATURES,), name="x")
        hidden = layers.Dense(5, activation="relu", name="hidden")(x)
        super().__init__(x, layers.Dense(units, name="logits")(hidden), **kwargs)
        self.units = units
        self.encoder = keras.Model(x, hidden, name="encoder")
        self.further = [layers.Dense(5, name="further"), None]
        # Keras loads a graph without calling it.
        self.further[0].build((None, 5))

    def call(self, inputs, training=None, mask=None):
        outputs = super().call(inputs, training=training, mask=mask)
        beside = self.further[0](self.encoder(inputs))
        return outputs + beside[:, : self.units]

    def get_config(self):
        return {"units": self.units, "name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def stack():
    return Stack(
        [
            keras.Input((zoo.FEATURES,)),
            layers.Dense(5, activation="relu", name="hidden"),
            layers.Dense(3, name="logits"),
        ]
    )


def network():
    x = keras.Input((zoo.FEATURES,))
    y = layers.Dense(5, activation="relu", name="hidden")(x)
    return Network(x, layers.Dense(3, name="logits")(y))


def branched():
    model = Branched(name="branched")
    model(np.zeros((1, zoo.FEATURES), "float32"))
    return model


MODELS = {
    "sequential": stack,
    "functional": network,
    "sequential-init": lambda: Scaled(scale=2.0, name="scaled"),
    "functional-init": branched,
}
PATHS = {
    "functional-init": {"hidden", "logits", "further"},
}


@pytest.mark.parametrize(
    ("kind", "technique"), zip(MODELS, [*TECHNIQUES] * 2, strict=True)
)
def test_a_model_keeps_class_loss_call_and_attributes(kind, technique, rng, tmp_path):
    inputs, targets = zoo.data(rng)
    model = MODELS[kind]()
    before = outputs_of(model, inputs)
    sparse = compiled(sos.sparsify(model, TECHNIQUES[technique]), run_eagerly=False)
    assert isinstance(sparse, type(model))
    if technique == "magnitude":
        np.testing.assert_allclose(outputs_of(sparse, inputs), before, atol=1e-6)
    fit(sparse, inputs, targets, epochs=2)
    assert_not_trained(sparse)
    assert steps_of(sparse) == {4}
    paths = PATHS.get(kind, {"hidden", "logits"})
    # A layer that two models share is found in the first.
    assert {s.name for s in sites(sparse) if s.is_sparse} == paths
    assert len(sparse_layers(sparse)) == len(paths)
    np.testing.assert_array_equal(outputs_of(model, inputs), before)
    for copy in (sos.strip(sparse), sos.strip(model)):
        assert type(copy) is type(model)
        assert vars(copy).get("scale") == vars(model).get("scale")
        compiled(copy).fit(inputs, targets, verbose=0)
        assert_not_trained(copy)
    expected = outputs_of(sparse, inputs)
    np.testing.assert_allclose(
        outputs_of(sos.strip(sparse), inputs), expected, atol=1e-5
    )
    sparse.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, type(model))
    np.testing.assert_allclose(outputs_of(loaded, inputs), expected, atol=1e-5)
    assert len(sparse_layers(loaded)) == len(paths)
    assert steps_of(loaded) == {4}
    assert type(sos.strip(loaded)) is type(model)
    fit(compiled(loaded), inputs, targets)
    assert_not_trained(loaded)


def assert_not_trained(model):
    """By the biases, which techniques leave as they are."""
    biases = [plain_part(site.layer).bias for site in sites(model)]
    assert biases
    assert not any(to_numpy(bias).any() for bias in biases)


@pytest.mark.parametrize("kind", ["sequential", "functional-init"])
def test_a_model_with_a_class_of_its_own_is_kept_within_another(kind, rng, tmp_path):
    inputs, targets = zoo.data(rng)
    inner = MODELS[kind]()
    x = keras.Input((zoo.FEATURES,))
    outer = keras.Model(x, layers.Dense(zoo.CLASSES, name="head")(inner(x)))
    sparse = compiled(sos.sparsify(outer, TECHNIQUES["l0"]))
    fit(sparse, inputs, targets)
    place = outer.layers.index(inner)
    expected = outputs_of(sparse, inputs)
    sparse.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for each in (sparse, loaded):
        assert isinstance(each.layers[place], type(inner))
        assert len(sparse_layers(each)) == len(sparse_layers(sparse)) > 2
        np.testing.assert_allclose(outputs_of(each, inputs), expected, atol=1e-5)
    stripped = sos.strip(loaded)
    assert type(stripped.layers[place]) is type(inner)
    np.testing.assert_allclose(outputs_of(stripped, inputs), expected, atol=1e-5)


def test_what_a_graph_holds_beside_it_refers_to_the_copy(rng):
    inputs, _ = zoo.data(rng)
    model = branched()
    sparse = sos.sparsify(model, TECHNIQUES["magnitude"])
    hidden = sparse.get_layer("hidden" if IS_KERAS3 else plain_name(sparse, "hidden"))
    before = outputs_of(sparse.encoder, inputs)
    kernel = plain_part(hidden).kernel
    kernel.assign(2.0 * to_numpy(kernel))
    np.testing.assert_allclose(outputs_of(sparse.encoder, inputs), 2.0 * before)
    np.testing.assert_allclose(outputs_of(model.encoder, inputs), before)


def plain_name(model, name):
    return next(s.layer.name for s in sites(model) if s.name == name)


def test_an_attribute_of_a_plain_functional_model_is_kept(rng):
    inputs, _ = zoo.data(rng)
    model = zoo.functional()
    model.labels = ["a", "b", "c"]
    model.beside = layers.Dense(2, name="beside")
    model.beside(inputs)
    for copy in (sos.sparsify(model, TECHNIQUES["l0"]), sos.strip(model)):
        assert list(copy.labels) == ["a", "b", "c"]
        assert copy.beside is not model.beside
        assert any(x is copy.beside for x in copy._flatten_layers())
        assert len(sites(copy)) == len(sites(model))


def test_a_frozen_model_stays_frozen():
    for make in (zoo.sequential, zoo.functional):
        model = make()
        model.trainable = False
        assert not sos.strip(model).trainable
        assert not sos.strip(model).trainable_weights
