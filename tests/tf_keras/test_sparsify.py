"""`sparsify` and `strip` on every kind of model, and what they refuse."""

import functools
import typing

import keras as keras3
import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import PruneLowMagnitude, keras, tf
from state_of_sparsity.layers import tf_keras as layers
from tests.flavour import compiled, fit, sites
from tests.shared import zoo

PRUNE_NOW = sos.MagnitudePruning(0.7, begin_step=1, end_step=1, frequency=1)


def test_masks_are_cumulative_wherever_the_optimizer_moves_a_pruned_weight(rng):
    sparse = sos.sparsify(zoo.sequential(), sos.MagnitudePruning(0.9, 0, 20, 1))
    compiled(sparse, run_eagerly=False)
    previous, sparsities = {}, []
    for _ in range(5):
        fit(sparse, *zoo.data(rng, 16))
        masks = sos.weight_masks(sparse)
        sparsities.append(sos.sparsity_report(sparse).sparsity)
        for name, mask in previous.items():
            assert not (masks[name] & ~mask).any(), "a weight came back"
        for site in sites(sparse):
            for weight, mask, _ in site.layer.pruning_vars:
                weight.assign_add(100.0 * (1.0 - mask))
        previous = masks
    assert sparsities == sorted(sparsities)
    assert sparsities[0] < sparsities[-1]


def test_layer_keeps_its_own_precision():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    layer = keras.layers.Dense(3, dtype="float32", input_shape=(2,))
    sparse = sos.sparsify(keras.Sequential([layer]), PRUNE_NOW)
    assert sparse(np.zeros((1, 2))).dtype == tf.float32


def test_configuration_of_the_wrapper_round_trip():
    wrapper = sos.sparsify(zoo.sequential(), PRUNE_NOW).layers[0]
    assert isinstance(wrapper, PruneLowMagnitude)
    copy = type(wrapper).from_config(wrapper.get_config())
    assert copy.technique == wrapper.technique
    assert (copy.name, copy.index) == (wrapper.name, wrapper.index)
    assert copy.layer.get_config() == wrapper.layer.get_config()


def test_models_of_layers_that_keras_knows_are_sparsified_without_a_warning(recwarn):
    sos.sparsify(zoo.functional(), PRUNE_NOW)
    assert not recwarn.list


def test_activation_with_keywords_is_kept(rng):
    leaky = functools.partial(tf.nn.leaky_relu, alpha=0.9)
    model = keras.Sequential(
        [keras.layers.Dense(3, activation=leaky, input_shape=(4,))]
    )
    inputs = rng.normal(size=(5, 4)).astype("float32")
    np.testing.assert_allclose(sos.strip(model)(inputs), model(inputs), atol=1e-6)


def test_adapted_preprocessing_is_kept(rng):
    inputs = rng.normal(5, 3, size=(50, 4)).astype("float32")
    normalization = keras.layers.Normalization()
    normalization.adapt(inputs)
    model = keras.Sequential([normalization, keras.layers.Dense(3)])
    model(inputs)
    for copy in (sos.strip(model), sos.sparsify(model, PRUNE_NOW)):
        np.testing.assert_allclose(copy(inputs), model(inputs), atol=1e-5)


class Pair(typing.NamedTuple):
    first: keras.layers.Layer
    second: keras.layers.Layer


class Holder:
    """Something that Keras does not look into."""

    def __init__(self, layer):
        self.layer = layer


class WithPair(keras.Model):
    def __init__(self, hidden=False):
        super().__init__()
        self.pair = Pair(keras.layers.Dense(4), keras.layers.Dense(3))
        if hidden:
            self.holder = Holder(keras.layers.Dense(3))
            self._self_tracked_trackables.append(self.holder.layer)

    def call(self, inputs):
        outputs = self.pair.second(self.pair.first(inputs))
        return self.holder.layer(outputs) if hasattr(self, "holder") else outputs


def test_layers_in_a_named_tuple_are_copied_and_pruned(rng):
    inputs, targets = zoo.data(rng)
    model = WithPair()
    before = model(inputs).numpy()
    sparse = compiled(sos.sparsify(model, PRUNE_NOW))
    fit(sparse, inputs, targets)
    assert [x.zeros for x in sos.sparsity_report(sparse).layers] == [17, 8]
    np.testing.assert_array_equal(model(inputs), before)


def test_layers_out_of_reach_are_an_error(rng):
    model = WithPair(hidden=True)
    model(zoo.data(rng)[0])
    with pytest.raises(ValueError, match="cannot be replaced where model"):
        sos.sparsify(model, PRUNE_NOW)


@pytest.mark.parametrize(("own", "other"), [(keras, keras3), (keras3, keras)])
def test_layers_of_the_other_keras_are_refused(own, other):
    class Mixed(own.Model):
        def __init__(self):
            super().__init__(name="mixed")
            self.own = own.layers.Dense(3)
            self.foreign = other.layers.Dense(3, name="foreign")

        def call(self, inputs):
            return self.own(inputs)

    model = Mixed()
    model(np.zeros((1, 4), "float32"))
    with pytest.raises((TypeError, ValueError), match=r"'mixed'.*'foreign'"):
        sos.sparsify(model, PRUNE_NOW)


def test_keras_3_on_another_backend_is_refused(monkeypatch):
    model = zoo.sequential()
    monkeypatch.setattr(keras3.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match=r"KERAS_BACKEND=tensorflow.*Received: 'jax'"):
        sos.sparsify(model, PRUNE_NOW)
    with pytest.raises(ValueError, match=r"'gated' is of tf_keras.*KERAS_BACKEND"):
        layers.L0Dense(3, l0_weight=1.0, name="gated")


@pytest.mark.parametrize(
    ("layer", "shape", "summed"),
    [
        (keras.layers.Dense(7), (5,), 5),
        (keras.layers.Conv2D(7, 3), (8, 8, 5), 5),
        (keras.layers.Conv2DTranspose(7, 3), (8, 8, 5), 5),
        (keras.layers.EinsumDense("abc,cde->abde", (None, 2, 3)), (4, 5), 5),
        (keras.layers.EinsumDense("abde,dec->abc", (None, 2)), (4, 5, 6), 6),
        (keras.layers.EinsumDense("...b,cb->...c", 3), (4, 5), 5),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_site_knows_which_axis_of_its_kernel_is_summed_over(layer, shape, summed):
    (site,) = sites(keras.Sequential([keras.Input(shape), layer]))
    assert site.weights["kernel"].shape[site.summed_axis] == summed
