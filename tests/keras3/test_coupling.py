"""Channels that a model ties together: one score, one decision, and taken out whole."""

import keras
import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.companions import SharedThreshold
from state_of_sparsity.structures import Slices
from tests.flavour import compiled, fit, outputs_of, sparse_layers

layers = keras.layers
pytestmark = [
    pytest.mark.feature("structures: channels that are tied have one score"),
    pytest.mark.any_backend,
]
NOW = {"begin_step": 0, "end_step": 1, "frequency": 1, "structure": "channels"}
HALF = sos.MagnitudePruning(0.5, **NOW)
DENSE = {"logits": None}


def conv(filters, name, size=3, **arguments):
    arguments = {"padding": "same", "use_bias": False, "name": name} | arguments
    return layers.Conv2D(filters, size, **arguments)


def functional(build):
    x = keras.Input((6, 6, 2))
    y = layers.GlobalAveragePooling2D()(build(x))
    return keras.Model(x, layers.Dense(3, name="logits")(y))


def residual(x):
    x = conv(8, "a")(x)
    y = conv(8, "b")(layers.ReLU()(x))
    return layers.ReLU()(layers.Add()([x, y]))


def concatenated(x):
    y = layers.Concatenate()([conv(4, "a")(x), conv(6, "b", 1)(x)])
    return layers.Add()([layers.ReLU()(y), conv(10, "c")(x)])


def excited(x):
    x = conv(8, "a", activation="relu")(x)
    y = layers.GlobalAveragePooling2D(keepdims=True)(x)
    return x * conv(8, "gate", 1)(conv(4, "squeeze", 1, activation="relu")(y))


def depthwise(x):
    x = conv(8, "a", 1)(x)
    y = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="each")(x)
    y = conv(8, "b", 1)(layers.ReLU()(y))
    return layers.Add()([x, y])


def transposed(x):
    up = layers.Conv2DTranspose(8, 3, padding="same", use_bias=False, name="a")
    return layers.Add()([up(x), conv(8, "b", 1)(x)])


# By builder, the weights of each pool: layers, and of each the first channel of it.
CASES = {
    residual: [{"a": 0, "b": 0}],
    concatenated: [{"a": 0, "c": 0}, {"b": 0, "c": 4}],
    excited: [{"a": 0, "gate": 0}, {"squeeze": 0}],
    depthwise: [{"a": 0, "b": 0}],
    transposed: [{"a": 0, "b": 0}],
}


def kernel(model, name):
    layer = model.get_layer(name)
    value = keras.ops.convert_to_numpy(layer.kernel).astype("float64")
    is_transposed = isinstance(layer, layers.Conv2DTranspose)
    return value.swapaxes(-1, -2) if is_transposed else value


def masks_of(sparse):
    """By sparse layer, which channels are kept; each as a whole."""
    found, masks = {}, sos.weight_masks(sparse)
    for layer in sparse_layers(sparse):
        mask = masks[f"{layer.name}/kernel"]
        is_transposed = isinstance(layer, layers.Conv2DTranspose)
        rows = np.moveaxis(mask, -2 if is_transposed else -1, 0)
        rows = rows.reshape(len(rows), -1)
        assert (rows.all(axis=1) | ~rows.any(axis=1)).all()
        found[layer.name] = rows.all(axis=1)
    return found


def check_lowest_go(model, masks, pools, share=0.5):
    for starts in pools:
        kernels = {name: kernel(model, name) for name in starts}
        number = min(k.shape[-1] for k in kernels.values())
        parts = {
            name: k[..., starts[name] : starts[name] + number]
            for name, k in kernels.items()
        }
        rows = [np.abs(part).reshape(-1, number) for part in parts.values()]
        order = np.concatenate(rows).mean(axis=0).argsort()
        expected = np.ones(number, bool)
        expected[order[: round(share * number)]] = False
        for name, start in starts.items():
            kept = masks[name][start : start + number]
            np.testing.assert_array_equal(kept, expected)


