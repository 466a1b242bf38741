"""How many weights are zero is exact: at every step, in every layer and every group."""

import numpy as np
import pytest

from tests.flavour import (
    IS_KERAS3,
    ON_PYTORCH,
    begin_training,
    compiled,
    fit,
    keras,
    sgd,
    sites,
    sos,
)
from tests.shared import zoo
from tests.shared.reference import cubic_sparsity

layers = keras.layers
STEPS = 10
pytestmark = ON_PYTORCH


def on_ramp(step, final, end=8):
    """Renewals at 2, 5 and 8."""
    renewals = [t for t in (2, 5, 8) if t <= step]
    return cubic_sparsity(renewals[-1], final, 2, end) if renewals else 0.0


def up_to_a_multiple(step, final):
    return on_ramp(step, final, end=10)


def constant(step, final):
    del step
    return final


def regrown(step, final):
    """Updates at 3, 6 and 9."""
    initial = min(0.3, final)
    left = 1.0 - min(step - step % 3, 9) / 9
    return final + (initial - final) * left**3


def at_every_step(step, final):
    return cubic_sparsity(step, final, 2, 8)


def linear(step, final):
    return final * min(step / 4, 1.0)


def by_turns(step, final):
    return final if 3 <= step < 5 or step >= 8 else 0.0


RAMP = (0.6, 2, 8, 3)
# Techniques, and how sparse they are at a step, given the sparsity in the end.
SHARING = [
    (sos.MagnitudePruning(*RAMP, masked_weights="return"), on_ramp),
    (sos.RandomPruning(0.6, 2, 10, 3, last_renewal="multiple"), up_to_a_multiple),
    (sos.SaliencyPruning(*RAMP), on_ramp),
    (sos.MovementPruning(*RAMP), on_ramp),
    (sos.FisherPruning(*RAMP), on_ramp),
    (sos.FisherPruning(*RAMP, block_size=7, damping=1e-3), on_ramp),
    (sos.Feather(0.6, 2, 8), at_every_step),
    (sos.ST3(0.6, 2, 8), at_every_step),
    (sos.ST3(0.6, 2, 8, by_fan=True), at_every_step),
    (sos.ACDC(0.6, 3, (5, 8)), by_turns),
    (sos.Spartan(0.6, 4, 8), linear),
    (sos.Powerpropagation(2.0, sos.MagnitudePruning(*RAMP)), on_ramp),
]
BY_LAYER = [
    (sos.SET(0.6, 9, 3), constant),
    (sos.RigL(0.6, 9, 3), constant),
    (sos.GraNet(0.6, 9, 3, initial_sparsity=0.3), regrown),
]


def zeros_by_step(technique, budget):
    """Of both layers. Nothing is learned, so that masks are those of the step."""
    model = zoo.perceptron()
    # Layers whose weights differ in size.
    model.set_weights([w / len(w) ** 2 for w in model.get_weights()])
    sparse = sos.sparsify(model, technique, budget=budget)
    # tf_keras traces a renewal whenever it runs eagerly.
    compiled(sparse, sgd(0.0), **({} if IS_KERAS3 else {"run_eagerly": False}))
    begin_training(sparse)
    rng = np.random.default_rng(3)
    for step in range(1, STEPS + 1):
        sparse.train_on_batch(*zoo.data(rng))
        yield step, [int((~mask).sum()) for mask in sos.weight_masks(sparse).values()]


def named(cases):
    return [pytest.param(*case, id=case[0].technique_name()) for case in cases]


@pytest.mark.parametrize("budget", [sos.Uniform(), sos.ERK()], ids=["uniform", "erk"])
@pytest.mark.parametrize(("technique", "sparsity"), named([*SHARING, *BY_LAYER]))
def test_each_layer_has_the_zeros_of_its_budget_at_every_step(
    technique, sparsity, budget
):
    model, sizes = zoo.perceptron(), (48, 24)
    finals = sos.planned_sparsities(model, technique, budget=budget).values()
    assert sum(round(s * n) for s, n in zip(finals, sizes, strict=True)) == 43
    for step, zeros in zeros_by_step(technique, budget):
        assert zeros == [
            min(round(sparsity(step, final) * size), size - 1)
            for final, size in zip(finals, sizes, strict=True)
        ], step


@pytest.mark.parametrize(("technique", "sparsity"), named(SHARING))
def test_the_model_has_the_zeros_of_its_sparsity_at_every_step(technique, sparsity):
    zeros = dict(zeros_by_step(technique, sos.Global()))
    for step, by_layer in zeros.items():
        # Its sparsity is that of whole weights, 43 of 72.
        assert sum(by_layer) == round(sparsity(step, 43 / 72) * 72), step
    assert zeros[STEPS] != [round(0.6 * 48), round(0.6 * 24)]


