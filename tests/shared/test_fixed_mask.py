"""Masks that are given, and files of masks."""

import numpy as np
import pytest

from tests.flavour import (
    compiled,
    fit,
    keras,
    outputs_of,
    sgd,
    sos,
    sparse_layers,
    to_numpy,
)
from tests.shared import zoo

pytestmark = pytest.mark.feature("FixedMask: training with given masks")


def random_masks(model, rng, density=0.4):
    return {
        name: rng.uniform(size=mask.shape) < density
        for name, mask in sos.weight_masks(model).items()
    }


def recurrent():
    return keras.Sequential(
        [keras.Input((3, zoo.FEATURES)), keras.layers.LSTM(zoo.CLASSES, name="lstm")]
    )


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "kind", ["subclassed", pytest.param("recurrent", marks=pytest.mark.any_backend)]
)
def test_masks_stay_whatever_the_optimizer_does(kind, rng):
    make = zoo.ALL.get(kind, recurrent)
    model, (inputs, targets) = make(), zoo.data(rng)
    if kind == "recurrent":
        inputs = np.repeat(inputs[:, None], 3, axis=1)
    masks = random_masks(model, rng)
    sparse = sos.sparsify(model, sos.FixedMask(masks))
    # Before the first step, too.
    report = sos.sparsity_report(sparse)
    assert {x.name: x.zeros for x in report.layers} == {
        name: mask.size - mask.sum() for name, mask in masks.items()
    }
    optimizer = sgd(0.1, momentum=0.9, weight_decay=0.1)
    losses = fit(compiled(sparse, optimizer), inputs, targets, epochs=3)
    assert losses[-1] < losses[0]
    for name, mask in sos.weight_masks(sparse).items():
        np.testing.assert_array_equal(mask, masks[name], err_msg=name)
    stripped = sos.strip(sparse)
    np.testing.assert_allclose(
        outputs_of(stripped, inputs), outputs_of(sparse, inputs), rtol=1e-5, atol=1e-6
    )
    for name, mask in sos.weight_masks(stripped).items():
        assert not mask[~masks[name]].any()


def test_one_step_is_that_of_a_dense_model_of_the_masked_weights(rng):
    """With plain SGD: the first step's losses, and the gradients of what stays."""
    model, (inputs, targets) = zoo.perceptron(), zoo.data(rng)
    masks = random_masks(model, rng)
    sparse = compiled(sos.sparsify(model, sos.FixedMask(masks)))
    dense = compiled(sos.strip(sparse))
    first = fit(sparse, inputs, targets, batch_size=len(inputs))
    expected = dense.fit(inputs, targets, batch_size=len(inputs), verbose=0)
    np.testing.assert_allclose(first, expected.history["loss"], rtol=1e-6)
    moved = sos.strip(sparse)
    for layer, other in zip(moved.layers, dense.layers, strict=True):
        for value, plain in zip(layer.weights, other.weights, strict=True):
            name = f"{layer.name}/kernel"
            mask = masks[name] if len(value.shape) > 1 else 1.0
            np.testing.assert_allclose(
                to_numpy(value), to_numpy(plain) * mask, rtol=1e-5, atol=1e-7
            )


@pytest.mark.any_backend
def test_training_counts_what_the_masks_keep(rng):
    masks = random_masks(zoo.perceptron(), rng)
    sparse = sos.sparsify(zoo.perceptron(), sos.FixedMask(masks))
    flops = sos.count_training_flops(sparse, steps=7)
    assert flops.sparse == 7 * 3 * 2 * sum(int(mask.sum()) for mask in masks.values())
    assert flops.dense == 7 * 3 * 2 * sum(mask.size for mask in masks.values())


@pytest.mark.any_backend
def test_masks_of_a_pruned_model_make_a_model_of_its_architecture(rng):
    pruned = compiled(
        sos.sparsify(
            zoo.functional(), sos.MagnitudePruning(0.5, 1, 2, 1), {"shared": None}
        )
    )
    fit(pruned, *zoo.data(rng))
    masks = sos.weight_masks(pruned)
    again = sos.sparsify(zoo.functional(), sos.FixedMask(masks))
    report, expected = map(sos.sparsity_report, (again, pruned))
    assert report == expected
    # What was left dense is.
    techniques = {x.name: x.technique for x in report.layers}
    assert techniques.pop("shared/kernel") == "dense"
    assert set(techniques.values()) == {"fixed_mask"}