def check_shrinks(masked, inputs):
    smaller = sos.shrink(masked)
    expected = outputs_of(masked, inputs)
    np.testing.assert_allclose(outputs_of(smaller, inputs), expected, atol=1e-5)
    return smaller


def sizes(model):
    """By layer, how many channels a convolution gives."""
    return {x.name: x.filters for x in model.layers if getattr(x, "filters", None)}


@pytest.mark.parametrize("build", CASES)
def test_in_one_shot_units_of_the_lowest_means_go_and_are_taken_out(build, rng):
    model = functional(build)
    sparse = sos.one_shot(model, HALF, overrides=DENSE)
    masks = masks_of(sparse)
    check_lowest_go(model, masks, CASES[build])
    smaller = check_shrinks(sos.strip(sparse), rng.normal(size=(2, 6, 6, 2)))
    assert {n: sizes(smaller)[n] for n in masks} == {
        n: m.sum() for n, m in masks.items()
    }


@pytest.mark.parametrize("build", [residual, concatenated])
@pytest.mark.parametrize("budget", [None, sos.Global()])
def test_pruning_in_training_keeps_tied_channels_together(build, budget, rng, tmp_path):
    model = functional(build)
    technique = sos.MagnitudePruning(0.5, 0, 4, 2, structure="channels")
    sparse = compiled(sos.sparsify(model, technique, DENSE, budget), run_eagerly=False)
    data = rng.normal(size=(8, 6, 6, 2)), rng.normal(size=(8, 3))
    fit(sparse, *data)
    sparse.save(tmp_path / "model.keras")
    loaded = compiled(keras.saving.load_model(tmp_path / "model.keras"))
    fit(sparse, *data)
    fit(loaded, *data)
    masks = masks_of(sparse)
    assert 0 < sum(m.sum() for m in masks.values()) < sum(map(len, masks.values()))
    for starts in CASES[build]:
        number = min(len(masks[name]) for name in starts)
        parts = [masks[name][i : i + number] for name, i in starts.items()]
        for part in parts:
            np.testing.assert_array_equal(part, parts[0])
    for name, mask in masks_of(loaded).items():
        np.testing.assert_array_equal(mask, masks[name])
    check_shrinks(sos.strip(sparse), data[0])


def test_all_criteria_of_one_shot_decide_once(rng):
    model = functional(concatenated)
    inputs, targets = rng.normal(size=(16, 6, 6, 2)), rng.normal(size=(16, 3))
    structure, snip = (
        {"structure": "channels"},
        {"data": (inputs, targets), "loss": "mse"},
    )
    for technique, given in (
        (sos.RandomPruning(0.5, **NOW), {}),
        (sos.Wanda(0.5, **structure), {"data": inputs}),
        (sos.SNIP(0.5, **structure), snip),
        (sos.SNIP(0.5, **structure), snip | {"budget": sos.Uniform()}),
        (sos.SynFlow(0.5, **structure), {}),
    ):
        masks = masks_of(sos.one_shot(model, technique, overrides=DENSE, **given))
        np.testing.assert_array_equal(masks["c"], [*masks["a"], *masks["b"]])
        assert 0 < masks["c"].sum() < 10


def test_wanda_scores_units_by_what_their_layers_are_given(rng):
    model = functional(lambda x: layers.Add()([conv(8, "a", 1)(x), conv(8, "b", 1)(x)]))
    inputs = rng.normal(size=(16, 6, 6, 2)) * [1, 9]
    technique = sos.Wanda(0.5, structure="channels")
    sparse = sos.one_shot(model, technique, inputs, overrides=DENSE, refit=False)
    strengths = np.sqrt(np.square(inputs).mean(axis=(0, 1, 2)))
    scores = [np.abs(kernel(model, name)[0, 0]) * strengths[:, None] for name in "ab"]
    order = np.concatenate(scores).mean(axis=0).argsort()
    for mask in masks_of(sparse).values():
        np.testing.assert_array_equal(np.flatnonzero(~mask), np.sort(order[:4]))


