"""Each technique trains to the masks, weights and losses of its formulas in float64.

So on every backend, and in both Kerases, all of them train to the same.
"""

import numpy as np
import pytest

from tests.flavour import (
    BACKEND,
    IS_KERAS3,
    ON_PYTORCH,
    begin_training,
    compiled,
    keras,
    outputs_of,
    plain_part,
    sgd,
    sos,
    sparse_layers,
    to_numpy,
)
from tests.shared import techniques_in_numpy as rules

BATCH, FEATURES, HIDDEN, OUTPUTS = 8, 8, 8, 3
LEARNING_RATE, MOMENTUM = 0.15, 0.9
# Renewals at 3, 6, 9, 12 and, where the ramp ends, 13.
RAMP = (0.75, 3, 13, 3)

CASES = {
    "magnitude": (sos.MagnitudePruning(*RAMP), rules.Pruning),
    "magnitude-return": (
        sos.MagnitudePruning(*RAMP, masked_weights="return"),
        rules.Pruning,
    ),
    "saliency": (sos.SaliencyPruning(*RAMP), rules.Saliency),
    "movement": (sos.MovementPruning(*RAMP), rules.Movement),
    "fisher": (sos.FisherPruning(*RAMP), rules.DiagonalFisher),
    "fisher-blocks": (
        # Neither of the sizes of the kernels is a multiple of 5.
        sos.FisherPruning(*RAMP, block_size=5, damping=1e-2),
        rules.BlockFisher,
    ),
    "set": (sos.SET(0.6, end_step=15, frequency=3, seed=3), rules.SET),
    "rigl": (sos.RigL(0.6, end_step=20, frequency=3, drop_fraction=0.5), rules.RigL),
    "granet": (
        sos.GraNet(0.75, end_step=12, frequency=3, initial_sparsity=0.2),
        rules.GraNet,
    ),
    "feather": (sos.Feather(0.75, 2, 8, masked_gradient=0.5), rules.Feather),
    "st3": (sos.ST3(0.75, 2, 12), rules.ST3),
    "st3-by-fan": (sos.ST3(0.75, 2, 8, by_fan=True), rules.ST3),
    "str": (sos.STR(-3.0, weight_decay=0.1), rules.STR),
    "acdc": (sos.ACDC(0.75, dense_steps=3, phases=(5, 9, 10, 13)), rules.ACDC),
    "spartan": (sos.Spartan(0.75, end_step=5, fixed_step=10), rules.Spartan),
    "srste": (sos.SRSTE((2, 4), decay=0.05), rules.SRSTE),
    "powerpropagation": (
        sos.Powerpropagation(2.0, sos.MagnitudePruning(*RAMP)),
        rules.Powered,
    ),
    "powerpropagation-st3": (
        # Squares, which are the same to the bit wherever they are taken: a weight is as
        # large as the threshold.
        sos.Powerpropagation(2.0, sos.ST3(0.75, 2, 8)),
        rules.Powered,
    ),
}
# What has to hold for longer.
STEPS = {"rigl": 20, "st3": 20}
# Of others than 0, so that no choice is within the noise of a float32.
SEEDS = {
    "fisher": 2,
    "set": 33,
    "feather": 8,
    "st3": 1,
    "st3-by-fan": 5,
    "str": 24,
    "acdc": 15,
    "powerpropagation-st3": 23,
}


def perceptron(rng):
    """Two layers without biases, tanh between them."""
    model = keras.Sequential(
        [
            keras.Input((FEATURES,)),
            keras.layers.Dense(HIDDEN, "tanh", use_bias=False, name="hidden"),
            keras.layers.Dense(OUTPUTS, use_bias=False, name="outputs"),
        ],
        name="perceptron",
    )
    model.set_weights(
        [0.5 * rng.normal(size=w.shape).astype("float32") for w in model.get_weights()]
    )
    return model


def masks_of(model):
    return list(sos.weight_masks(model).values())


def assert_near(found, expected, what, atol=1e-6):
    np.testing.assert_allclose(
        to_numpy(found), expected, rtol=1e-6, atol=atol, err_msg=what
    )


def beside_numpy(technique, rule, seed, **arguments):
    """A sparse model, and the training in NumPy that begins as it does."""
    rng = np.random.default_rng(seed)
    model = perceptron(rng)
    kernels = [w.copy() for w in model.get_weights()]
    sparse = sos.sparsify(model, technique)
    compiled(sparse, sgd(LEARNING_RATE, momentum=MOMENTUM), **arguments)
    begin_training(sparse)
    expected = rules.Training(
        kernels, rule(technique, masks_of(sparse)), LEARNING_RATE, MOMENTUM
    )
    return sparse, expected, rng


# On PyTorch alone: there are other tests of magnitude pruning on each backend.
ELSEWHERE = ("magnitude", "magnitude-return", "powerpropagation-st3")
# JAX compiles each for a second.
MARKS = [pytest.mark.slow] * (BACKEND == "jax")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=ON_PYTORCH if name in ELSEWHERE else MARKS)
        for name in CASES
    ],
)
def test_updates_are_those_of_the_formulas(name):
    # tf_keras traces a renewal whenever it runs eagerly.
    arguments = {} if IS_KERAS3 and name not in STEPS else {"run_eagerly": False}
    sparse, expected, rng = beside_numpy(*CASES[name], SEEDS.get(name, 0), **arguments)
    layers, seen = sparse_layers(sparse), set()
    # The mu of Spartan is as near as a sum in float32 tells.
    inexact = ("spartan", "fisher-blocks")
    atol = 1e-5 if name in inexact else 1e-6
    for step in range(1, STEPS.get(name, 14) + 1):
        x = rng.normal(size=(BATCH, FEATURES)).astype("float32")
        targets = rng.normal(size=(BATCH, OUTPUTS)).astype("float32")
        expected_loss = expected.train(x, targets)
        sparse.reset_metrics()
        loss = float(sparse.train_on_batch(x, targets))
        assert loss == pytest.approx(expected_loss, abs=1e-5), step
        kept = expected.rule.kept(expected.thetas)
        for found, mask in zip(masks_of(sparse), kept, strict=True):
            np.testing.assert_array_equal(found, mask, f"step {step}")
        for i, layer in enumerate(layers):
            # TF-MOT writes zeros into what is masked, and Keras 3 multiplies.
            kernel, theta = to_numpy(plain_part(layer).kernel), expected.thetas[i]
            if name == "magnitude":
                kernel, theta = kernel * kept[i], theta * kept[i]
            assert_near(kernel, theta, f"theta, step {step}", atol)
            for key, values in expected.rule.state.items():
                value = values[i]
                # Of the scale of its greatest element. Damping is by squared gradients.
                scale = 1e-4 if name == "fisher-blocks" else 1e-5
                scale *= np.abs(value).max()
                assert_near(getattr(layer, key), value, f"{key}, step {step}", scale)
        seen.add(b"".join(mask.tobytes() for mask in kept))
    assert len(seen) > 3
    assert expected.rule.margin > 1e-4, expected.rule.margin
    inputs = rng.normal(size=(BATCH, FEATURES)).astype("float32")
    first, second = expected.rule.deployed(expected.thetas)
    outputs = outputs_of(sos.strip(sparse), inputs)
    assert_near(outputs, np.tanh(inputs @ first) @ second, "outputs", 1e-5)
