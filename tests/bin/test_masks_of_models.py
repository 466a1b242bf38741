"""--load_masks_from a model that tf_keras saved, pruned by TF-MOT or plain."""

import json

import numpy as np
import pytest
import tensorflow_model_optimization as tfmot
from absl import flags

import state_of_sparsity as sos
from state_of_sparsity.bin import runs
from state_of_sparsity.engines.tf_keras.backend import keras
from state_of_sparsity.models.images.resnet import resnet

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


@pytest.fixture(scope="module")
def pruned():
    """Of the network that the flags `tiny` train."""
    return pruned_by_tf_mot(resnet(18, 10, 0.05, (32, 32, 3)))


@pytest.fixture(scope="module")
def trained(pruned, command, tiny, tmp_path_factory):
    """The folder of a run with the masks of a file that is gone by now."""
    folder = tmp_path_factory.mktemp("runs")
    pruned.save(folder / "pruned.keras")
    given = (*tiny, FIXED, f"--load_masks_from={folder / 'pruned.keras'}")
    outcome = command("train_resnet50", *given, f"--output_dir={folder / 'run'}")
    assert outcome.code == 0, outcome
    (folder / "pruned.keras").unlink()
    return folder / "run"


@pytest.mark.slow
def test_masks_of_tf_mot_are_those_of_the_trained_model(pruned, trained):
    masks = sos.load_masks(trained / "masks.npz")
    np.testing.assert_equal(masks, sos.weight_masks(pruned))
    # TF-MOT counts what stays, rounded.
    assert np.mean(~masks["stage4_block2_conv2/kernel"]) == pytest.approx(0.7, abs=1e-3)
    result = json.loads((trained / "result.json").read_text())
    zeros = sum((~mask).sum() for mask in masks.values())
    assert result["parameters"] - result["nonzero_parameters"] == zeros


@pytest.mark.slow
def test_the_run_is_scored_without_the_model_that_its_masks_are_from(trained, command):
    outcome = command("evaluate_resnet50", f"--run_dir={trained}")
    assert outcome.code == 0, outcome


def small():
    return keras.Sequential(
        [
            keras.layers.Dense(4, input_shape=(5,), name="first"),
            keras.layers.Dense(3, name="logits"),
        ]
    )


@pytest.mark.parametrize("suffix", [".keras", ".h5", ""])
@pytest.mark.parametrize("kind", ["wrapped", "stripped"])
def test_masks_of_each_format(kind, suffix, command, tmp_path):
    pruned = pruned_by_tf_mot(small())
    masks = sos.weight_masks(pruned)
    path = tmp_path / f"model{suffix}"
    (pruned if kind == "wrapped" else sos.strip(pruned)).save(path)
    np.testing.assert_equal(fixed(f"--load_masks_from={path}"), masks)
    # It is reported and exported, too.
    outcome = command("report_sparsity", f"--model={path}")
    assert "first/kernel" in outcome.out, outcome
    assert "sparsity 68.75%" in outcome.out
    arguments = (f"--model={path}", f"--export_dir={tmp_path / 'export'}")
    assert command("export_model", *arguments).code == 0


def fixed(*arguments):
    values = flags.FlagValues()
    runs.define_run_flags("train_resnet50", values)
    values(["train_resnet50", FIXED, *arguments])
    run = runs.run_from_flags("train_resnet50", values)
    return dict(run.sparsification.technique.masks)


def test_what_differs_in_a_model_of_another_architecture_is_listed(
    refused, tiny, tmp_path
):
    pruned_by_tf_mot(small()).save(tmp_path / "other.keras")
    source = f"--load_masks_from={tmp_path / 'other.keras'}"
    run = f"--output_dir={tmp_path / 'run'}"
    message = refused("train_resnet50", *tiny, FIXED, source, run)
    assert "The masks are of another architecture" in message
    assert "conv1/kernel: no mask" in message
    assert "first/kernel: no such weight" in message
    assert "logits/kernel: the mask is (4, 3), the weight (26, 10)" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["model.keras", "model.h5", "model.txt"])
def test_a_file_that_is_no_model_is_refused(name, refused, tiny, tmp_path):
    (tmp_path / name).write_text("a model, honestly")
    source = f"--load_masks_from={tmp_path / name}"
    run = f"--output_dir={tmp_path / 'run'}"
    message = refused("train_resnet50", *tiny, FIXED, source, run)
    assert f"or a model that tf_keras saved. Received: '{tmp_path / name}'" in message