def test_what_has_no_scores_by_data_goes_by_magnitude_with_all_of_its_unit(rng):
    x = keras.Input((6, 6, 2))
    separable = layers.SeparableConv2D(8, 1, use_bias=False, name="b")
    y = layers.Add()([conv(8, "a", 1)(x), separable(x)])
    model = keras.Model(x, layers.Dense(3, name="logits")(y))
    technique, data = (
        sos.Wanda(0.5, structure="channels"),
        rng.normal(size=(4, 6, 6, 2)),
    )
    with pytest.warns(UserWarning, match=r"by magnitude.*: a/kernel, b/pointwise_ker"):
        sparse = sos.one_shot(model, technique, data, overrides=DENSE, refit=False)
    value = keras.ops.convert_to_numpy(separable.pointwise_kernel)
    rows = np.concatenate([kernel(model, "a")[0, 0], value[0, 0]])
    gone = np.sort(np.abs(rows).mean(axis=0).argsort()[:4])
    masks = sos.weight_masks(sparse)
    for name in ("a/kernel", "b/pointwise_kernel"):
        assert (
            np.flatnonzero(~masks[name].any(axis=(0, 1, 2))).tolist() == gone.tolist()
        )


def test_a_layer_that_is_used_twice_is_one_layer(rng):
    shared = conv(8, "a")

    def twice(x):
        return layers.Add()([shared(x), shared(layers.ReLU()(x)), conv(8, "b")(x)])

    model = functional(twice)
    sparse = compiled(sos.sparsify(model, HALF, DENSE))
    data = rng.normal(size=(4, 6, 6, 2)), rng.normal(size=(4, 3))
    fit(sparse, *data)
    masks = masks_of(sparse)
    assert masks["a"].sum() == 4
    np.testing.assert_array_equal(masks["a"], masks["b"])
    smaller = check_shrinks(sos.strip(sparse), data[0])
    assert sizes(smaller) == {"a": 4, "b": 4}
    assert [x.index for x in sparse_layers(sparse)] == [0, 1]


@pytest.mark.parametrize("build", CASES)
def test_a_global_budget_of_flops_is_met_to_the_unit(build):
    model = functional(build)
    budget = sos.Global(of="flops")
    sparse = sos.one_shot(model, HALF, budget=budget, overrides=DENSE)
    flops, masks = sos.count_flops(sparse), masks_of(sparse)
    dense = flops.layers
    prices = [
        sum(dense[f"{name}/kernel"].dense / len(masks[name]) for name in starts)
        for starts in CASES[build]
    ]
    missing = (flops.sparse - flops.dense / 2) / max(prices)
    assert 0 <= missing < 1
    assert sos.count_flops(sos.shrink(sos.strip(sparse))).dense <= flops.sparse


def test_flops_of_the_smaller_model_are_those_of_the_budget():
    def parallel(x):
        y = conv(8, "b", 5)(x)
        return layers.Concatenate()(
            [layers.Add()([conv(8, "a")(x), y]), conv(6, "c")(x)]
        )

    model = functional(parallel)
    for budget in (
        sos.Global(of="flops"),
        sos.Uniform(of="flops"),
        sos.ERK(of="flops"),
    ):
        sparse = sos.one_shot(model, HALF, budget=budget, overrides=DENSE)
        smaller = sos.shrink(sos.strip(sparse))
        unit = 36 * 2 * 2 * (9 + 25)
        # All of these layers see the input, of which nothing goes; the last one is what
        # its inputs leave of it.
        found, dense = (
            sum(f.dense for name, f in m.layers.items() if name != "logits/kernel")
            for m in map(sos.count_flops, (smaller, model))
        )
        target = sos.count_flops(model).dense / 2
        total = found + sos.count_flops(model).layers["logits/kernel"].dense
        assert abs(total - target) < unit
        assert found < dense


