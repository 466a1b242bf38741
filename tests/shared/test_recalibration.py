"""Statistics of batch normalization from data, against NumPy in float64."""

import numpy as np
import pytest

from tests.flavour import (
    IS_KERAS3,
    ON_PYTORCH,
    keras,
    outputs_of,
    sos,
    sparse_layers,
    to_numpy,
)

pytestmark = [
    pytest.mark.feature("recalibrate: statistics of batch normalization"),
    *ON_PYTORCH,
]
EPSILON = 1e-3


def network():
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(5, name="first"),
            keras.layers.BatchNormalization(epsilon=EPSILON),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(4, use_bias=False, name="second"),
            keras.layers.BatchNormalization(epsilon=EPSILON, scale=False),
        ]
    )


def normalizations(model):
    return [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]


def statistics(model):
    return [
        to_numpy(values)
        for layer in normalizations(model)
        for values in (layer.moving_mean, layer.moving_variance)
    ]


def masked(model, rng):
    masks = {n: rng.random(m.shape) < 0.5 for n, m in sos.weight_masks(model).items()}
    return sos.sparsify(model, sos.FixedMask(masks))


def expected(stripped, inputs, sizes):
    """Of all values that each normalization is given, batch by batch."""
    kernels = [
        to_numpy(stripped.get_layer(n).kernel).astype("float64")
        for n in ("first", "second")
    ]
    given = [], []
    for batch in np.split(inputs.astype("float64"), np.cumsum(sizes)[:-1]):
        hidden = batch @ kernels[0]
        given[0].append(hidden)
        hidden = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + EPSILON)
        given[1].append(hidden @ kernels[1])
    values = [np.concatenate(parts) for parts in given]
    return [moment for v in values for moment in (v.mean(0), v.var(0))]


@pytest.mark.parametrize("kind", ["sparse", "stripped"])
def test_statistics_are_those_of_all_values(kind, rng):
    sparse = masked(network(), rng)
    stripped = sos.strip(sparse)
    model = sparse if kind == "sparse" else stripped
    inputs = rng.normal(1.0, 2.0, (10, 6)).astype("float32")
    normalizations(model)[1].trainable = False
    weights = [to_numpy(v) for v in model.trainable_variables]
    sos.recalibrate(model, inputs, batch_size=4)
    found, wanted = statistics(model), expected(stripped, inputs, [4, 4, 2])
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    for one, other in zip(weights, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(one, to_numpy(other))
    if kind == "sparse" and IS_KERAS3:
        assert all(int(to_numpy(x.training_step)) == 0 for x in sparse_layers(sparse))


def test_one_batch_gives_what_inference_sees(rng):
    model = masked(network(), rng)
    inputs = rng.normal(1.0, 2.0, (64, 6)).astype("float32")
    sos.recalibrate(model, (batch for batch in [(inputs, None)]))
    outputs = outputs_of(model, inputs)
    variance = to_numpy(normalizations(model)[1].moving_variance)
    np.testing.assert_allclose(outputs.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(
        outputs.var(0), variance / (variance + EPSILON), rtol=1e-4
    )


def test_masked_positions_do_not_count(rng):
    model = keras.Sequential(
        [
            keras.Input((3, 2)),
            keras.layers.Masking(),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(2),
        ]
    )
    inputs = rng.normal(size=(4, 3, 2)).astype("float32")
    inputs[1, 1:] = inputs[2:] = 0.0
    sos.recalibrate(model, inputs, batch_size=2)
    kept = inputs[np.any(inputs, axis=-1)].astype("float64")
    mean, variance = statistics(model)
    np.testing.assert_allclose(mean, kept.mean(0), rtol=1e-5)
    np.testing.assert_allclose(variance, kept.var(0), rtol=1e-5)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (iter([]), ValueError, "data has no batch"),
        (np.zeros((0, 6)), ValueError, "data has no batch"),
        (None, TypeError, "Received: None"),
        (np.zeros((4, 5)), ValueError, r"called on.*\(None, 6\).*Received: \(4, 5\)"),
        ([np.zeros((4, 6)), np.zeros((4, 6))], ValueError, "called on, arrays of"),
        ([np.zeros((4, 6)), np.zeros((3, 6))], ValueError, "as many examples each"),
    ],
)
def test_wrong_data_is_refused_and_changes_nothing(data, error, message):
    model = network()
    before = statistics(model)
    with pytest.raises(error, match=message):
        sos.recalibrate(model, data)
    for one, other in zip(before, statistics(model), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_model_without_batch_normalization_is_refused():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="has no batch normalization"):
        sos.recalibrate(model, np.zeros((4, 2)))
