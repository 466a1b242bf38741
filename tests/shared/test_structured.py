"""Whole channels, inputs and heads: by every criterion, and by gates of their own."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
from keras import ops

from state_of_sparsity.engines.linear_maps import unit_axes
from state_of_sparsity.structures import Slices
from tests.autodiff import gradient
from tests.flavour import (
    ON_PYTORCH,
    begin_training,
    compiled,
    fit,
    keras,
    outputs_of,
    sgd,
    sites,
    sos,
    sparse_layers,
    to_numpy,
)
from tests.shared import reference, zoo
from tests.shared.test_fixed_points import trained
from tests.shared.test_target import reference_weight
from tests.test_structures import counts_of_a_sort

layers = keras.layers
pytestmark = [*ON_PYTORCH, pytest.mark.slow]
BY_UNITS = pytest.mark.feature(
    "structures: channels, inputs and heads, by every criterion"
)
OF_GROUPS = pytest.mark.feature("structures: gates, noise and lasso of groups")
CHANNELS = {"structure": "channels"}
NOW = (0.5, 1, 1, 1)


def network():
    """Kernels of (3, 3, 2, 6), (2, 2, 6, 4) and (16, 10), of unequal scales."""
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(6, 3, strides=2, padding="same", name="first"),
            layers.Conv2D(4, 2, strides=1, padding="valid", name="second"),
            layers.Flatten(),
            layers.Dense(10, name="last"),
        ]
    )
    rng = np.random.default_rng(7)
    for place, weight in enumerate(model.weights):
        weight.assign(rng.normal(size=tuple(weight.shape)) * 0.5 ** (place % 3))
    return model


def images(rng, examples=8):
    inputs = rng.normal(size=(examples, 6, 6, 2)).astype("float32")
    return inputs, rng.normal(size=(examples, 10)).astype("float32")


def kernels_of(model):
    return {
        f"{site.path}/{name}": to_numpy(variable).astype("float64")
        for site in sites(model)
        for name, variable in site.weights.items()
    }


def means(kernel):
    """Of channels, which the last axis of these kernels is."""
    return np.abs(kernel).reshape(-1, kernel.shape[-1]).mean(axis=0)


def channels_of(mask):
    """Which channels a mask keeps; all weights of each of them, or none."""
    flat = mask.reshape(-1, mask.shape[-1])
    assert (flat == flat[:1]).all()
    return flat[0]


KINDS = {
    "Dense": (lambda: layers.Dense(5), (6,)),
    "Conv1D": (lambda: layers.Conv1D(5, 2), (7, 6)),
    "Conv2D": (lambda: layers.Conv2D(5, 2), (5, 5, 6)),
    "Conv3D": (lambda: layers.Conv3D(5, 2), (3, 3, 3, 6)),
    "Conv1DTranspose": (lambda: layers.Conv1DTranspose(5, 2), (7, 6)),
    "Conv2DTranspose": (lambda: layers.Conv2DTranspose(5, 2), (5, 5, 6)),
    "Conv3DTranspose": (lambda: layers.Conv3DTranspose(5, 2), (3, 3, 3, 6)),
    "query": (lambda: layers.EinsumDense("abc,cde->abde", (None, 4, 3)), (5, 6)),
    "output": (lambda: layers.EinsumDense("abcd,cde->abe", (None, 6)), (5, 4, 3)),
}


@pytest.mark.parametrize("name", KINDS)
def test_slices_of_a_kernel_are_the_inputs_and_outputs_of_its_layer(rng, name):
    make, shape = KINDS[name]
    layer, x = make(), rng.normal(size=(2, *shape)).astype("float32")
    y = outputs_of(layer, x)
    kernel = to_numpy(layer.kernel)
    axes = unit_axes(layer)

    def without_the_first(of):
        """The kernel without the first slice."""
        keep = np.ones(kernel.shape, bool)
        places = tuple(
            0 if a in axes[of] else slice(None) for a in range(-kernel.ndim, 0)
        )
        keep[places] = False
        layer.kernel.assign(kernel * keep)
        return outputs_of(layer, x)

    # The axes of channels and inputs are the last ones of what is given and taken.
    first = (..., *[0] * len(axes["channels"]))
    masked = without_the_first("channels")
    assert not masked[first].any()
    np.testing.assert_allclose(np.delete(masked, 0, -1), np.delete(y, 0, -1), rtol=1e-5)
    masked = without_the_first("inputs")
    less = x.copy()
    less[(..., *[0] * len(axes["inputs"]))] = 0.0
    layer.kernel.assign(kernel)
    np.testing.assert_allclose(masked, outputs_of(layer, less), rtol=1e-4, atol=1e-5)
    if name in ("query", "output"):
        masked = without_the_first("heads")
        if name == "query":
            assert not masked[:, :, 0].any()
            np.testing.assert_allclose(masked[:, :, 1:], y[:, :, 1:], rtol=1e-5)


CRITERIA = {
    "magnitude": sos.MagnitudePruning(*NOW, **CHANNELS),
    "random": sos.RandomPruning(*NOW, **CHANNELS),
    "saliency": sos.SaliencyPruning(0.5, 2, 2, 1, **CHANNELS),
    "movement": sos.MovementPruning(0.5, 2, 2, 1, **CHANNELS),
    "fisher": sos.FisherPruning(0.5, 2, 2, 1, **CHANNELS),
    "fisher-blocks": sos.FisherPruning(0.5, 2, 2, 1, block_size=7, **CHANNELS),
    "acdc": sos.ACDC(0.5, 1, **CHANNELS),
    "set": sos.SET(0.5, 2, 1, **CHANNELS),
    "rigl": sos.RigL(0.5, 2, 1, **CHANNELS),
    "granet": sos.GraNet(0.5, 2, 1, **CHANNELS),
}


@BY_UNITS
@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_masks_whole_channels_as_many_as_asked(rng, name):
    sparse = sos.sparsify(network(), CRITERIA[name], budget=sos.Uniform())
    fit(compiled(sparse, sgd(1e-3)), *images(rng, 16), batch_size=4)
    masks = sos.weight_masks(sparse).values()
    assert [int(channels_of(mask).sum()) for mask in masks] == [3, 2, 5]
    for layer in sos.strip(sparse).layers:
        if layer.weights:
            kernel = to_numpy(layer.kernel)
            mask = channels_of(kernel != 0)
            assert mask.sum() == round(0.5 * mask.size), layer.name


def test_the_channels_of_the_smallest_mean_magnitudes_go(rng):
    model = network()
    sparse = sos.sparsify(model, CRITERIA["magnitude"])
    fit(compiled(sparse, sgd(0.0)), *images(rng))
    masks = sos.weight_masks(sparse)
    for name, kernel in kernels_of(model).items():
        scores = means(kernel)
        expected = reference.without_lowest(scores, scores.size // 2) != 0
        np.testing.assert_array_equal(channels_of(masks[name]), expected)


def test_one_threshold_over_channels_meets_the_target_in_weights(rng):
    model = network()
    sparse = sos.sparsify(
        model, sos.MagnitudePruning(*NOW, **CHANNELS), budget=sos.Global()
    )
    fit(compiled(sparse, sgd(0.0)), *images(rng))
    kernels = kernels_of(model).values()
    prices = [k.size // k.shape[-1] for k in kernels]
    size = sum(k.size for k in kernels)
    gone = counts_of_a_sort([*map(means, kernels)], prices, round(0.5 * size))
    masks = sos.weight_masks(sparse).values()
    found = [int((~channels_of(mask)).sum()) for mask in masks]
    assert found == gone.tolist()
    assert 0.5 * size - max(prices) < gone @ prices <= 0.5 * size
    assert sos.sparsity_report(sparse).sparsity == gone @ prices / size


def attention():
    tokens = keras.Input((3, 6))
    # Six heads of size 2.
    attend = layers.MultiHeadAttention(6, 2, name="attention")
    x = layers.Dense(4, name="dense")(attend(tokens, tokens))
    return keras.Model(tokens, x)


def sequences(rng):
    inputs = rng.normal(size=(4, 3, 6)).astype("float32")
    return inputs, np.ones((4, 3, 4), "float32")


@BY_UNITS
def test_heads_of_attention_go_as_a_whole_and_other_layers_stay_dense(rng):
    technique = sos.MagnitudePruning(*NOW, structure="heads")
    with pytest.warns(
        UserWarning, match=r"dense/kernel of shape \(6, 4\): .* no heads"
    ):
        sparse = sos.sparsify(attention(), technique)
    fit(compiled(sparse), *sequences(rng))
    masks = sos.weight_masks(sparse)
    assert masks.pop("dense/kernel").all()
    assert len(masks) == 4
    for name, mask in masks.items():
        of_heads = np.moveaxis(mask, 0 if "output" in name else 1, 0).reshape(6, -1)
        assert (of_heads == of_heads[:, :1]).all(), name
        assert of_heads[:, 0].sum() == 3, name


@pytest.mark.parametrize("budget", [sos.ERK(), None], ids=["erk", "uniform"])
def test_budgets_by_layer_are_rounded_to_channels_on_whichever_axes(rng, budget):
    """Also of the projections of attention, whose channels are on two axes."""
    technique = sos.MagnitudePruning(*NOW, **CHANNELS)
    model = attention()
    sparse = sos.sparsify(model, technique, budget=budget)
    planned = sos.planned_sparsities(model, technique, budget=budget)
    assert (len({*planned.values()}) > 1) == (budget is not None)
    fit(compiled(sparse), *sequences(rng))
    for name, mask in sos.weight_masks(sparse).items():
        path = name.rpartition("/")[0]
        channels = mask if "output" in name or path == "dense" else mask.reshape(6, 12)
        kept = channels_of(channels)
        assert (~kept).sum() == min(round(planned[path] * kept.size), kept.size - 1)


def test_channels_that_grow_are_those_of_the_largest_mean_gradients(rng):
    """At the second of four steps, 0.45 of 3 channels are dropped: one of them."""
    model = keras.Sequential([keras.Input((4,)), layers.Dense(6, use_bias=False)])
    technique = sos.RigL(0.5, 4, 2, drop_fraction=0.9, **CHANNELS)
    sparse = compiled(sos.sparsify(model, technique), sgd(0.0))
    (kernel,) = kernels_of(model).values()
    (before,) = map(channels_of, sos.weight_masks(sparse).values())
    assert before.sum() == 3
    begin_training(sparse)
    x, y = rng.normal(size=(8, 4)), rng.normal(size=(8, 6))
    for _ in range(2):
        sparse.train_on_batch(x.astype("float32"), y.astype("float32"))
    slope = np.abs(2 / y.size * x.T @ (x @ (kernel * before) - y)).mean(axis=0)
    expected = before.copy()
    expected[np.where(before, means(kernel), np.inf).argmin()] = False
    expected[np.where(expected, -np.inf, slope).argmax()] = True
    (found,) = map(channels_of, sos.weight_masks(sparse).values())
    np.testing.assert_array_equal(found, expected)
    # Four weights of each of three channels in both steps.
    used = sparse_layers(sparse)[0].technique
    assert used.kept_weights(np.repeat(found[None], 4, axis=0), 2) == 24


@BY_UNITS
@pytest.mark.parametrize("refit", [False, True])
def test_in_one_shot_channels_go_by_their_inputs(rng, refit):
    model = keras.Sequential([keras.Input((12,)), layers.Dense(8, name="a")])
    x = (rng.normal(size=(60, 12)) * np.exp(rng.normal(size=12))).astype("float32")
    sparse = sos.one_shot(model, sos.Wanda(0.5, **CHANNELS), x, refit=refit)
    kernel = kernels_of(model)["a/kernel"]
    scores = np.abs(kernel) * np.linalg.norm(x, axis=0)[:, None]
    kept = reference.without_lowest(scores.mean(axis=0), 4) != 0
    np.testing.assert_array_equal(
        channels_of(sos.weight_masks(sparse)["a/kernel"]), kept
    )
    # Each output has all of its inputs, or none: there is nothing to solve for.
    found = to_numpy(sos.strip(sparse).layers[-1].kernel)
    np.testing.assert_allclose(found, kernel * kept, rtol=1e-4, atol=1e-5)


def test_heads_that_go_in_one_shot_are_made_up_for(rng):
    model, x = attention(), rng.normal(size=(40, 3, 6)).astype("float32")
    technique = sos.Wanda(0.5, structure="heads")
    overrides = {"dense|query|key|value": None}
    errors = []
    for refit in (False, True):
        sparse = sos.one_shot(model, technique, x, None, overrides, refit=refit)
        (mask,) = (m for n, m in sos.weight_masks(sparse).items() if "output" in n)
        assert mask.all(axis=(1, 2)).sum() == (~mask).all(axis=(1, 2)).sum() == 3
        errors.append(np.square(outputs_of(sparse, x) - outputs_of(model, x)).sum())
    assert errors[1] < errors[0]


def test_before_training_channels_go_by_one_threshold(rng):
    x, y = images(rng)
    sparse = sos.one_shot(network(), sos.SNIP(0.5, **CHANNELS), (x, y), loss="mse")
    masks = sos.weight_masks(sparse).values()
    gone = sum((~mask).sum() for mask in masks if channels_of(mask).any())
    size = sum(mask.size for mask in masks)
    assert 0.5 * size - 24 < gone <= 0.5 * size


def test_structures_that_do_not_fit_are_refused(rng):
    model, conv = attention(), network()
    magnitude = sos.MagnitudePruning
    with pytest.raises(ValueError, match=r"structure must be one of weights.*'rows'"):
        magnitude(*NOW, structure="rows")
    with pytest.raises(ValueError, match="structure excludes block_size"):
        magnitude(*NOW, block_size=(2, 2), **CHANNELS)
    with pytest.raises(TypeError, match=r"structure must be one of .*Received: 3"):
        sos.RigL(0.5, 4, 2, structure=3)
    named = {"dense": magnitude(*NOW, structure="heads")}
    with pytest.raises(ValueError, match=r"dense/kernel of shape \(6, 4\): .*no heads"):
        sos.sparsify(model, magnitude(*NOW), named)
    with pytest.raises(ValueError, match=r"same axes.*overrides of None"):
        sos.sparsify(model, magnitude(*NOW, **CHANNELS), budget=sos.Global())
    deep = magnitude(*NOW, structure=Slices("channels", (-4,)))
    with pytest.raises(ValueError, match=r"last/kernel of shape \(16, 10\): .*rank"):
        sos.sparsify(conv, magnitude(*NOW), {"last": deep})
    with pytest.raises(ValueError, match=r"makes up for each .* Wanda does not"):
        sos.one_shot(conv, sos.SparseGPT(0.5, **CHANNELS), images(rng)[0])


ON_SLICES = [
    sos.MagnitudePruning(0.0, 2, 5, 2, **CHANNELS),
    sos.RigL(0.0, 5, 2, **CHANNELS),
    # A gate of log alpha 30 is 1, to the bit, whatever is drawn.
    sos.L0Regularization(0.0, initial_log_alpha=30.0, structure="inputs"),
]


@pytest.mark.parametrize("technique", ON_SLICES, ids=lambda t: t.technique_name())
def test_where_nothing_goes_training_is_that_of_the_dense_model_to_the_bit(technique):
    weights, losses = trained(technique)
    expected, dense_losses = trained(None)
    assert losses == dense_losses
    for found, value in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(found, value)


# Gates, noise and norms of groups.

GROUPS = [((5, 3), (-2,)), ((3, 3, 4, 5), (-1,)), ((4, 3, 2), (-2, -1))]


class Given:
    """Noise that is given."""

    def __init__(self, values):
        self._values = values

    def uniform(self, shape):
        assert tuple(shape) == self._values.shape
        return ops.convert_to_tensor(self._values)


def numeric_gradients(function, arguments):
    """Of the sum of a function in NumPy, by central differences."""
    for position, argument in enumerate(arguments):
        slope = np.empty(argument.shape)
        for place in np.ndindex(argument.shape):
            ends = []
            for step in (1e-5, -1e-5):
                moved = [x.copy() for x in arguments]
                moved[position][place] += step
                ends.append(function(*moved).sum())
            slope[place] = (ends[0] - ends[1]) / 2e-5
        yield slope


def assert_is(function, expected, *arguments):
    """Values and gradients are those of a function in NumPy, in float64."""
    given = [argument.astype("float32") for argument in arguments]
    exact = [argument.astype("float64") for argument in given]
    values = ops.convert_to_numpy(function(*map(ops.convert_to_tensor, given)))
    np.testing.assert_allclose(values, expected(*exact), rtol=2e-5, atol=1e-6)
    slopes = gradient(function, *given)
    for slope, value in zip(slopes, numeric_gradients(expected, exact), strict=True):
        np.testing.assert_allclose(slope, value, rtol=1e-3, atol=1e-4)


def assert_kept(technique, theta, state, kept):
    """What a technique keeps is what is not zero as deployed."""
    given = ops.convert_to_tensor(theta, "float32")
    np.testing.assert_array_equal(
        ops.convert_to_numpy(technique.keeps(given, state)), kept
    )
    deployed = ops.convert_to_numpy(technique.deployed_weight(given, state))
    np.testing.assert_array_equal(deployed != 0, kept)


@pytest.mark.parametrize(("shape", "axes"), GROUPS)
def test_gates_of_groups_are_those_of_the_formulas(rng, shape, axes):
    slices = Slices("channels", axes)
    technique = sos.L0Regularization(0.1, structure=slices)
    theta, units = rng.normal(size=shape), slices.unit_shape(shape)
    log_alpha = rng.uniform(-2, 2, units)
    uniform = rng.uniform(0.2, 0.8, units).astype("float32")

    def gated(theta, log_alpha):
        logistic = np.log(uniform / (1.0 - uniform.astype("float64")))
        s = scipy.special.expit((logistic + log_alpha) * 1.5)
        return theta * np.clip(s * 1.2 - 0.1, 0.0, 1.0)

    def number(theta, log_alpha):
        each = scipy.special.expit(log_alpha - 2 / 3 * np.log(0.1 / 1.1))
        return np.sum(np.broadcast_to(each, theta.shape))

    assert_is(
        lambda t, a: technique.training_weight(t, {"log_alpha": a}, 1, Given(uniform)),
        gated,
        theta,
        log_alpha,
    )
    assert_is(
        lambda t, a: technique.penalty(t, {"log_alpha": a}) + 0.0 * ops.sum(t),
        number,
        theta,
        log_alpha,
    )
    # Below log(0.1 / 1.1), a gate is closed.
    log_alpha.flat[0] = -2.5
    log_alpha.flat[1:] = np.maximum(log_alpha.flat[1:], -2.0)
    state = {"log_alpha": ops.convert_to_tensor(log_alpha, "float32")}
    kept = np.broadcast_to(log_alpha > -2.39, shape)
    assert_kept(technique, theta, state, kept)


@pytest.mark.parametrize(("shape", "axes"), GROUPS)
def test_noise_of_groups_is_that_of_the_formulas(rng, shape, axes):
    slices = Slices("channels", axes)
    technique = sos.VariationalDropout(0.1, structure=slices)
    others = tuple({*range(-len(shape), 0)} - {*axes})
    theta = rng.normal(size=shape)
    log_sigma2 = rng.uniform(-4, 3, slices.unit_shape(shape))

    def log_alpha(theta, log_sigma2):
        square = (theta**2).mean(axis=others, keepdims=True)
        return log_sigma2 - np.log(square + 1e-8)

    def divergence(theta, log_sigma2):
        a = log_alpha(theta, log_sigma2)
        gap = 0.63576 * scipy.special.expit(-(1.8732 + 1.48695 * a))
        each = gap + 0.5 * np.log1p(np.exp(-a))
        return np.sum(np.broadcast_to(each, theta.shape))

    assert_is(
        lambda t, s: technique.sigma2(t, {"log_sigma2": s}),
        lambda t, s: np.exp(log_alpha(t, s)) * (t**2 + 1e-8),
        theta,
        log_sigma2,
    )
    assert_is(
        lambda t, s: technique.penalty(t, {"log_sigma2": s}),
        divergence,
        theta,
        log_sigma2,
    )
    log_sigma2.flat[0] = 6.0
    state = {"log_sigma2": ops.convert_to_tensor(log_sigma2, "float32")}
    kept = np.broadcast_to(log_alpha(theta, log_sigma2) < 3.0, shape)
    assert 0 < kept.sum() < kept.size
    assert_kept(technique, theta, state, kept)


@pytest.mark.parametrize(("shape", "axes"), GROUPS)
def test_group_lasso_is_the_sum_of_the_norms(rng, shape, axes):
    slices = Slices("channels", axes)
    technique = sos.GroupLasso(0.3, threshold=0.1, structure=slices)
    others = tuple({*range(-len(shape), 0)} - {*axes})

    def penalty(theta):
        norms = np.sqrt((theta**2).sum(axis=others))
        return 0.3 * np.sqrt(theta.size / norms.size) * norms.sum()

    assert_is(lambda t: technique.penalty(t, {}), penalty, rng.normal(size=shape))
    theta = rng.normal(size=shape)
    first = tuple(0 if a in axes else slice(None) for a in range(-len(shape), 0))
    theta[first] = 0.0
    (slope,) = gradient(lambda t: technique.penalty(t, {}), theta.astype("float32"))
    assert np.isfinite(slope).all()
    assert not slope[first].any()
    theta[first] = 0.09
    expected = theta.astype("float32")
    expected[first] = 0.0
    deployed = technique.deployed_weight(ops.convert_to_tensor(theta, "float32"), {})
    np.testing.assert_array_equal(ops.convert_to_numpy(deployed), expected)


def test_groups_of_one_weight_are_variational_dropout_of_weights(rng):
    single = sos.VariationalDropout(0.1, clip_log_alpha=2.0)
    grouped = sos.VariationalDropout(
        0.1, clip_log_alpha=2.0, structure=Slices("inputs", (-2,))
    )
    theta = ops.convert_to_tensor(rng.normal(size=(20, 1)), "float32")
    state = {
        "log_sigma2": ops.convert_to_tensor(rng.uniform(-5, 5, (20, 1)), "float32")
    }
    for function in ("sigma2", "penalty", "keeps", "margin"):
        found, expected = (
            ops.convert_to_numpy(
                ops.cast(getattr(t, function)(theta, state), "float32")
            )
            for t in (grouped, single)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def rows_in_training(technique, size=1000):
    """A kernel, and what it is in a training step: outputs for unit vectors."""
    model = keras.Sequential([keras.Input((size,)), layers.Dense(2, use_bias=False)])
    (kernel,) = kernels_of(model).values()
    sparse = sos.sparsify(model, technique)
    begin_training(sparse)
    return kernel, outputs_of(sparse, np.eye(size, dtype="float32"), training=True)


def test_one_gate_is_drawn_for_each_input_as_often_open_as_its_probability_says():
    """Of 1,000 gates; Hoeffding's bound is passed once in a million times.

    `2 exp(-2 n t^2) = 1e-6` at t = 0.0852.
    """
    technique = sos.L0Regularization(0.1, initial_log_alpha=0.0, structure="inputs")
    kernel, rows = rows_in_training(technique)
    gates = rows / kernel
    np.testing.assert_allclose(gates[:, 0], gates[:, 1], rtol=1e-4, atol=1e-6)
    probability = scipy.special.expit(-2 / 3 * np.log(0.1 / 1.1))
    assert abs((gates[:, 0] > 0).mean() - probability) < 0.0852


def test_weights_of_a_group_have_one_alpha_and_noise_of_their_own():
    """Squares of 2,000 standard normal numbers, within 1e-6 of their distribution."""
    technique = sos.VariationalDropout(0.1, initial_log_sigma2=-6.0, structure="inputs")
    kernel, rows = rows_in_training(technique)
    alpha = np.exp(-6.0) / ((kernel**2).mean(axis=1, keepdims=True) + 1e-8)
    alpha = np.clip(alpha, np.exp(-8), np.exp(8))
    noise = (rows - kernel) / np.sqrt(alpha * (kernel**2 + 1e-8) + 1e-8)
    low, high = scipy.stats.chi2.ppf([5e-7, 1 - 5e-7], noise.size)
    assert low < np.square(noise).sum() < high
    # Of independent numbers, products have mean 0 and variance 1.
    assert abs((noise[:, 0] * noise[:, 1]).mean()) < 6.0 / np.sqrt(len(noise))


LEARNED = {
    "l0": (sos.L0Regularization(1e-3, **CHANNELS), "log_alpha", -9.0),
    "variational": (sos.VariationalDropout(1e-3, **CHANNELS), "log_sigma2", 9.0),
}


@OF_GROUPS
@pytest.mark.parametrize("name", LEARNED)
def test_gated_channels_are_zero_in_a_stripped_model_and_come_back_from_files(
    rng, tmp_path, name
):
    technique, attribute, gone = LEARNED[name]
    sparse = compiled(sos.sparsify(network(), technique))
    fit(sparse, *images(rng))
    for layer in sparse_layers(sparse):
        parameter = getattr(layer, attribute)
        channels = tuple(parameter.shape)
        assert channels == (1,) * (len(channels) - 1) + (layer.kernel.shape[-1],)
        value = to_numpy(parameter).copy()
        value[..., 1:3] = gone
        parameter.assign(value)
    sparse.save(tmp_path / "model.keras")
    for model in (sparse, keras.models.load_model(tmp_path / "model.keras")):
        for mask in sos.weight_masks(model).values():
            assert np.flatnonzero(~channels_of(mask)).tolist() == [1, 2]
        stripped = sos.strip(model)
        x = images(rng)[0]
        np.testing.assert_allclose(
            outputs_of(stripped, x), outputs_of(sparse, x), rtol=1e-4, atol=1e-5
        )
        for kernel in kernels_of(stripped).values():
            assert np.flatnonzero(~channels_of(kernel != 0)).tolist() == [1, 2]
    fit(compiled(model), *images(rng))


@OF_GROUPS
@pytest.mark.parametrize("learned", [sos.L0Regularization, sos.VariationalDropout])
def test_a_share_of_the_groups_is_steered_to_go(rng, learned):
    """By the margin of the third of seven groups, with a penalty of all weights."""
    technique = learned(
        sparsity=0.4, ramp_length=100, structure=Slices("inputs", (-2,))
    )
    theta, (name,) = rng.normal(size=(7, 5)), technique.parameter()
    parameter = rng.uniform(-2, 2, (7, 1))
    margins = parameter - np.log(0.1 / 1.1)
    if learned is sos.VariationalDropout:
        square = (theta**2).mean(axis=1, keepdims=True)
        margins = 3.0 - parameter + np.log(square + 1e-8)
    state = {name: parameter, "multiplier": 1e-4, "margin": 1.5}
    theta = ops.convert_to_tensor(theta, "float32")
    state = {key: ops.convert_to_tensor(x, "float32") for key, x in state.items()}
    (new,) = technique.renewed([(theta, state, (0, 0))], 3)
    now = np.sort(margins, axis=None)[2]
    np.testing.assert_allclose(ops.convert_to_numpy(new["margin"]), now, rtol=1e-4)
    # After four of ten renewals, sixty steps are left.
    expected = reference_weight(1e-4, 1.5, now, 60, theta.shape[0] * 5)
    np.testing.assert_allclose(
        ops.convert_to_numpy(new["multiplier"]), expected, rtol=1e-3
    )


@OF_GROUPS
def test_group_lasso_takes_inputs_away_that_nothing_depends_on(rng):
    x = rng.normal(size=(64, 6)).astype("float32")
    y = x[:, :2] @ rng.normal(size=(2, 3)).astype("float32")
    model = keras.Sequential([keras.Input((6,)), layers.Dense(3, name="a")])
    sparse = sos.sparsify(model, sos.GroupLasso(0.01, threshold=0.02))
    fit(compiled(sparse, sgd(0.3)), x, y, epochs=30, batch_size=64)
    (mask,) = sos.weight_masks(sparse).values()
    assert mask.all(axis=1).tolist() == [True, True, False, False, False, False]
    assert (mask.all(axis=1) == mask.any(axis=1)).all()


def test_layers_without_units_stay_dense_or_are_refused(rng):
    tokens = keras.Input((5,), dtype="int32")
    x = layers.Embedding(7, 4, name="table")(tokens)
    x = layers.SeparableConv1D(6, 2, name="separable")(x)
    model = keras.Model(tokens, layers.LSTM(3, name="recurrent")(x))
    gates = sos.VariationalDropout(0.1, structure="inputs")
    with pytest.warns(UserWarning, match=r"table/embeddings .*no inputs.*recurrent"):
        sparse = sos.sparsify(model, gates)
    ids = rng.integers(0, 7, (8, 5))
    fit(compiled(sparse), ids, np.ones((8, 3), "float32"))
    # Of a separable convolution, the part that sums over channels is gated.
    report = {
        layer.name: layer.technique for layer in sos.sparsity_report(sparse).layers
    }
    learned = [name for name, technique in report.items() if technique != "dense"]
    assert learned == ["separable/pointwise_kernel"]
    for name in ("table", "recurrent"):
        with pytest.raises(
            ValueError, match=rf"mask {name}/.* no inputs that are known"
        ):
            sos.sparsify(model, sos.MagnitudePruning(*NOW), {name: gates})


def normalized():
    model = keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            layers.Conv2D(6, 3, name="a"),
            layers.BatchNormalization(name="of_a"),
            layers.Conv2D(5, 1, name="b"),
            layers.BatchNormalization(center=False, name="of_b"),
            layers.BatchNormalization(scale=False, name="unscaled"),
        ]
    )
    rng = np.random.default_rng(3)
    for layer in (model.get_layer("of_a"), model.get_layer("of_b")):
        for weight in layer.trainable_weights:
            weight.assign(rng.normal(size=tuple(weight.shape)))
    return model


@pytest.mark.feature("slim: channels that batch normalization scales down")
def test_channels_of_the_smallest_scales_of_the_model_are_slimmed(rng):
    model = normalized()
    scales = [to_numpy(model.get_layer(n).gamma) for n in ("of_a", "of_b")]
    expected = reference.without_lowest_of_all([*map(np.abs, scales)], 6)
    slim = sos.slim(model, 0.55)
    for name, scale, kept in zip(("of_a", "of_b"), scales, expected, strict=True):
        layer = slim.get_layer(name)
        np.testing.assert_array_equal(to_numpy(layer.gamma), scale * kept)
        if getattr(layer, "beta", None) is not None:
            np.testing.assert_array_equal(to_numpy(layer.beta) != 0, kept != 0)
    # What goes gives nothing, whatever the filters before it are.
    x = rng.normal(size=(3, 4, 4, 2)).astype("float32")
    before = outputs_of(slim, x)
    kernel = slim.get_layer("a").kernel
    kernel.assign(to_numpy(kernel) * np.where(expected[0], 1.0, 7.0))
    np.testing.assert_allclose(outputs_of(slim, x), before, rtol=1e-5, atol=1e-6)
    assert to_numpy(model.get_layer("of_a").gamma).all()
    with pytest.raises(
        ValueError, match=r"No BatchNormalization of model .* has a scale"
    ):
        sos.slim(zoo.perceptron(), 0.5)
    with pytest.raises(ValueError, match="sparsity must be at least 0"):
        sos.slim(model, 1.0)
