"""`sparsify` and `strip` on every kind of model, and what they refuse."""

import functools
import typing

import keras as keras3
import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras, tf
from state_of_sparsity.layers import tf_keras as layers
from tests.flavour import sites
from tests.tf_keras import zoo

PRUNE_NOW = sos.MagnitudePruning(0.7, begin_step=1, end_step=1, frequency=1)
RANDOMLY = sos.RandomPruning(0.7, begin_step=1, end_step=4, frequency=1)


def train(model, inputs, labels, epochs=1, **kwargs):
    zoo.compiled(model)
    return model.fit(
        inputs, labels, batch_size=8, epochs=epochs, verbose=0,
        callbacks=sos.callbacks(model), **kwargs
    )  # fmt: skip


@pytest.fixture(params=zoo.ALL)
def model(request):
    return zoo.ALL[request.param]()


@pytest.mark.parametrize(
    "technique", [PRUNE_NOW, RANDOMLY], ids=lambda t: type(t).__name__
)
def test_every_tensor_has_exactly_the_zeros_asked_for(model, technique, rng):
    sparse = sos.sparsify(model, technique)
    train(sparse, *zoo.data(rng))
    report = sos.sparsity_report(sparse)
    assert report.layers
    for layer in report.layers:
        assert layer.zeros == round(0.7 * layer.size), layer.name


def test_sparsify_keeps_the_weights_and_leaves_the_model_alone(model, rng):
    inputs, labels = zoo.data(rng)
    before = model(inputs).numpy()
    sparse = sos.sparsify(model, PRUNE_NOW)
    np.testing.assert_allclose(sparse(inputs), before, atol=1e-6)
    train(sparse, inputs, labels)
    assert not np.allclose(sparse(inputs), before, atol=1e-3)
    np.testing.assert_array_equal(model(inputs), before)


def test_stripped_model_is_plain_and_computes_the_same(model, rng):
    inputs, labels = zoo.data(rng)
    sparse = sos.sparsify(model, PRUNE_NOW)
    train(sparse, inputs, labels)
    stripped = sos.strip(sparse)
    np.testing.assert_allclose(stripped(inputs), sparse(inputs), atol=1e-6)
    assert {layer.technique for layer in sos.sparsity_report(stripped).layers} == {
        "dense"
    }
    assert stripped.count_params() == model.count_params()
    masks = sos.weight_masks(sparse)
    assert (
        masks.keys()
        == sos.weight_masks(stripped).keys()
        == sos.weight_masks(model).keys()
    )
    for name, mask in sos.weight_masks(stripped).items():
        np.testing.assert_array_equal(mask, masks[name], name)


def test_stripped_model_is_a_snapshot(model, rng):
    inputs, labels = zoo.data(rng)
    sparse = sos.sparsify(model, PRUNE_NOW)
    train(sparse, inputs, labels)
    stripped = sos.strip(sparse)
    before = stripped(inputs).numpy()
    train(sparse, inputs, labels)
    assert not np.allclose(sparse(inputs), before, atol=1e-3)
    np.testing.assert_array_equal(stripped(inputs), before)


def test_regularization_is_of_the_copies_and_counted_once(model, rng):
    sparse = sos.sparsify(model, PRUNE_NOW)
    train(sparse, *zoo.data(rng))
    name = "b/kernel" if model.name == "sequential" else "head/kernel"
    stripped = sos.strip(sparse)
    head = stripped.get_layer(name.split("/")[0])
    expected = 0.01 * np.sum(head.kernel.numpy().astype("float64") ** 2)
    for each in (sparse, stripped):
        assert len(each.losses) == 1
        np.testing.assert_allclose(each.losses[0], expected, rtol=1e-5)


def test_layer_used_twice_counts_its_steps_once(rng):
    sparse = sos.sparsify(zoo.functional(), PRUNE_NOW)
    train(sparse, *zoo.data(rng), epochs=3)
    steps = {int(layer.pruning_step) for layer in pruned_layers(sparse)}
    assert steps == {12}


def pruned_layers(model):
    return [site.layer for site in sites(model)]


def test_pruned_weights_stay_zero_after_the_last_update(rng):
    sparse = sos.sparsify(zoo.sequential(), PRUNE_NOW)
    inputs, labels = zoo.data(rng)
    train(sparse, inputs, labels)
    masks = sos.weight_masks(sparse)
    train(sparse, inputs, labels, epochs=3)
    for name, mask in sos.weight_masks(sparse).items():
        np.testing.assert_array_equal(mask, masks[name])
    # Also in the variables themselves, once an epoch has ended.
    kernel = pruned_layers(sparse)[0].layer.kernel.numpy()
    assert (kernel[~masks["a/kernel"]] == 0).all()


