"""Gradients of all uses of a weight in a step are one gradient to its technique."""

import numpy as np
import pytest

from tests.flavour import (
    begin_training,
    compiled,
    keras,
    sgd,
    sites,
    sos,
    to_numpy,
)
from tests.shared import techniques_in_numpy as rules

layers = keras.layers
RATES = {"learning_rate": 0.2, "momentum": 0.9}


class Twice(rules.Training):
    """`x W W`."""

    @staticmethod
    def network(x, w):
        hidden = x @ w
        return hidden @ w, lambda slope: [x.T @ (slope @ w.T) + hidden.T @ slope]


class Lookup(rules.Training):
    """The mean of the rows of a table at some places."""

    @staticmethod
    def network(places, table):
        def gradients(slope):
            found = np.zeros_like(table)
            np.add.at(found, places, slope[:, None] / places.shape[1])
            return [found]

        return table[places].mean(axis=1), gradients


class Recurrent(rules.Training):
    """`h <- tanh(x W + h U)` from 0, along the second axis; the last h."""

    @staticmethod
    def network(x, kernel, recurrent):
        states = [np.zeros((len(x), recurrent.shape[0]))]
        for t in range(x.shape[1]):
            states.append(np.tanh(x[:, t] @ kernel + states[-1] @ recurrent))

        def gradients(slope):
            of_kernel, of_recurrent = np.zeros_like(kernel), np.zeros_like(recurrent)
            for t in reversed(range(x.shape[1])):
                before = slope * (1.0 - states[t + 1] ** 2)
                of_kernel += x[:, t].T @ before
                of_recurrent += states[t].T @ before
                slope = before @ recurrent.T
            return [of_kernel, of_recurrent]

        return states[-1], gradients


def used_twice():
    x, dense = keras.Input((6,)), layers.Dense(6, use_bias=False)
    return keras.Model(x, dense(dense(x)))


def looked_up():
    x = keras.Input((3,), dtype="int32")
    y = layers.GlobalAveragePooling1D()(layers.Embedding(9, 6)(x))
    return keras.Model(x, y, name="embedding")


def recurrent():
    x = keras.Input((3, 4))
    return keras.Model(x, layers.SimpleRNN(6, use_bias=False)(x))


NETWORKS = {
    "used twice": (used_twice, Twice),
    "embedding": (looked_up, Lookup),
    "recurrent": (recurrent, Recurrent),
}
TECHNIQUES = {
    "saliency": (sos.SaliencyPruning(0.6, 3, 12, 3), rules.Saliency),
    "rigl": (sos.RigL(0.5, 12, 3, drop_fraction=0.5), rules.RigL),
}
# A loop over time within a step is what no other network has.
EVERYWHERE = ("rigl", "recurrent")


def batches(model, rng, steps):
    shape = model.input_shape[1:]
    for _ in range(steps):
        x = rng.normal(size=(8, *shape)).astype("float32")
        if model.name == "embedding":
            x = rng.integers(0, 9, (8, *shape)).astype("int32")
        yield x, rng.normal(size=(8, 6)).astype("float32")


@pytest.mark.parametrize(
    ("technique", "network"),
    [
        pytest.param(t, n, marks=[pytest.mark.any_backend] * ((t, n) != EVERYWHERE))
        for t in TECHNIQUES
        for n in NETWORKS
    ],
)
def test_masks_and_weights_are_those_of_numpy(technique, network, rng):
    technique, rule = TECHNIQUES[technique]
    make, training = NETWORKS[network]
    model = make()
    kernels = [0.5 * rng.normal(size=w.shape) for w in model.get_weights()]
    kernels = [kernel.astype("float32") for kernel in kernels]
    model.set_weights(kernels)
    sparse = compiled(sos.sparsify(model, technique), sgd(**RATES), run_eagerly=False)
    begin_training(sparse)
    first = sos.weight_masks(sparse).values()
    expected = training(kernels, rule(technique, first), **RATES)
    seen = set()
    for x, targets in batches(model, rng, 13):
        loss = expected.train(x, targets)
        sparse.reset_metrics()
        assert float(sparse.train_on_batch(x, targets)) == pytest.approx(loss, abs=1e-5)
        kept = expected.rule.kept(expected.thetas)
        for found, mask in zip(sos.weight_masks(sparse).values(), kept, strict=True):
            np.testing.assert_array_equal(found, mask)
        seen.add(b"".join(mask.tobytes() for mask in kept))
    assert len(seen) == 4
    weights = [w for site in sites(sos.strip(sparse)) for w in site.weights.values()]
    for found, deployed in zip(
        weights, expected.rule.deployed(expected.thetas), strict=True
    ):
        np.testing.assert_allclose(to_numpy(found), deployed, rtol=0, atol=1e-6)
