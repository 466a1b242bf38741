"""One threshold over all layers: the budget that follows from the scores."""

import copy
import dataclasses

import numpy as np
import pytest

from tests.flavour import (
    BACKEND,
    compiled,
    fit,
    keras,
    plain_part,
    sgd,
    sites,
    sos,
    sparse_layers,
    steps_of,
    to_numpy,
)
from tests.shared import reference, zoo

NOW = sos.MagnitudePruning(0.6, begin_step=1, end_step=1, frequency=1)
ALL_GO = {
    "hidden/kernel": np.zeros((6, 8), bool),
    "logits/kernel": np.zeros((8, 3), bool),
}
RAMP = sos.MagnitudePruning(0.6, begin_step=1, end_step=6, frequency=1)

pytestmark = pytest.mark.feature("budgets: one threshold over all layers")


@pytest.fixture
def data():
    return zoo.data(np.random.default_rng(2))


def scaled(make=zoo.perceptron, seed=4):
    """A model whose layers have weights of very different sizes."""
    model, rng = make(), np.random.default_rng(seed)
    for place, site in enumerate(sites(model)):
        for variable in site.weights.values():
            scale = 4.0 ** -(place % 5)
            variable.assign(scale * rng.normal(size=tuple(variable.shape)))
    return model


def weights_of(model):
    """By the names of reports."""
    return {
        f"{site.path}/{name}": to_numpy(variable).astype("float64")
        for site in sites(model)
        for name, variable in site.weights.items()
    }


def pruned(model, technique=NOW, overrides=None, **arguments):
    sparse = sos.sparsify(model, technique, overrides, sos.Global())
    arguments = {"optimizer": sgd(1e-3), "run_eagerly": False} | arguments
    return compiled(sparse, **arguments)


def state(model):
    return [to_numpy(variable).copy() for variable in model.variables]


def assert_same_state(model, expected):
    for value, other in zip(state(model), expected, strict=True):
        np.testing.assert_array_equal(value, other)


def zeros(model):
    return {layer.name: layer.zeros for layer in sos.sparsity_report(model).layers}


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        pytest.param(zoo.subclassed, {}, marks=pytest.mark.any_backend),
        pytest.param(
            zoo.perceptron,
            {"jit_compile": True},
            # torch.compile takes most of a minute.
            marks=[pytest.mark.slow] * (BACKEND == "torch"),
        ),
    ],
)
def test_the_lowest_weights_of_every_kind_of_model_go(make, arguments, data):
    model = scaled(make)
    sparse = pruned(model, **arguments)
    weights = weights_of(model)
    fit(sparse, *data, batch_size=8)
    size = sum(w.size for w in weights.values())
    expected = reference.without_lowest_of_all(
        [np.abs(w) for w in weights.values()], round(0.6 * size)
    )
    masks = sos.weight_masks(sparse)
    for name, mask in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(masks[name], mask != 0, name)
    shares = [1 - mask.mean() for mask in expected]
    assert max(shares) - min(shares) > 0.4
    assert masks.keys() == sos.weight_masks(sos.strip(sparse)).keys()
    assert sum(zeros(sos.strip(sparse)).values()) == round(0.6 * size)


@pytest.mark.parametrize("structure", ["weights", "channels"])
def test_of_flops_the_lowest_go_that_are_used_in_so_large_a_share(structure, rng):
    conv = keras.layers.Conv2D(6, 3, padding="same", name="conv")
    pool, last = keras.layers.GlobalMaxPool2D(), keras.layers.Dense(9, name="last")
    model = keras.Sequential([keras.layers.Input((4, 4, 2)), conv, pool, last])
    technique = dataclasses.replace(NOW, structure=structure)
    sparse = compiled(sos.sparsify(model, technique, budget=sos.Global(of="flops")))
    units = []
    for weight, uses in zip(weights_of(model).values(), (16, 1), strict=True):
        rows = np.abs(weight).reshape(-1, weight.shape[-1])
        scores = rows.mean(axis=0) if structure == "channels" else rows.ravel()
        price = uses * rows.size // scores.size
        # The highest one of each stays.
        units += [(score, price) for score in np.sort(scores)[:-1]]
    prices = np.cumsum([price for _, price in sorted(units)])
    dense = sos.count_flops(model).dense
    target = round(0.6 * dense / 2)
    expected = prices[prices <= target][-1]
    fit(sparse, rng.normal(size=(8, 4, 4, 2)), rng.normal(size=(8, 9)), batch_size=8)
    assert dense - sos.count_flops(sparse).sparse == 2 * expected
    assert target - max(price for _, price in units) < expected <= target


