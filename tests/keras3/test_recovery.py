"""Sparse models with fixed masks that train again."""

import numpy as np
import pytest

from tests.flavour import compiled, fit, keras, outputs_of, sgd, sos, steps_of, to_numpy

layers = keras.layers
LORA = pytest.mark.feature("LoRA under fixed masks")


def two_of_four(shape, rng):
    """A mask that keeps two of each four along the last axis."""
    *outer, length = shape
    order = rng.random((*outer, length // 4, 4)).argsort(axis=-1)
    return (order < 2).reshape(shape)


def masked(model, rng, mask=None):
    make = mask or (lambda shape, rng: rng.random(shape) < 0.5)
    masks = {n: make(m.shape, rng) for n, m in sos.weight_masks(model).items()}
    return sos.sparsify(model, sos.FixedMask(masks))


KINDS = {
    "Dense": (lambda: layers.Dense(4, name="x"), (8,)),
    "EinsumDense": (
        lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 4), bias_axes="e"),
        (3, 8),
    ),
    "Conv2D": (lambda: layers.Conv2D(4, 2, name="x"), (3, 3, 4)),
    "Embedding": (lambda: layers.Embedding(8, 4, name="x"), (3,)),
    "ReversibleEmbedding": (lambda: layers.ReversibleEmbedding(8, 4), (3,)),
}
QUICK = ("Dense", "Embedding")


def lora_model(kind, rng):
    make, shape = KINDS[kind]
    dtype = "int32" if "Embedding" in kind else "float32"
    model = keras.Sequential([keras.Input(shape, dtype=dtype), make()])
    sparse = masked(model, rng, two_of_four)
    (layer,) = sparse.layers
    layer.enable_lora(2, lora_alpha=6)
    inputs = rng.integers(0, 8, (4, *shape)).astype(dtype)
    targets = rng.normal(size=outputs_of(sparse, inputs).shape).astype("float32")
    return sparse, layer, inputs, targets


@LORA
@pytest.mark.any_backend
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.slow] * (kind not in QUICK))
        for kind in KINDS
    ],
)
def test_adapters_train_under_the_mask_and_are_merged(kind, rng, tmp_path):
    sparse, layer, inputs, targets = lora_model(kind, rng)
    (weight,) = layer.sparse_weights
    before, mask = to_numpy(weight.theta), to_numpy(weight.state["mask"])
    trained = {v.name for v in sparse.trainable_variables}
    label = weight.label
    assert trained - {"bias"} == {f"lora_{label}_a", f"lora_{label}_b"}
    fit(compiled(sparse), inputs, targets, epochs=2)
    np.testing.assert_array_equal(to_numpy(weight.theta), before)

    a, b = (to_numpy(v).astype("float64") for v in adapters_of(layer))
    expected = mask * (before + 3.0 * a @ b)
    assert not np.allclose(expected, mask * before)
    stripped = sos.strip(sparse)
    (plain,) = stripped.layers
    merged = to_numpy(getattr(plain, label))
    np.testing.assert_allclose(merged, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(merged != 0, mask)
    assert not plain.lora_enabled
    assert len(plain.trainable_variables) == len(trained) - 1
    np.testing.assert_allclose(
        outputs_of(stripped, inputs), outputs_of(sparse, inputs), atol=1e-6
    )
    # Adapters are no parameters of the model as it is deployed.
    report = sos.sparsity_report(sparse)
    assert report.parameters == sos.sparsity_report(stripped).parameters

    sparse.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].lora_alpha == 6
    np.testing.assert_array_equal(
        outputs_of(loaded, inputs), outputs_of(sparse, inputs)
    )


def adapters_of(layer):
    return [v for v in layer.trainable_variables if v.name.startswith("lora_")]


@LORA
@pytest.mark.slow
def test_adapters_within_attention_are_saved(rng, tmp_path):
    x = keras.Input((3, 4))
    attention = layers.MultiHeadAttention(2, 2, name="attention")
    sparse = masked(keras.Model(x, attention(x, x)), rng)
    held = sparse.get_layer("attention")
    held.query_dense.enable_lora(1)
    inputs, targets = rng.normal(size=(2, 4, 3, 4)).astype("float32")
    fit(compiled(sparse), inputs, targets)
    sparse.save_weights(tmp_path / "model.weights.h5")
    sparse.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        outputs_of(loaded, inputs), outputs_of(sparse, inputs)
    )
    # Past what the loaded model has, the file with its weights is read, too.
    for variable in adapters_of(loaded.get_layer("attention").query_dense):
        variable.assign(np.zeros(variable.shape))
    loaded.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(
        outputs_of(loaded, inputs), outputs_of(sparse, inputs)
    )
    assert sos.sparsity_report(loaded).sparsity == sos.sparsity_report(sparse).sparsity


@LORA
@pytest.mark.any_backend
def test_lora_is_refused_without_fixed_masks():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="d")])
    sparse = sos.sparsify(model, sos.MagnitudePruning(0.5, 1, 1, 1))
    with pytest.raises(ValueError, match=r"'d' cannot be given LoRA.*sos\.strip"):
        sparse.layers[0].enable_lora(2)


@pytest.mark.feature("Distiller of Keras, with a sparse student")
@pytest.mark.slow
def test_masks_hold_while_a_sparse_student_is_distilled(rng):
    def perceptron(units):
        hidden = layers.Dense(units, activation="relu", name="hidden")
        return keras.Sequential([keras.Input((6,)), hidden, layers.Dense(3)])

    student = masked(perceptron(4), rng)
    before, weights = sos.weight_masks(student), student.get_weights()
    distiller = keras.distillation.Distiller(
        perceptron(16), student, keras.distillation.LogitsDistillation()
    )
    compiled(distiller, sgd(0.1, momentum=0.9, weight_decay=0.1))
    inputs, targets = rng.normal(size=(8, 6)), rng.normal(size=(8, 3))
    distiller.fit(inputs, targets, 4, verbose=0, callbacks=sos.callbacks(student))
    assert steps_of(student) == {2}
    assert not np.array_equal(weights[0], student.get_weights()[0])
    stripped = sos.strip(distiller.student)
    for name, mask in before.items():
        layer = stripped.get_layer(name.partition("/")[0])
        np.testing.assert_array_equal(to_numpy(layer.kernel) != 0, mask)
