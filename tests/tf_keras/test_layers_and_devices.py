"""Layer kinds, mixed precision, distribution, saving and loading."""

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import PruneLowMagnitude, keras, tf
from tests.flavour import sites
from tests.tf_keras import zoo

PRUNE_NOW = sos.MagnitudePruning(0.7, begin_step=1, end_step=1, frequency=1)
layers = keras.layers

# As tests/keras3/test_kinds.py names them.
KINDS = {
    "Dense": (lambda: layers.Dense(6), (5,)),
    "EinsumDense": (lambda: layers.EinsumDense("abc,cd->abd", (None, 6)), (4, 5)),
    "Conv1D": (lambda: layers.Conv1D(6, 3), (7, 5)),
    "Conv2D": (lambda: layers.Conv2D(6, 3, groups=2), (7, 7, 4)),
    "Conv3D": (lambda: layers.Conv3D(3, 2), (4, 4, 4, 2)),
    "Conv1DTranspose": (lambda: layers.Conv1DTranspose(3, 3), (5, 2)),
    "Conv2DTranspose": (lambda: layers.Conv2DTranspose(3, 3), (5, 5, 2)),
    "Conv3DTranspose": (lambda: layers.Conv3DTranspose(3, 2), (3, 3, 3, 2)),
    "SeparableConv1D": (lambda: layers.SeparableConv1D(6, 3), (6, 4)),
    "SeparableConv2D": (lambda: layers.SeparableConv2D(6, 3), (6, 6, 4)),
    "Embedding": (lambda: layers.Embedding(20, 6), (4,)),
    "SimpleRNN": (lambda: layers.SimpleRNN(6), (4, 5)),
    "LSTM": (lambda: layers.LSTM(6), (4, 5)),
    "GRU": (lambda: layers.GRU(6), (4, 5)),
    "ConvLSTM1D": (lambda: layers.ConvLSTM1D(2, 2), (3, 4, 5)),
    "ConvLSTM2D": (lambda: layers.ConvLSTM2D(2, 2), (3, 4, 4, 5)),
    "StackedRNNCells": (
        lambda: layers.RNN([layers.LSTMCell(3), layers.GRUCell(4)]),
        (4, 5),
    ),
    "Bidirectional": (lambda: layers.Bidirectional(layers.LSTM(4)), (4, 5)),
    "TimeDistributed": (lambda: layers.TimeDistributed(layers.Dense(4)), (4, 5)),
}
# To prune, as in TF-MOT, these are left dense.
DEPTHWISE = {
    "DepthwiseConv1D": (lambda: layers.DepthwiseConv1D(2), (5, 2)),
    "DepthwiseConv2D": (lambda: layers.DepthwiseConv2D(2), (4, 4, 2)),
}


def each(kinds):
    """Parameters: the kinds, as the table of features names them."""
    return pytest.mark.parametrize(
        "kind",
        [pytest.param(k, marks=pytest.mark.feature(f"{k} layers")) for k in kinds],
    )


@each(KINDS | DEPTHWISE)
def test_layer_kind_learns_or_is_refused(kind, rng):
    make, shape = (KINDS | DEPTHWISE)[kind]
    inputs = rng.integers(0, 20, (4, *shape)).astype("float32")
    model = keras.Sequential([keras.Input(shape), make()])
    try:
        sparse = sos.sparsify(model, sos.L0Regularization(1e-3))
    except ValueError as error:
        assert "has no linear map for layer" in str(error)  # noqa: PT017
        pytest.skip("tf_keras: it is pruned, and the learned techniques refuse it")
    sparse.compile("sgd", "mse")
    sparse.fit(inputs, np.zeros(model(inputs).shape), verbose=0)
    stripped = sos.strip(sparse)
    np.testing.assert_allclose(stripped(inputs), sparse(inputs), rtol=1e-4, atol=1e-5)