@pytest.mark.any_backend
def test_blocks_of_all_layers_are_compared(data):
    technique = sos.MagnitudePruning(0.5, 1, 1, 1, block_size=(2, 1))
    model = scaled()
    sparse = pruned(model, technique)
    fit(sparse, *data, batch_size=8)
    scores = [
        np.abs(w).reshape(w.shape[0] // 2, 2, -1).mean(axis=1)
        for w in weights_of(model).values()
    ]
    expected = reference.without_lowest_of_all(scores, 18)
    for mask, blocks in zip(sos.weight_masks(sparse).values(), expected, strict=True):
        np.testing.assert_array_equal(mask, np.repeat(blocks, 2, axis=0) != 0)


@pytest.mark.any_backend
def test_layers_with_several_weights_have_a_threshold_for_each_of_them(rng):
    def recurrent():
        x = keras.Input((3, zoo.FEATURES))
        y = keras.layers.LSTM(4, name="lstm", return_sequences=True)(x)
        y = keras.layers.SeparableConv1D(5, 2, name="separable")(y)
        y = keras.layers.Dense(zoo.CLASSES, name="head")(keras.layers.Flatten()(y))
        return keras.Model(x, y)

    model = scaled(recurrent)
    sparse = pruned(model)
    inputs = rng.normal(size=(4, 3, zoo.FEATURES)).astype("float32")
    fit(sparse, inputs, np.ones((4, zoo.CLASSES), "float32"))
    size = sum(layer.size for layer in sos.sparsity_report(sparse).layers)
    assert sum(zeros(sparse).values()) == round(0.6 * size)
    masks, weights = sos.weight_masks(sparse), weights_of(model)
    free = [name for name in weights if "depthwise" not in name]
    gone = max(np.abs(weights[n])[~masks[n]].max(initial=0) for n in free)
    kept = min(np.abs(weights[n])[masks[n]].min() for n in free if masks[n].sum() > 1)
    assert gone < kept


@pytest.mark.slow
@pytest.mark.any_backend
def test_a_loaded_model_trains_on_to_the_bit(data, tmp_path):
    model = pruned(scaled(zoo.subclassed), RAMP, optimizer=sgd(1e-3, momentum=0.9))
    fit(model, *data)
    # In the process there are others like it.
    model.save(tmp_path / "model.keras")
    other = keras.models.load_model(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    fit(model, *data, epochs=3)
    fit(loaded, *data, epochs=3)
    assert steps_of(loaded) == {8}
    assert_same_state(loaded, state(model))
    size = sum(layer.size for layer in sos.sparsity_report(loaded).layers)
    assert sum(zeros(loaded).values()) == round(0.6 * size)
    assert steps_of(other) == {2}


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("copied", "make"),
    [
        pytest.param(keras.models.clone_model, zoo.functional, marks=pytest.mark.slow),
        (copy.deepcopy, zoo.perceptron),
    ],
)
def test_a_copy_prunes_by_its_own_weights(copied, make, data):
    sparse = pruned(scaled(make), RAMP)
    duplicate = compiled(copied(sparse), sgd(1e-3), run_eagerly=False)
    for place, layer in enumerate(sparse_layers(duplicate)):
        kernel = plain_part(layer).kernel
        kernel.assign(0.1 * 4.0 ** (place % 3) * to_numpy(kernel))
    before = state(sparse)
    fit(duplicate, *data, epochs=4)
    assert_same_state(sparse, before)
    size = sum(layer.size for layer in sos.sparsity_report(sparse).layers)
    assert sum(zeros(duplicate).values()) == round(0.6 * size)
    fit(sparse, *data, epochs=4)
    assert zeros(sparse) != zeros(duplicate)
    assert sum(zeros(sparse).values()) == round(0.6 * size)


@pytest.mark.any_backend
def test_a_pruned_model_within_another_one_is_pruned_as_a_whole(data):
    sparse = pruned(scaled())
    expected = sos.planned_sparsities(scaled(), NOW, budget=sos.Global())
    x = keras.Input((zoo.FEATURES,))
    outer = keras.Model(x, keras.layers.Dense(2, name="after")(sparse(x)))
    fit(compiled(outer, run_eagerly=False), data[0], data[1][:, :2], batch_size=8)
    found = {x.name: x.sparsity for x in sos.sparsity_report(sparse).layers}
    assert found == pytest.approx({f"{n}/kernel": s for n, s in expected.items()})


def test_a_part_of_the_model_by_itself_is_an_error(data):
    sparse = pruned(scaled())
    x = keras.Input((zoo.FEATURES,))
    part = compiled(keras.Model(x, sparse.get_layer(index=0)(x)))
    with pytest.raises(ValueError, match=r"The 2 pruned layers of model 'perceptron'"):
        fit(part, data[0], np.ones((8, 8), "float32"))


@pytest.mark.any_backend
def test_two_copies_in_one_model_are_an_error(data):
    one = pruned(scaled())
    other = keras.models.clone_model(one)
    x = keras.Input((zoo.FEATURES,))
    y = keras.layers.Add()([one(x), keras.Sequential([other], name="other")(x)])
    both = compiled(keras.Model(x, y))
    with pytest.raises(ValueError, match=r"Received: 4 of these layers: \['hidden"):
        fit(both, *data)


@pytest.mark.any_backend
def test_layers_that_other_calls_use_first_count_as_one_step(data):
    """A layer that is used twice is renewed once, before its first use."""
    x = keras.Input((zoo.FEATURES,))
    late = keras.layers.Dense(zoo.FEATURES, name="late")
    early = keras.layers.Dense(zoo.FEATURES, name="early")
    y = late(early(late(x)))
    model = scaled(lambda: keras.Model(x, y, name="loop"))
    sparse = pruned(model, RAMP)
    fit(sparse, data[0], data[0], epochs=4)
    assert steps_of(sparse) == {8}
    assert sum(zeros(sparse).values()) == round(0.6 * 72)


@pytest.mark.any_backend
def test_planned_are_the_sparsities_of_the_scores_as_they_are():
    model = scaled()
    weights = weights_of(model)
    expected = reference.without_lowest_of_all(
        [np.abs(w) for w in weights.values()], round(0.6 * 72)
    )
    planned = sos.planned_sparsities(model, RAMP, budget=sos.Global())
    assert list(planned) == ["hidden", "logits"]
    assert list(planned.values()) == pytest.approx([1 - m.mean() for m in expected])
    assert planned["logits"] > planned["hidden"] + 0.3


@pytest.mark.any_backend
def test_training_operations_add_up_to_those_of_the_ramp(data):
    sparse = pruned(scaled(), RAMP)
    fit(sparse, *data, epochs=4)
    counted = sos.count_training_flops(sparse, 8).layers
    kept = sum(
        72 - round(reference.cubic_sparsity(t, 0.6, 1, 6) * 72) for t in range(1, 9)
    )
    found = sum(counted[f"{n}/kernel"].sparse for n in ("hidden", "logits"))
    # Three times a multiplication and an addition for each weight that is there.
    assert found == pytest.approx(3 * 2 * kept, abs=12)


@pytest.mark.parametrize(
    ("technique", "overrides", "message"),
    [
        (
            NOW.with_sparsity(0.8),
            {"hidden": None},
            r"Global cannot make 80\.00%.*31\.94% at most",
        ),
        (
            NOW.with_sparsity(0.1),
            {"hidden": 0.5},
            r"Global cannot make .* but 33\.33% at least",
        ),
        (
            sos.MagnitudePruning(0.5, 1, 1, 1, sparsity_m_by_n=(1, 2)),
            {},
            r"one threshold .* has no choice.*\(1, 2\)",
        ),
        (sos.L0Regularization(1e-3), {}, "target sparsity.*l0_regularization"),
        (sos.VariationalDropout(1e-3), {}, "target sparsity.*variational_dropout"),
        (sos.FixedMask(ALL_GO), {}, "target sparsity.*fixed_mask"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(technique, overrides, message):
    with pytest.raises(ValueError, match=message):
        sos.sparsify(zoo.perceptron(), technique, overrides, sos.Global())
