"""One-shot pruning, beside independent computations in NumPy."""

import numpy as np
import pytest
from keras import ops

from state_of_sparsity.budgets import Layer
from state_of_sparsity.engines.matrices import linear_map
from state_of_sparsity.least_squares import damped, refitted
from tests.flavour import (
    BACKEND,
    IS_KERAS3,
    ON_PYTORCH,
    compiled,
    fit,
    keras,
    outputs_of,
    sos,
    to_numpy,
)

pytestmark = [*ON_PYTORCH, pytest.mark.feature("pruning in one shot")]
MAGNITUDE = sos.MagnitudePruning(0.5, begin_step=0, end_step=0, frequency=1)
TWO_OF_FOUR = {"sparsity_m_by_n": (2, 4)}


def correlated(rng, samples, size):
    """Inputs of unequal size that depend on each other."""
    mixed = rng.normal(size=(samples, size)) @ rng.normal(size=(size, size))
    return (0.1 * mixed * np.exp(rng.normal(size=size))).astype("float32")


@pytest.fixture(scope="module")
def data():
    return correlated(np.random.default_rng(0), 200, 16)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((16,)),
            layers.Dense(24, activation="relu", name="first"),
            layers.Dense(8, name="second"),
        ]
    )


def gram_of(inputs, damping=0.01):
    gram = inputs.T @ inputs / len(inputs)
    return gram + damping * np.diag(gram).mean() * np.eye(len(gram))