def test_one_threshold_ranks_units_of_all_layers():
    model = functional(residual)
    model.get_layer("b").kernel.assign(model.get_layer("b").kernel * 1e-3)
    x = layers.Dense(6, name="last", use_bias=False)(model.layers[-2].output)
    model = keras.Model(model.input, layers.Dense(3, name="logits")(x))
    sparse = sos.one_shot(model, HALF, budget=sos.Global(), overrides=DENSE)
    units = np.concatenate([np.abs(kernel(model, n)).reshape(-1, 8) for n in "ab"])
    last = np.abs(kernel(model, "last")).mean(axis=0)
    masks = masks_of(sparse)
    np.testing.assert_array_equal(masks["a"], masks["b"])
    lowest = min(units.mean(axis=0)[masks["a"]])
    assert units.mean(axis=0)[~masks["a"]].max() < lowest
    # A unit of the residual sum counts 90 weights, and one of the last layer 8.
    zeros = 90 * (~masks["a"]).sum() + 8 * (~masks["last"]).sum()
    target = (720 + 48 + 18) / 2
    assert target - 90 < zeros <= target
    gone = last[~masks["last"]]
    assert not len(gone) or gone.max() <= last[masks["last"]].min()


def test_tied_layers_get_one_sparsity_of_a_budget_by_layer():
    model = functional(residual)
    by_layer = sos.MagnitudePruning(
        0.5, **NOW | {"structure": Slices("channels", coupled=False)}
    )
    apart = sos.planned_sparsities(model, by_layer, DENSE, sos.ERK())
    together = sos.planned_sparsities(model, HALF, DENSE, sos.ERK())
    weights = {"a": 144, "b": 576}
    assert together["a"] == together["b"]
    assert apart["a"] != apart["b"]
    assert sum(weights[n] * apart[n] for n in "ab") == pytest.approx(
        720 * together["a"]
    )


def test_training_counts_what_the_masks_of_a_step_keep(rng):
    model, found = functional(residual), []
    for coupled in (None, False):
        structure = Slices("channels", coupled=coupled)
        technique = sos.MagnitudePruning(0.5, 0, 4, 2, structure=structure)
        sparse = compiled(sos.sparsify(model, technique, DENSE))
        fit(sparse, rng.normal(size=(8, 6, 6, 2)), rng.normal(size=(8, 3)), epochs=2)
        found.append(sos.count_training_flops(sparse, 4).sparse)
    # Of each step, the units that are masked are known up to rounding.
    unit = 3 * 2 * 36 * (18 + 72)
    assert found[0] == pytest.approx(found[1], abs=4 * unit / 2)
    assert found[0] < sos.count_training_flops(model, 4).dense - 4 * unit


def test_what_is_pruned_otherwise_or_stays_is_by_itself(rng):
    model = functional(residual)
    masks = masks_of(sos.one_shot(model, HALF, overrides=DENSE | {"b": 0.25}))
    check_lowest_go(model, masks, [{"a": 0}])
    check_lowest_go(model, masks, [{"b": 0}], 0.25)
    apart = sos.MagnitudePruning(
        0.5, **NOW | {"structure": Slices("channels", coupled=False)}
    )
    masks = masks_of(sos.one_shot(model, apart, overrides=DENSE))
    check_lowest_go(model, masks, [{"a": 0}, {"b": 0}])
    # The model returns what it adds up.
    x = keras.Input((6, 6, 2))
    model = keras.Model(x, layers.Add()([conv(8, "a")(x), conv(8, "b")(x)]))
    check_lowest_go(model, masks_of(sos.one_shot(model, HALF)), [{"a": 0}, {"b": 0}])


