"""--load_masks_from a model that tf_keras saved, pruned by TF-MOT or plain."""

import json

import numpy as np
import pytest
import tensorflow_model_optimization as tfmot

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras
from state_of_sparsity.models.images.networks import NETWORKS, Setting
from tests.bin.conftest import run_of

FIXED = "--technique=fixed_mask"


def pruned_by_tf_mot(model):
    """The model with TF-MOT's wrappers, 70 % of each kernel zero after a step."""
    tools = tfmot.sparsity.keras
    pruned = tools.prune_low_magnitude(
        model, tools.ConstantSparsity(0.7, begin_step=0, frequency=1)
    )
    pruned.compile("sgd", "mse")
    batch = np.ones((2, *model.input_shape[1:])), np.ones((2, *model.output_shape[1:]))
    pruned.fit(*batch, verbose=0, callbacks=[tools.UpdatePruningStep()])
    return pruned


@pytest.mark.slow
def test_a_run_with_masks_of_tf_mot_is_trained_and_scored_without_their_file(
    command, lenet, tmp_path
):
    pruned = pruned_by_tf_mot(NETWORKS["lenet5"].build(Setting((32, 32, 3), 10, 0.1)))
    file, folder = tmp_path / "pruned.keras", tmp_path / "run"
    pruned.save(file)
    given = (*lenet, FIXED, f"--load_masks_from={file}", f"--output_dir={folder}")
    outcome = command("train_resnet50", *given)
    assert outcome.code == 0, outcome
    file.unlink()
    masks = sos.load_masks(folder / "masks.npz")
    np.testing.assert_equal(masks, sos.weight_masks(pruned))
    # TF-MOT counts what stays, rounded.
    assert np.mean(~masks["dense1/kernel"]) == pytest.approx(0.7, abs=1e-3)
    result = json.loads((folder / "result.json").read_text())
    zeros = sum((~mask).sum() for mask in masks.values())
    assert result["parameters"] - result["nonzero_parameters"] == zeros
    outcome = command("evaluate_resnet50", f"--run_dir={folder}")
    assert outcome.code == 0, outcome


@pytest.fixture(scope="module")
def small():
    return pruned_by_tf_mot(
        keras.Sequential(
            [
                keras.layers.Dense(4, input_shape=(5,), name="first"),
                keras.layers.Dense(3, name="logits"),
            ]
        )
    )


@pytest.mark.parametrize(
    ("suffix", "kind"), [(".keras", "wrapped"), (".h5", "stripped"), ("", "wrapped")]
)
def test_masks_of_each_format(kind, suffix, small, command, tmp_path):
    path = tmp_path / f"model{suffix}"
    (small if kind == "wrapped" else sos.strip(small)).save(path)
    run = run_of("train_resnet50", FIXED, f"--load_masks_from={path}")
    masks = dict(run.sparsification.technique.masks)
    np.testing.assert_equal(masks, sos.weight_masks(small))
    outcome = command("report_sparsity", f"--model={path}")
    assert "first/kernel" in outcome.out, outcome
    assert "sparsity 68.75%" in outcome.out


def test_what_differs_in_a_model_of_another_architecture_is_listed(
    small, refused, lenet, tmp_path
):
    small.save(tmp_path / "other.keras")
    source = f"--load_masks_from={tmp_path / 'other.keras'}"
    run = f"--output_dir={tmp_path / 'run'}"
    message = refused("train_resnet50", *lenet, FIXED, source, run)
    assert "The masks are of another architecture" in message
    assert "conv1/kernel: no mask" in message
    assert "first/kernel: no such weight" in message
    assert "logits/kernel: the mask is (4, 3), the weight (50, 10)" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["model.keras", "model.txt"])
def test_a_file_that_is_no_model_is_refused(name, refused, lenet, tmp_path):
    (tmp_path / name).write_text("a model, honestly")
    source = f"--load_masks_from={tmp_path / name}"
    run = f"--output_dir={tmp_path / 'run'}"
    message = refused("train_resnet50", *lenet, FIXED, source, run)
    assert f"or a model that tf_keras saved. Received: '{tmp_path / name}'" in message
