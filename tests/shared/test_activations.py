"""Zeros of activations, beside those that NumPy counts in intermediate outputs."""

import numpy as np
import pytest

from tests.flavour import IS_KERAS3, keras, sos, to_numpy

pytestmark = [
    pytest.mark.feature("activation_sparsity: zeros by layer"),
    *[pytest.mark.slow] * (not IS_KERAS3),
]


def network():
    """A model with another one inside and a layer used twice, and its tensors."""
    layers = keras.layers
    inner = keras.Sequential(
        [
            layers.Input((4, 4, 3)),
            layers.Conv2D(5, 3, padding="same", name="conv"),
            layers.ReLU(name="relu"),
        ],
        name="block",
    )
    twice = layers.Dense(5, activation="relu", name="twice")
    x = layers.Input((4, 4, 3))
    block = inner(x)
    first = twice(block)
    second = twice(first)
    last = layers.Dense(2, name="last")(second)
    return keras.Model(x, last), keras.Model(x, [block, first, second, last])


def share(*arrays):
    zeros = sum(np.count_nonzero(array == 0) for array in arrays)
    return zeros / sum(array.size for array in arrays)


def test_zeros_are_those_of_all_examples_and_calls(rng):
    model, intermediate = network()
    images = rng.normal(size=(7, 4, 4, 3)).astype("float32")
    block, first, second, last = map(to_numpy, intermediate(images))
    assert 0.2 < share(first) < 0.8
    # The last batch is a short one.
    report = sos.activation_sparsity(model, images, batch_size=3)
    assert {x.name: (x.shape, x.sparsity) for x in report.layers} == {
        "block/conv": ((4, 4, 5), 0.0),
        "block/relu": ((4, 4, 5), share(block)),
        "block": ((4, 4, 5), share(block)),
        "twice": ((4, 4, 5), share(first, second)),
        "last": ((4, 4, 2), share(last)),
    }
    lines = str(report).splitlines()
    assert lines[0].split() == ["name", "shape", "sparsity"]
    assert lines[2].split() == ["block/relu", "4x4x5", f"{share(block):.2%}"]


@pytest.mark.slow
def test_a_sparse_model_counts_as_deployed(rng):
    model, _ = network()
    masks = {n: rng.random(m.shape) < 0.5 for n, m in sos.weight_masks(model).items()}
    sparse = sos.sparsify(model, sos.FixedMask(masks))
    images = rng.normal(size=(4, 4, 4, 3)).astype("float32")
    found = sos.activation_sparsity(sparse, (image[None] for image in images))
    assert found == sos.activation_sparsity(sos.strip(sparse), images)
    assert found != sos.activation_sparsity(model, images)


@pytest.mark.slow
def test_what_loops_call_is_counted_with_them(rng):
    layers = keras.layers
    x = layers.Input((3, 4))
    steps = layers.TimeDistributed(layers.Dense(6, activation="relu"), name="steps")(x)
    both = layers.Bidirectional(layers.GRU(2, name="gru"), name="both")(steps)
    model = keras.Model(x, both)
    inputs = rng.normal(size=(5, 3, 4)).astype("float32")
    report = sos.activation_sparsity(model, inputs)
    names = ["steps", "both/forward_gru", "both/backward_gru", "both"]
    assert [layer.name for layer in report.layers] == names
    expected = to_numpy(keras.Model(x, steps)(inputs))
    assert report.layers[0].sparsity == share(expected)