def test_a_part_by_itself_is_an_error(rng):
    sparse = sos.sparsify(functional(residual), HALF, DENSE)
    part = compiled(keras.Model(sparse.input, sparse.get_layer("a").output))
    with pytest.raises(ValueError, match=r"2 pruned layers of model .* have"):
        fit(part, np.ones((4, 6, 6, 2)), np.ones((4, 6, 6, 8)))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, inputs):
        return self.dense(inputs)


def test_bad_input():
    coupled = Slices("channels", coupled=True)
    with pytest.raises(ValueError, match=r"Only channels can be coupled.*'inputs'"):
        Slices("inputs", coupled=True)
    for make in (
        lambda: sos.RigL(0.5, 10, 5, structure=coupled),
        lambda: sos.SET(0.5, 10, 5, structure=coupled),
        lambda: sos.GraNet(0.5, 10, 5, structure=coupled),
        lambda: sos.L0Regularization(1e-3, structure=coupled),
        lambda: sos.GroupLasso(0.5, 10, structure=coupled),
    ):
        with pytest.raises(ValueError, match="decides layer by layer"):
            make()
    explicit = sos.MagnitudePruning(0.5, **NOW | {"structure": coupled})
    model = Subclassed()
    model(np.ones((1, 4)))
    with pytest.raises(ValueError, match=r"Nothing says.*leave out coupled=True"):
        sos.one_shot(model, explicit)
    sos.one_shot(model, HALF)
    masks = masks_of(sos.one_shot(functional(residual), explicit, overrides=DENSE))
    np.testing.assert_array_equal(masks["a"], masks["b"])
    for budget in (sos.Uniform, sos.ERK, sos.Global, sos.OWL, sos.FirstDenseLastCapped):
        with pytest.raises(ValueError, match=r"of must be.*'multiply-adds'"):
            budget(of="multiply-adds")
    with pytest.raises(ValueError, match="whatever they are used for"):
        sos.sparsify(
            functional(residual), sos.Feather(0.5, 0, 10), budget=sos.Global(of="flops")
        )
    x = keras.Input((None, None, 2))
    model = keras.Model(x, conv(4, "a")(x))
    with pytest.raises(ValueError, match=r"takes the operations.*no fixed size"):
        sos.one_shot(model, HALF, budget=sos.Global(of="flops"))


def test_prices_of_large_models_are_summed_in_32_bits():
    shared = SharedThreshold("model", 2, (10**9, 1))
    technique = sos.MagnitudePruning(0.5, **NOW | {"structure": None})
    ((number, kept),) = technique.sharing(shared).units([(100, 100), (10, 10)])
    assert number < 2**31
    assert kept < number / 100


def test_what_is_looked_up_stays_dense_under_a_budget_of_flops():
    x = keras.Input((4,), dtype="int32")
    y = layers.Dense(6, name="a")(layers.Embedding(9, 6, name="table")(x))
    model = keras.Model(x, layers.Dense(8, name="b")(y))
    single = sos.MagnitudePruning(0.5, 0, 1, 1)
    for budget in (sos.Global(of="flops"), sos.Uniform(of="flops")):
        sparse = sos.one_shot(model, single, budget=budget)
        zeros = {x.name: x.zeros for x in sos.sparsity_report(sparse).layers}
        assert zeros["table/embeddings"] == 0
        assert zeros["a/kernel"] + zeros["b/kernel"] == (36 + 48) / 2
    named = sos.one_shot(model, single, None, sos.Global(of="flops"), {"table": 0.5})
    zeros = {x.name: x.zeros for x in sos.sparsity_report(named).layers}
    assert zeros["table/embeddings"] == 27
    assert zeros["a/kernel"] + zeros["b/kernel"] == (36 + 48) / 2
    dense = {"a": None, "b": None}
    with pytest.raises(ValueError, match=r"Global\(of='flops'\) has nothing to dist"):
        sos.one_shot(model, single, None, sos.Global(of="flops"), dense)