def masked_wanda(matrix, inputs, pairs):
    scores = np.abs(matrix) * np.linalg.norm(inputs, axis=0)[:, None]
    mask = np.ones(matrix.shape, bool)
    for j in range(matrix.shape[1]):
        size = 4 if pairs else len(matrix)
        for begin in range(0, len(matrix), size):
            lowest = np.argsort(scores[begin : begin + size, j])[: size // 2]
            mask[begin + lowest, j] = False
    return mask * matrix, mask


def pruned_by_surgeon(matrix, inputs, pairs, block=8):
    """Optimal brain surgeon, input by input, with the inverse of what is left."""
    gram, matrix = gram_of(inputs), matrix.copy()
    mask = np.ones(matrix.shape, bool)
    inverses = [np.linalg.inv(gram[i:, i:]) for i in range(len(matrix))]
    scale = np.array([inverse[0, 0] for inverse in inverses])[:, None]
    for i in range(len(matrix)):
        if pairs and i % 4 == 0:
            scores = matrix[i : i + 4] ** 2 / scale[i : i + 4]
            for j in range(matrix.shape[1]):
                mask[i + np.argsort(scores[:, j])[:2], j] = False
        elif not pairs and i % block == 0:
            scores = matrix[i : i + block] ** 2 / scale[i : i + block]
            threshold = np.sort(scores, axis=None)[scores.size // 2]
            mask[i : i + block] = scores >= threshold
        error = np.where(mask[i], 0, matrix[i]) / scale[i]
        matrix[i:] -= np.outer(inverses[i][0], error)
    return matrix * mask, mask


@pytest.mark.parametrize("pattern", [{}, TWO_OF_FOUR], ids=["single", "two_of_four"])
@pytest.mark.parametrize(
    ("technique", "reference"),
    [
        (sos.Wanda(0.5), masked_wanda),
        (sos.SparseGPT(0.5, block_size=8), pruned_by_surgeon),
    ],
    ids=["wanda", "sparse_gpt"],
)
def test_two_layers_are_those_of_numpy(model, data, technique, reference, pattern):
    technique = type(technique)(**(technique.get_config() | pattern))
    sparse = sos.one_shot(model, technique, data, refit=False)
    inputs, masks = data.astype("float64"), sos.weight_masks(sparse)
    for layer in sos.strip(sparse).layers:
        dense = to_numpy(model.get_layer(layer.name).kernel)
        weights, mask = reference(dense.astype("float64"), inputs, bool(pattern))
        np.testing.assert_array_equal(masks[f"{layer.name}/kernel"], mask)
        found = to_numpy(layer.kernel)
        np.testing.assert_allclose(found, weights, rtol=1e-5, atol=1e-5)
        inputs = np.maximum(inputs @ weights, 0)


def test_weights_that_stay_are_least_squares_on_the_mask(rng):
    inputs, matrix = correlated(rng, 60, 12), rng.normal(size=(12, 5))
    gram, mask = gram_of(inputs.astype("float64")), rng.random((12, 5)) < 0.5
    found = refitted(matrix, matrix * mask, mask, gram)
    for j in range(5):
        kept = mask[:, j]
        right = gram[kept] @ matrix[:, j]
        expected = np.linalg.solve(gram[np.ix_(kept, kept)], right)
        np.testing.assert_allclose(found[kept, j], expected, rtol=1e-5)
        assert not found[~kept, j].any()


def test_a_singular_gram_matrix_is_damped_until_it_is_definite():
    gram = np.ones((3, 3))
    gram[0, 1] = gram[1, 0] = 1.5
    found, factor, damping = damped(gram, 1e-3)
    assert damping == 1.0
    np.testing.assert_array_equal(factor, np.triu(factor))
    np.testing.assert_allclose(factor @ factor.T, found)
    np.testing.assert_allclose(found, gram + np.eye(3))


def layers_of_kinds():
    layers = keras.layers
    return {
        "dense": (layers.Dense(5), (3, 6)),
        "einsum": (layers.EinsumDense("abc,cde->abde", (None, 2, 5)), (3, 6)),
        "two_summed": (layers.EinsumDense("abcd,cde->abe", (None, 5)), (3, 2, 4)),
        "batched": (layers.EinsumDense("abc,bcd->abd", (3, 5)), (3, 6)),
        "summed_first": (layers.EinsumDense("abc,cd->ad", (5,)), (3, 6)),
        "causal": (layers.Conv1D(5, 3, padding="causal", dilation_rate=2), (9, 4)),
        "conv": (layers.Conv2D(5, 3, strides=2, padding="same"), (7, 8, 4)),
        "dilated": (layers.Conv2D(5, (2, 3), dilation_rate=2), (7, 8, 4)),
        "uneven": (layers.Conv2D(5, 3, strides=(2, 1)), (7, 8, 4)),
        "grouped_1d": (layers.Conv1D(6, 3, groups=2, padding="same"), (9, 4)),
        "grouped": (layers.Conv2D(6, 3, strides=2, groups=2), (7, 8, 4)),
        "volumes": (layers.Conv3D(6, 2, padding="same", groups=2), (3, 4, 5, 4)),
        "depthwise": (layers.DepthwiseConv2D(3, depth_multiplier=2), (7, 8, 4)),
    }


@pytest.mark.parametrize("kind", layers_of_kinds())
def test_matrices_give_what_the_layer_does(rng, kind):
    layer, shape = layers_of_kinds()[kind]
    inputs = rng.normal(size=(2, *shape)).astype("float32")
    outputs = to_numpy(layer(inputs))
    kernel = to_numpy(layer.trainable_variables[0])
    linear = linear_map(layer)
    matrices = linear.matrices(kernel)
    np.testing.assert_array_equal(linear.kernel(matrices, kernel.shape), kernel)
    rows = ops.convert_to_numpy(linear.rows(ops.convert_to_tensor(inputs)))
    found = np.sort((rows @ matrices).ravel())
    np.testing.assert_allclose(found, np.sort(outputs.ravel()), atol=1e-5)


def test_parts_are_given_what_pruned_ones_before_them_give(rng):
    """A residual block, a model within, in training: as one subclassed model."""
    layers = keras.layers
    keras.utils.set_random_seed(1)

    class Squared(layers.Layer):
        def call(self, inputs, training=None):
            return inputs * inputs if training else inputs

    dense = layers.Dense(6, name="inner")
    inner = keras.Sequential([layers.Input((6,)), Squared(), dense])
    inputs = layers.Input((6,))
    first = layers.Dense(6, activation="tanh", name="first")(inputs)
    added = layers.add([first, inner(inputs=first, training=True)])
    model = keras.Model(inputs, layers.Dense(4, name="last")(added))

    class Whole(keras.Model):
        def __init__(self):
            super().__init__()
            self.held = model

        def call(self, inputs):
            return self.held(inputs)

    whole = Whole()
    data = correlated(rng, 40, 6)
    whole(data)
    found = sos.one_shot(model, sos.SparseGPT(0.5), data, batch_size=16)
    expected = sos.one_shot(whole, sos.SparseGPT(0.5), data, batch_size=40)
    outputs = [outputs_of(sparse, data) for sparse in (found, expected)]
    np.testing.assert_allclose(*outputs, rtol=1e-4, atol=1e-5)


def test_operations_that_are_no_layers_and_two_kinds_on_one_input(rng):
    """A depthwise and a plain convolution see the same patches, in other groups."""
    layers = keras.layers
    inputs = layers.Input((6, 6, 4))
    first = layers.Conv2D(5, 3, name="conv")(inputs)
    second = layers.DepthwiseConv2D(3, name="depthwise")(inputs)
    joined = layers.Concatenate()([first * 2.0, second])
    pooled = layers.GlobalAveragePooling2D()(joined)
    model = keras.Model(inputs, layers.Dense(4, name="last")(pooled) + 1.0)
    data = rng.normal(size=(40, 6, 6, 4)).astype("float32")
    sparse = sos.one_shot(
        model, sos.SparseGPT(0.5), data, overrides={"depthwise": 4 / 9}
    )
    found = [layer.zeros for layer in sos.sparsity_report(sparse).layers]
    assert sorted(found) == [16, 18, 90]


def test_layers_without_scores_have_the_mean_share_of_outliers():
    shapes = {"a": 0.1, "b": 0.3, "table": None}
    layers = [Layer(name, ((20, 50),)) for name in shapes]
    outliers = {name: share for name, share in shapes.items() if share is not None}
    found = sos.OWL(outliers=outliers).sparsities(layers, 0.5)
    assert found["a"] > found["table"] > found["b"]
    np.testing.assert_allclose(list(found.values()), [0.58, 0.42, 0.5], atol=1e-3)


def test_no_more_of_a_model_is_run_than_it_takes(model, data):
    calls = []

    class Counted(keras.layers.Layer):
        def call(self, inputs):
            calls.append(str(inputs.shape[0]))
            return inputs

    end = Counted()(model.outputs[0])
    longer = keras.Model(model.inputs[0], end)
    sos.one_shot(longer, sos.Wanda(0.5), data, batch_size=17)
    # What is traced is of another size; tf_keras runs a batch to see who is called.
    assert calls.count("17") == (not IS_KERAS3)
    longer(data[:17])
    assert calls.count("17") == 1 + (not IS_KERAS3)


def test_zeros_stay_in_training_and_the_sparse_model_is_stripped(model, data, rng):
    sparse = sos.one_shot(model, sos.SparseGPT(0.75), data)
    masks = sos.weight_masks(sparse)
    fit(compiled(sparse), data, rng.normal(size=(len(data), 8)).astype("float32"))
    assert sos.sparsity_report(sparse).sparsity == 0.75
    for layer in sos.strip(sparse).layers:
        kernel = to_numpy(layer.kernel)
        np.testing.assert_array_equal(kernel != 0, masks[f"{layer.name}/kernel"])


@pytest.mark.parametrize("technique", [MAGNITUDE, sos.Wanda(0.5), sos.SparseGPT(0.5)])
@pytest.mark.parametrize("budget", [sos.ERK(), sos.Global(), sos.OWL()])
def test_budgets_meet_the_target(model, data, budget, technique):
    report = sos.sparsity_report(sos.one_shot(model, technique, data, budget))
    assert report.sparsity == 0.5
    assert len({layer.sparsity for layer in report.layers}) > 1


def test_owl_leaves_more_to_layers_with_more_outliers(model, data):
    sparse = sos.one_shot(model, sos.Wanda(0.5), data, sos.OWL(multiple=3.0))
    report = sos.sparsity_report(sparse)
    spread = [layer.sparsity for layer in report.layers]
    assert 0.14 < max(spread) - min(spread) < 0.18


def error_of(sparse, model, data):
    return np.square(outputs_of(sparse, data) - outputs_of(model, data)).sum()


def test_each_technique_is_ahead_of_the_simpler_one(model, rng):
    given = correlated(rng, 400, 16)
    data, other = given[:300], given[300:]
    errors = [
        error_of(sos.one_shot(model, t, data, refit=refit), model, other)
        for t, refit in (
            (sos.SparseGPT(0.5), True),
            (sos.SparseGPT(0.5), False),
            (sos.Wanda(0.5), False),
            (MAGNITUDE, False),
        )
    ]
    assert errors == sorted(errors)


def test_what_nothing_is_known_of_goes_by_magnitude(rng):
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((5,), dtype="int32"),
            layers.Embedding(11, 8, name="table"),
            layers.GRU(4, name="recurrent"),
            layers.Dense(6, name="last"),
        ]
    )
    ids = rng.integers(0, 11, (30, 5))
    with pytest.warns(UserWarning, match=r"by magnitude.*table/embeddings, recurrent"):
        sparse = sos.one_shot(model, sos.Wanda(0.5), ids)
    masks = sos.weight_masks(sparse)
    table = np.abs(to_numpy(model.get_layer("table").embeddings))
    np.testing.assert_array_equal(masks["table/embeddings"], table >= np.median(table))