@pytest.mark.any_backend
def test_a_file_of_a_model_holds_its_masks(rng, tmp_path):
    masks = random_masks(zoo.sequential(), rng)
    sparse = compiled(sos.sparsify(zoo.sequential(), sos.FixedMask(masks)))
    fit(sparse, *zoo.data(rng))
    sparse.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert len(sparse_layers(loaded)) == 2
    fit(compiled(loaded), *zoo.data(rng))
    for name, mask in sos.weight_masks(loaded).items():
        np.testing.assert_array_equal(mask, masks[name])


def test_masks_of_another_architecture_are_refused_with_what_differs(rng):
    masks = random_masks(zoo.perceptron(), rng)
    masks["hiden/kernel"] = masks.pop("hidden/kernel")
    masks["logits/kernel"] = masks["logits/kernel"][:-1]
    with pytest.raises(ValueError, match="of another architecture") as caught:
        sos.sparsify(zoo.perceptron(), sos.FixedMask(masks))
    for part in (
        "hidden/kernel: no mask",
        "hiden/kernel: no such weight (near: hidden/kernel)",
        "logits/kernel: the mask is (7, 3), the weight (8, 3)",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([1], r"masks must be a dictionary of boolean arrays.*Received: \[1\]"),
        ({"a/kernel": np.ones(3)}, r"masks\['a/kernel'\] must be a boolean array"),
        ({"a/kernel": [True]}, r"masks\['a/kernel'\] must be a boolean array"),
    ],
)
def test_what_is_no_mask_is_refused(masks, message):
    with pytest.raises(TypeError, match=message):
        sos.FixedMask(masks)


def test_an_override_with_another_sparsity_is_refused(rng):
    technique = sos.FixedMask(random_masks(zoo.perceptron(), rng))
    with pytest.raises(ValueError, match="FixedMask has no target sparsity"):
        sos.sparsify(zoo.perceptron(), technique, {"logits": 0.5})


@pytest.mark.any_backend
def test_shuffled_masks_keep_as_many_weights_of_each_tensor(rng):
    masks = random_masks(zoo.functional(), rng)
    shuffled = sos.shuffle_masks(masks, seed=3)
    assert list(shuffled) == list(masks)
    for name, mask in masks.items():
        assert shuffled[name].shape == mask.shape
        assert shuffled[name].sum() == mask.sum()
    again, other = sos.shuffle_masks(masks, seed=3), sos.shuffle_masks(masks, seed=4)
    assert all(np.array_equal(shuffled[n], again[n]) for n in masks)
    assert not all(np.array_equal(shuffled[n], other[n]) for n in masks)
    # Two tensors of a shape get different places.
    equal = {name: masks["block/first/kernel"] for name in ("a", "b")}
    assert not np.array_equal(*sos.shuffle_masks(equal).values())


@pytest.mark.any_backend
def test_files_of_masks(rng, tmp_path):
    masks = random_masks(zoo.functional(), rng)
    sos.save_masks(tmp_path / "masks.npz", masks)
    loaded = sos.load_masks(tmp_path / "masks.npz")
    assert list(loaded) == list(masks)
    for name, mask in masks.items():
        assert loaded[name].dtype == bool
        np.testing.assert_array_equal(loaded[name], mask)
    with pytest.raises(ValueError, match=r"has to end in '\.npz'"):
        sos.save_masks(tmp_path / "masks", masks)
    np.savez(tmp_path / "other.npz", kernel=np.ones(3))
    (tmp_path / "text.npz").write_text("no")
    for name in ("other", "text"):
        with pytest.raises(ValueError, match=r"no file that sos\.save_masks wrote"):
            sos.load_masks(tmp_path / f"{name}.npz")
    with pytest.raises(FileNotFoundError):
        sos.load_masks(tmp_path / "missing.npz")


def test_masks_of_another_version_are_refused(tmp_path):
    np.savez(tmp_path / "masks.npz", version=2)
    with pytest.raises(ValueError, match=r"of version 2, and this .* version 1"):
        sos.load_masks(tmp_path / "masks.npz")