@pytest.mark.parametrize("technique", [sos.RandomPruning, sos.MagnitudePruning])
def test_masks_are_cumulative_wherever_the_optimizer_moves_a_pruned_weight(
    technique, rng
):
    sparse = sos.sparsify(zoo.sequential(), technique(0.9, 0, 20, 1))
    inputs, labels = zoo.data(rng)
    zoo.compiled(sparse)
    previous, sparsities = {}, []
    for _ in range(5):
        sparse.fit(
            inputs, labels, batch_size=8, verbose=0, callbacks=sos.callbacks(sparse)
        )
        masks = sos.weight_masks(sparse)
        sparsities.append(sos.sparsity_report(sparse).sparsity)
        for name, mask in previous.items():
            assert not (masks[name] & ~mask).any(), "a weight came back"
        for layer in pruned_layers(sparse):
            for weight, mask, _ in layer.pruning_vars:
                weight.assign_add(100.0 * (1.0 - mask))
        previous = masks
    assert sparsities == sorted(sparsities)
    assert sparsities[0] < sparsities[-1]


def test_random_masks_depend_on_the_seed_and_not_on_the_weights(rng):
    def masks(seed, initial_seed):
        keras.utils.set_random_seed(initial_seed)
        sparse = sos.sparsify(
            zoo.sequential(), sos.RandomPruning(0.5, 1, 1, 1, seed=seed)
        )
        train(sparse, *zoo.data(np.random.default_rng(initial_seed)))
        return np.concatenate([m.ravel() for m in sos.weight_masks(sparse).values()])

    np.testing.assert_array_equal(masks(3, 0), masks(3, 1))
    assert not np.array_equal(masks(3, 0), masks(4, 0))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_weights_are_pruned_in_order(value):
    kernel = keras.layers.Dense(
        4, kernel_initializer=keras.initializers.Constant(value), use_bias=False,
        input_shape=(5,), name="a", trainable=False,
    )  # fmt: skip
    sparse = sos.sparsify(keras.Sequential([kernel]), PRUNE_NOW)
    sparse.compile("sgd", "mse")
    sparse.fit(
        np.zeros((2, 5)), np.zeros((2, 4)), epochs=2, verbose=0,
        callbacks=sos.callbacks(sparse),
    )  # fmt: skip
    mask = sos.weight_masks(sparse)["a/kernel"].ravel()
    np.testing.assert_array_equal(mask, [False] * 14 + [True] * 6)


def test_ramp_that_ends_before_the_first_step_is_taken_at_it(rng):
    sparse = sos.sparsify(zoo.sequential(), sos.MagnitudePruning(0.5, 0, 0, 1))
    train(sparse, *zoo.data(rng))
    assert [r.zeros for r in sos.sparsity_report(sparse).layers] == [40, 12]


def test_sparsity_zero_prunes_nothing(rng):
    sparse = sos.sparsify(zoo.sequential(), sos.MagnitudePruning(0.0, 0, 2, 1))
    train(sparse, *zoo.data(rng))
    assert sos.sparsity_report(sparse).sparsity == 0.0


def test_a_tensor_keeps_its_last_weight(rng):
    model = keras.Sequential([keras.layers.Dense(1, input_shape=(2,), name="a")])
    sparse = sos.sparsify(model, sos.MagnitudePruning(0.99, 1, 1, 1))
    sparse.compile("sgd", "mse")
    sparse.fit(np.ones((4, 2)), np.ones(4), verbose=0, callbacks=sos.callbacks(sparse))
    assert sos.weight_masks(sparse)["a/kernel"].sum() == 1


def test_overrides_choose_by_name_and_by_path_and_the_first_counts(rng):
    sparse = sos.sparsify(
        zoo.functional(),
        PRUNE_NOW,
        {
            "block/attention/.*": None,
            "head": 0.5,
            "h.*": 0.1,
            "shared": RANDOMLY.with_sparsity(0.25),
        },
    )
    train(sparse, *zoo.data(rng))
    report = {layer.name: layer for layer in sos.sparsity_report(sparse).layers}
    for name, layer in report.items():
        assert (layer.technique == "dense") == ("attention" in name)
    assert report["head/kernel"].zeros == 12
    assert report["shared/kernel"].zeros == 16
    assert report["shared/kernel"].technique == "random_pruning"
    assert report["inner/dense/kernel"].zeros == round(0.7 * 64)


def test_matrices_that_no_layer_names_stay_dense_with_a_warning():
    class Own(keras.layers.Layer):
        def build(self, input_shape):
            self.table = self.add_weight("table", (input_shape[-1], 8))
            self.scale = self.add_weight("scale", (8,))
            self.inner = keras.layers.Dense(8)
            self.norm = keras.layers.BatchNormalization()

        def call(self, inputs):
            return self.norm(self.inner(inputs @ self.table)) * self.scale

    model = keras.Sequential([keras.Input((zoo.INPUTS,)), Own(name="own")])
    with pytest.warns(UserWarning, match=r"stay dense: own/table\. A custom layer"):
        sos.sparsify(model, PRUNE_NOW)