@each(KINDS)
def test_layer_kind_is_pruned_stripped_and_computes_the_same(kind, rng):
    make, shape = KINDS[kind]
    inputs = rng.integers(0, 20, (8, *shape)).astype("float32")
    model = keras.Sequential([keras.Input(shape), make()])
    sparse = sos.sparsify(model, PRUNE_NOW)
    np.testing.assert_allclose(sparse(inputs), model(inputs), rtol=1e-5, atol=1e-6)
    sparse.compile("sgd", "mse")
    targets = np.zeros(model(inputs).shape)
    sparse.fit(inputs, targets, verbose=0, callbacks=sos.callbacks(sparse))
    report = sos.sparsity_report(sparse)
    assert report.sparsified
    for weight in report.sparsified:
        assert weight.zeros == round(0.7 * weight.size), weight.name
    # Of a separable convolution, pruning leaves the depthwise part.
    dense = [w.name.rpartition("/")[2] for w in report.layers if w.technique == "dense"]
    assert dense == (["depthwise_kernel"] if "Separable" in kind else [])
    stripped = sos.strip(sparse)
    np.testing.assert_allclose(stripped(inputs), sparse(inputs), rtol=1e-5, atol=1e-6)
    assert stripped.count_params() == model.count_params()


def test_masks_of_padded_sequences_reach_the_next_layer(rng):
    ids = np.array([[3, 4, 0, 0], [5, 6, 7, 8]])
    model = keras.Sequential(
        [
            keras.Input((None,)),
            layers.Embedding(20, 6, mask_zero=True, name="embedding"),
            layers.LSTM(5, name="lstm"),
        ]
    )
    sparse = sos.sparsify(model, PRUNE_NOW)
    np.testing.assert_allclose(sparse(ids), model(ids), atol=1e-6)
    shorter = np.array([[3, 4]])
    np.testing.assert_allclose(sparse(ids)[:1], model(shorter), atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("kind", zoo.ALL)
def test_mixed_precision_trains_and_prunes_exactly(policy, kind, rng):
    keras.mixed_precision.set_global_policy(policy)
    sparse = zoo.compiled(sos.sparsify(zoo.ALL[kind](), PRUNE_NOW))
    history = sparse.fit(
        *zoo.data(rng), verbose=0, epochs=2, callbacks=sos.callbacks(sparse)
    )
    assert np.isfinite(history.history["loss"]).all()
    for layer in sos.sparsity_report(sparse).layers:
        assert layer.zeros == round(0.7 * layer.size)
    for site in sites(sparse):
        assert site.layer.compute_dtype == policy.removeprefix("mixed_")
        assert all(v.dtype.name == "float32" for v in site.layer.trainable_weights)


def test_layer_keeps_its_own_precision():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = keras.Sequential([layers.Dense(3, dtype="float32", input_shape=(2,))])
    sparse = sos.sparsify(model, PRUNE_NOW)
    assert sparse(np.zeros((1, 2))).dtype == tf.float32


@pytest.mark.parametrize("technique", [PRUNE_NOW, sos.RandomPruning(0.7, 1, 3, 1)])
@pytest.mark.parametrize("kind", ["functional", "subclassed"])
def test_replicas_have_the_same_masks_as_one_device(kind, technique, mirrored, rng):
    inputs, labels = zoo.data(rng)

    def train():
        keras.utils.set_random_seed(0)
        sparse = zoo.compiled(sos.sparsify(zoo.ALL[kind](), technique))
        sparse.fit(
            inputs, labels, batch_size=8, epochs=2, shuffle=False, verbose=0,
            callbacks=sos.callbacks(sparse),
        )  # fmt: skip
        return sparse

    with mirrored.scope():
        distributed = train()
    for site in sites(distributed):
        for variables in site.layer.pruning_vars:
            for variable in variables:
                first, second = (
                    v.numpy() for v in mirrored.experimental_local_results(variable)
                )
                np.testing.assert_array_equal(first, second)
        assert site.layer.pruning_step.numpy() == 8
    for layer in sos.sparsity_report(distributed).layers:
        assert layer.zeros == round(0.7 * layer.size)
    # Outside of the scope, too.
    stripped = sos.strip(distributed)
    np.testing.assert_allclose(distributed(inputs), stripped(inputs), atol=1e-6)
    if isinstance(technique, sos.RandomPruning):
        alone = sos.weight_masks(train())
        for name, mask in sos.weight_masks(distributed).items():
            np.testing.assert_array_equal(mask, alone[name])


@pytest.fixture
def trained(rng):
    sparse = zoo.compiled(
        sos.sparsify(zoo.sequential(), sos.MagnitudePruning(0.7, 1, 6, 1))
    )
    sparse.fit(*zoo.data(rng), batch_size=8, verbose=0, callbacks=sos.callbacks(sparse))
    return sparse


@pytest.mark.parametrize("file", ["model.keras", "model.h5", "model"])
def test_saved_model_loads_with_masks_and_goes_on(trained, file, rng, tmp_path):
    inputs, labels = zoo.data(rng)
    trained.save(tmp_path / file)
    loaded = keras.models.load_model(tmp_path / file)
    np.testing.assert_allclose(loaded(inputs), trained(inputs), atol=1e-6)
    assert str(sos.sparsity_report(loaded)) == str(sos.sparsity_report(trained))
    before = sos.sparsity_report(loaded).sparsity
    assert before < 0.69
    loaded.fit(inputs, labels, batch_size=8, verbose=0, callbacks=sos.callbacks(loaded))
    assert sos.sparsity_report(loaded).sparsity == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize("file", ["weights.h5", "weights", "model.weights.h5"])
def test_weights_restore_masks_and_steps(trained, file, rng, tmp_path):
    trained.save_weights(tmp_path / file)
    other = sos.sparsify(zoo.sequential(), sos.MagnitudePruning(0.7, 1, 6, 1))
    other.load_weights(tmp_path / file)
    for name, mask in sos.weight_masks(other).items():
        np.testing.assert_array_equal(mask, sos.weight_masks(trained)[name])
    assert [int(s.layer.pruning_step) for s in sites(other)] == [4, 4]


def test_configuration_of_the_wrapper_round_trip(trained):
    wrapper = next(
        layer for layer in trained.layers if isinstance(layer, PruneLowMagnitude)
    )
    copy = type(wrapper).from_config(wrapper.get_config())
    assert copy.technique == wrapper.technique
    assert (copy.name, copy.index) == (wrapper.name, wrapper.index)
    assert copy.layer.get_config() == wrapper.layer.get_config()


def test_sparsity_is_written_for_tensorboard(rng, tmp_path):
    sparse = zoo.compiled(sos.sparsify(zoo.sequential(), PRUNE_NOW))
    sparse.fit(
        *zoo.data(rng), verbose=0, epochs=2, batch_size=8,
        callbacks=sos.callbacks(sparse, log_dir=tmp_path),
    )  # fmt: skip
    values = {}
    for file in tmp_path.iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                values.setdefault(value.tag, {})[event.step] = float(
                    tf.make_ndarray(value.tensor)
                )
    assert values.keys() == {"sparsity", "sparsity/a/kernel", "sparsity/b/kernel"}
    assert values["sparsity/a/kernel"].keys() == {4, 8}
    assert values["sparsity/a/kernel"][8] == pytest.approx(0.7)


@pytest.mark.parametrize(
    "options",
    [{"run_eagerly": True}, {"jit_compile": True}, {"steps_per_execution": 4}],
)
def test_ways_to_run_a_step(options, rng):
    inputs, labels = zoo.data(rng)
    model = keras.Sequential(
        [layers.Dense(8, input_shape=(zoo.INPUTS,)), layers.Dense(3)]
    )
    sparse = zoo.compiled(sos.sparsify(model, PRUNE_NOW), **options)
    sparse.fit(inputs, labels, batch_size=8, verbose=0, callbacks=sos.callbacks(sparse))
    for layer in sos.sparsity_report(sparse).layers:
        assert layer.zeros == round(0.7 * layer.size)
    assert {int(site.layer.pruning_step) for site in sites(sparse)} == {4}


def test_custom_training_loop(rng):
    inputs, labels = map(tf.constant, zoo.data(rng))
    sparse = zoo.compiled(sos.sparsify(zoo.sequential(), PRUNE_NOW))
    for callback in sos.callbacks(sparse):
        callback.set_model(sparse)
        callback.on_train_begin()

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = sparse.compiled_loss(labels, sparse(inputs, training=True))
        variables = sparse.trainable_variables
        sparse.optimizer.apply_gradients(
            zip(tape.gradient(loss, variables), variables, strict=True)
        )

    for _ in range(3):
        step()
    for layer in sos.sparsity_report(sparse).layers:
        assert layer.zeros == round(0.7 * layer.size)