@pytest.mark.parametrize("cls", [sos.SET, sos.RigL])
def test_so_many_are_dropped_and_grown_as_the_cosine_says(cls):
    """`f = 0.25 (1 + cos(pi t / 12))` is 3/8, 1/8 and 0 at 4, 8 and 12.

    Of the 16 and 8 active weights, 6 and 3 are dropped and grown at first, and 2 and 1
    then. With rates of 0, the weights that are there differ by no more.
    """
    technique = cls(2 / 3, end_step=12, frequency=4, drop_fraction=0.5)
    sparse = compiled(sos.sparsify(zoo.perceptron(), technique), sgd(0.0))
    begin_training(sparse)
    masks, changed = [list(sos.weight_masks(sparse).values())], {}
    for step in range(1, 14):
        sparse.train_on_batch(*zoo.data(np.random.default_rng(step)))
        masks.append(list(sos.weight_masks(sparse).values()))
        changed[step] = [
            int((now & ~before).sum())
            for now, before in zip(masks[-1], masks[-2], strict=True)
        ]
    assert [int(mask.sum()) for mask in masks[0]] == [16, 8]
    for step, grown in changed.items():
        # What was dropped may be grown again.
        most = {4: (6, 3), 8: (2, 1)}.get(step, (0, 0))
        assert all(n <= m for n, m in zip(grown, most, strict=True)), step
    assert sum(changed[4]) > 4


@pytest.mark.parametrize("cls", [sos.SET, sos.RigL])
def test_first_masks_differ_by_seed_and_layer(cls):
    def masks(seed):
        model = keras.Sequential(
            [keras.Input((6,)), layers.Dense(6, name="a"), layers.Dense(6, name="b")]
        )
        return list(
            sos.weight_masks(sos.sparsify(model, cls(0.5, 9, 3, seed=seed))).values()
        )

    one, again, other = masks(1), masks(1), masks(2)
    np.testing.assert_array_equal(one, again)
    assert np.any(one[0] != one[1])
    assert np.any(one[0] != other[0])


# A layer, the shape of its inputs, and by weight the axis that it sums over.
SUMMED = {
    "Dense": (lambda: layers.Dense(6), (8,), {"kernel": 0}),
    "Conv1D": (lambda: layers.Conv1D(6, 3), (5, 8), {"kernel": 1}),
    "Conv2D": (lambda: layers.Conv2D(6, 2, groups=2), (3, 3, 8), {"kernel": 2}),
    "Conv3D": (lambda: layers.Conv3D(6, 2), (2, 2, 2, 8), {"kernel": 3}),
    "Conv1DTranspose": (lambda: layers.Conv1DTranspose(6, 3), (5, 8), {"kernel": 2}),
    "Conv2DTranspose": (lambda: layers.Conv2DTranspose(6, 2), (3, 3, 8), {"kernel": 3}),
    "MultiHeadAttention": (
        lambda: layers.MultiHeadAttention(3, 4, name="attention"),
        (5, 8),
        # Of the inputs (8), and of heads (3) and their size (4), the latter.
        {"query": 0, "key": 0, "value": 0, "attention_output": 1},
    ),
    "LSTM": (
        lambda: layers.LSTM(4),
        (3, 8),
        {"cell.kernel": 0, "cell.recurrent_kernel": 0},
    ),
}


@pytest.mark.feature(
    "m of n: kernels of every rank, along the axis that is summed over"
)
@pytest.mark.parametrize(
    "technique",
    [
        sos.SRSTE((2, 4)),
        sos.MagnitudePruning(0.5, 1, 1, 1, sparsity_m_by_n=(2, 4)),
        sos.SaliencyPruning(0.5, 2, 2, 1, sparsity_m_by_n=(2, 4)),
    ],
    ids=["srste", "magnitude", "saliency"],
)
@pytest.mark.parametrize("kind", SUMMED)
def test_every_group_along_the_summed_axis_has_its_zeros(kind, technique, rng):
    make, shape, axes = SUMMED[kind]
    x = keras.Input(shape)
    layer = make()
    arguments = (x, x) if kind == "MultiHeadAttention" else (x,)
    model = keras.Model(x, layer(*arguments))
    sparse = compiled(sos.sparsify(model, technique), run_eagerly=False)
    inputs = rng.normal(size=(8, *shape)).astype("float32")
    targets = rng.normal(size=(8, *model.output_shape[1:])).astype("float32")
    fit(sparse, inputs, targets, batch_size=4)
    masks = sos.weight_masks(sparse)
    assert len(masks) == len(axes) == len([n for s in sites(model) for n in s.weights])
    for name, mask in masks.items():
        axis = next(a for part, a in axes.items() if part in name.split("/"))
        kept = np.moveaxis(mask, axis, -1).reshape(-1, 4).sum(axis=1)
        assert (kept == 2).all(), name
    for name, mask in sos.weight_masks(sos.strip(sparse)).items():
        np.testing.assert_array_equal(mask, masks[name], name)