def test_models_of_layers_that_keras_knows_are_sparsified_without_a_warning(
    model, recwarn
):
    sos.sparsify(model, PRUNE_NOW)
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
    inputs, labels = zoo.data(rng)
    model = WithPair()
    before = model(inputs).numpy()
    sparse = sos.sparsify(model, PRUNE_NOW)
    train(sparse, inputs, labels)
    assert sos.sparsity_report(sparse).sparsity == pytest.approx(0.7, abs=0.02)
    np.testing.assert_array_equal(model(inputs), before)


def test_layers_out_of_reach_are_an_error(rng):
    model = WithPair(hidden=True)
    model(zoo.data(rng)[0])
    with pytest.raises(ValueError, match="cannot be replaced where model"):
        sos.sparsify(model, PRUNE_NOW)


class TestBadInput:
    def refuses(self, message, model=None, technique=PRUNE_NOW, overrides=None):
        with pytest.raises((TypeError, ValueError), match=message):
            sos.sparsify(model or zoo.sequential(), technique, overrides)

    def test_layers_of_keras_3_in_a_tf_keras_model(self):
        class Mixed(keras.Model):
            def __init__(self):
                super().__init__(name="mixed")
                self.own = keras.layers.Dense(3)
                self.parts = [{"foreign": keras3.layers.Dense(3, name="foreign")}]

            def call(self, inputs):
                return self.own(inputs)

        model = Mixed()
        model(np.zeros((1, 4), "float32"))
        self.refuses(r"'mixed'.*Received: layer 'foreign' of keras", model)
        with pytest.raises(ValueError, match="cannot hold layers of Keras 3"):
            sos.sparsity_report(model)

    def test_masked_weights_that_return(self):
        returning = sos.MagnitudePruning(0.5, 0, 1, 1, masked_weights="return")
        message = "masked_weights must be 'stay'.*Keras 3.*Received: 'return'"
        self.refuses(message, technique=returning)
        self.refuses(message, overrides={"a": returning})

    def test_keras_3_on_another_backend(self, monkeypatch):
        model = zoo.sequential()
        monkeypatch.setattr(keras3.backend, "backend", lambda: "jax")
        self.refuses("KERAS_BACKEND=tensorflow.*Received: 'jax'", model)
        with pytest.raises(ValueError, match=r"'gated' is of tf_keras.*KERAS_BACKEND"):
            layers.L0Dense(3, l0_weight=1.0, name="gated")

    def test_something_that_is_no_model(self):
        self.refuses("must be a keras.Model.*Received: 'resnet'", "resnet")

    def test_model_that_is_not_built(self):
        self.refuses("Build it first", keras.Sequential([keras.layers.Dense(3)]))
        self.refuses("Build it first", zoo.Subclassed())

    def test_model_with_nothing_to_sparsify(self):
        model = keras.Sequential([keras.layers.ReLU(input_shape=(3,))])
        self.refuses("Nothing to sparsify", model)
        self.refuses("Nothing to sparsify", overrides={".*": None})

    def test_sparse_model(self):
        sparse = sos.sparsify(zoo.sequential(), PRUNE_NOW)
        self.refuses("sparse already.*strip", sparse)

    def test_unknown_technique(self):
        self.refuses(
            "sos.MagnitudePruning.*Received: 'magnitude'", technique="magnitude"
        )

    def test_override_that_matches_nothing_gets_near_matches(self):
        self.refuses(
            r"'heat'.*Near matches: \['head'", zoo.functional(), overrides={"heat": 0.5}
        )

    def test_invalid_regular_expression(self):
        self.refuses(r"regular expression.*'\('", overrides={"(": 0.5})

    @pytest.mark.parametrize("value", ["dense", True, [0.5]])
    def test_override_of_another_type(self, value):
        self.refuses(
            "'a' must be a technique, a sparsity, or None", overrides={"a": value}
        )

    def test_override_with_a_bad_sparsity(self):
        self.refuses(r"In the override 'a'.*Received: 1.5", overrides={"a": 1.5})

    def test_overrides_that_are_no_dictionary(self):
        self.refuses("overrides must be a dictionary", overrides=[("a", 0.5)])

    def test_blocks_in_a_convolution_name_the_layer(self):
        model = keras.Sequential(
            [keras.layers.Conv2D(4, 3, input_shape=(8, 8, 4), name="c")]
        )
        technique = sos.MagnitudePruning(0.5, 0, 1, 1, block_size=(2, 2))
        self.refuses(
            r"c/kernel of shape \(3, 3, 4, 4\): blocks of \(2, 2\)", model, technique
        )

    def test_missing_callback_says_what_to_add(self, rng):
        sparse = zoo.compiled(sos.sparsify(zoo.sequential(), PRUNE_NOW))
        with pytest.raises(
            tf.errors.InvalidArgumentError, match=r"callbacks=sos.callbacks"
        ):
            sparse.fit(*zoo.data(rng), verbose=0)

    def test_callbacks_of_a_dense_model(self):
        with pytest.raises(ValueError, match="no sparse layers"):
            sos.callbacks(zoo.sequential())