def test_bad_input_is_named(model, data):
    with pytest.raises(ValueError, match="SparseGPT needs examples of inputs: pass"):
        sos.one_shot(model, sos.SparseGPT(0.5))
    with pytest.raises(ValueError, match="OWL needs examples"):
        sos.one_shot(model, MAGNITUDE, budget=sos.OWL())
    with pytest.raises(ValueError, match=r"OWL .* is a budget of sos.one_shot"):
        sos.sparsify(model, MAGNITUDE, budget=sos.OWL())
    with pytest.raises(TypeError, match=r"Wanda prunes once.*sos.one_shot"):
        sos.sparsify(model, sos.Wanda(0.5))
    with pytest.raises(ValueError, match="RigL cannot prune in one shot"):
        sos.one_shot(model, sos.RigL(0.5, end_step=8, frequency=2), data)
    with pytest.raises(ValueError, match="'first' is given what is not finite"):
        sos.one_shot(model, sos.Wanda(0.5), np.full((20, 16), np.nan, "float32"))
    with pytest.warns(UserWarning, match=r"fewer inputs.*first \(8 of 16\)"):
        sos.one_shot(model, sos.SparseGPT(0.5), data[:8])


@pytest.mark.skipif(BACKEND == "tensorflow", reason="no such convolution on its CPU")
def test_channels_first(rng):
    layer = keras.layers.Conv2D(5, 3, data_format="channels_first")
    inputs = rng.normal(size=(2, 4, 7, 8)).astype("float32")
    outputs = to_numpy(layer(inputs))
    linear = linear_map(layer)
    matrices = linear.matrices(to_numpy(layer.kernel))
    rows = ops.convert_to_numpy(linear.rows(ops.convert_to_tensor(inputs)))
    found = (rows @ matrices).reshape(2, 5, 6, 5)
    np.testing.assert_allclose(found, outputs.transpose(0, 2, 3, 1), atol=1e-5)
