"""Published checkpoints: reported, and a ResNet-50 made the folder of a run."""

import json
import re
import shutil

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.models.images.resnet import resnet
from state_of_sparsity.models.published.resnet50 import (
    default_threshold,
    load_resnet50,
)
from state_of_sparsity.models.published.tf1_checkpoint import TF1Checkpoint
from state_of_sparsity.models.runs import folders as runs
from state_of_sparsity.models.training.run_folder.checkpoint import CheckpointError
from tests import published

WIDTH = "--width=0.05"
TECHNIQUES = ("pruning", "variational_dropout", "l0_regularization", "dense")
UNKNOWN = "resnet_model/initial_conv/last_mask_update_step"


def narrow():
    return resnet(50, classes=10, width=0.05, image_shape=(32, 32, 3))


@pytest.fixture(scope="module")
def dense():
    """A ResNet-50 whose kernels are those that were published last."""
    return narrow()


@pytest.fixture(scope="module")
def other():
    """Another one, which takes weights from checkpoints."""
    return narrow()


def publish(model, technique, **options):
    """The variables of a checkpoint of some values of the model, and its masks."""
    rng = np.random.default_rng(TECHNIQUES.index(technique))
    published.scatter(model, rng)
    return published.resnet50(model, technique, rng, **options)


def import_of(prefix, folder, *flags):
    return (
        "import_checkpoint",
        f"--tf1_checkpoint={prefix}",
        f"--output_dir={folder}",
        "--dataset=digits",
        *flags,
    )


@pytest.fixture(scope="module")
def pruned(dense, command, images, tmp_path_factory):
    """An imported folder, its masks, the published model's logits, what was printed.

    As an extended run, it has a dense first layer.
    """
    folder = tmp_path_factory.mktemp("published")
    variables, masks = publish(dense, "pruning", dense=("initial_conv",))
    prefix = published.write(folder / "model.ckpt-7", variables | {UNKNOWN: 3.0})
    outcome = command(*import_of(prefix, folder / "run", WIDTH))
    assert outcome.code == 0, outcome
    return folder / "run", masks, dense(images).numpy(), outcome.out


@pytest.mark.slow
def test_the_imported_model_gives_the_logits_of_the_published_one(pruned, load, images):
    folder, masks, logits, _ = pruned
    model = load(folder)[1]
    assert np.abs(logits).max() > 0.01
    np.testing.assert_allclose(model(images), logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_equal(sos.load_masks(folder / "masks.npz"), masks)
    report = sos.sparsity_report(model)
    assert {x.name: x.zeros for x in report.layers} == {
        name: (~mask).sum() for name, mask in masks.items()
    }


@pytest.mark.slow
def test_the_folder_is_that_of_a_run_without_a_result(pruned):
    folder, masks, _, printed = pruned
    assert {path.name for path in folder.iterdir()} == {
        "flags.txt",
        "checkpoints",
        "masks.npz",
        "layers.csv",
        "sparsity.png",
        "imported.json",
    }
    source = json.loads((folder / "imported.json").read_text())
    assert source == {
        "tf1_checkpoint": str(folder.parent / "model.ckpt-7"),
        "step": 7,
    }
    zeros = sum((~mask).sum() for mask in masks.values())
    sparsity = zeros / sum(mask.size for mask in masks.values())
    assert f"step 7, sparsity {sparsity:.2%}" in printed
    assert f"this found no place: {UNKNOWN}." in printed


@pytest.mark.slow
def test_the_imported_model_is_scored(pruned, command):
    outcome = command("evaluate_resnet50", f"--run_dir={pruned[0]}")
    assert outcome.code == 0, outcome
    scores = json.loads(outcome.out)
    assert (scores["step"], scores["split"]) == (7, "test")
    assert 0 <= scores["quality"] <= 1


@pytest.mark.slow
def test_masks_of_an_imported_model_are_fixed_in_another_run(pruned, tmp_path):
    folder, masks, _, _ = pruned
    moved = shutil.copytree(folder, tmp_path / "moved")
    run, _ = runs.read_run(moved)
    assert run.sparsification.name == "fixed_mask"
    assert run.flags()["load_masks_from"] == str(moved / "masks.npz")
    np.testing.assert_equal(dict(run.sparsification.technique.masks), masks)


@pytest.mark.slow
def test_what_was_imported_is_no_run_to_go_on_with(pruned, refused):
    folder = pruned[0]
    message = refused(
        "train_resnet50", f"--flagfile={folder / 'flags.txt'}", f"--output_dir={folder}"
    )
    assert "holds a model that was imported (imported.json)" in message
    assert not (folder / "result.json").exists()


def loaded(model, variables, folder):
    """The masks of a checkpoint, whose weights the model takes."""
    checkpoint = TF1Checkpoint(published.write(folder / "model.ckpt-7", variables))
    return load_resnet50(model, checkpoint, default_threshold(checkpoint))


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_each_technique_is_loaded_and_reported_as_it_was_deployed(
    technique, dense, other, command, images, tmp_path
):
    variables, masks = publish(dense, technique)
    np.testing.assert_equal(loaded(other, variables, tmp_path), masks)
    logits = dense(images)
    np.testing.assert_allclose(other(images), logits, rtol=1e-5, atol=1e-6)

    path = tmp_path / "layers.csv"
    flags = (f"--tf1_checkpoint={tmp_path / 'model.ckpt-7'}", f"--csv={path}")
    outcome = command("report_sparsity", *flags)
    assert outcome.code == 0, outcome
    zeros = sum((~mask).sum() for mask in masks.values())
    size = sum(mask.size for mask in masks.values())
    assert f"sparsity {zeros / size:.2%} over {len(masks)} tensors" in outcome.out
    parameters = sum(w.shape.num_elements() for w in dense.trainable_weights)
    assert f"of {parameters:,} par" in outcome.out
    for line in path.read_text().splitlines()[1:]:
        assert line.endswith(technique)


def test_another_threshold_moves_what_is_zero(dense, command, refused, tmp_path):
    variables, _ = publish(dense, "variational_dropout")
    prefix = published.write(tmp_path / "model.ckpt-7", variables)
    given = (f"--tf1_checkpoint={prefix}", "--log_alpha_threshold=9")
    assert "sparsity 0.00% over 54 tensors" in command("report_sparsity", *given).out
    given = (f"--tf1_checkpoint={prefix}", "--log_alpha_threshold=nan")
    assert "log_alpha_threshold must be finite" in refused("report_sparsity", *given)


@pytest.fixture(scope="module")
def variables(dense):
    """Of a pruned ResNet-50, by name."""
    return publish(dense, "pruning")[0]


def without(variables, beginning):
    return {n: v for n, v in variables.items() if not n.startswith(beginning)}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda v: without(v, "resnet_model/bottleneck_2_block_group4_1_1"),
            "one counterpart there: stage4_block2_conv2/kernel (no "
            "…/bottleneck_2_block_group4_1_1/weights). There without one here: none",
        ),
        (
            lambda v: v | {"resnet_model/bottleneck_1_block_group3_6_1/weights": [1.0]},
            "there: none. There without one here: "
            "resnet_model/bottleneck_1_block_group3_6_1/weights.",
        ),
        (
            lambda v: v | {"other/final_dense/weights": [1.0]},
            "logits/kernel (other/final_dense/weights and resnet_model/final_dense/w",
        ),
        (
            lambda v: {"a/q/kernel": np.ones((2, 2)), "global_step": np.int64(3)},
            "and 257 more. There without one here: a/q/kernel.",
        ),
    ],
)
def test_what_differs_in_a_checkpoint_of_another_network_is_listed(
    change, expected, other, variables, tmp_path
):
    with pytest.raises(CheckpointError, match=re.escape(expected)):
        loaded(other, change(variables), tmp_path)


@pytest.mark.parametrize(
    ("change", "flag", "expected"),
    [
        (lambda v: v, "--width=0.1", "of another width, or for another number of cla"),
        (lambda v: v | {"global_step": np.int64(0)}, WIDTH, "trained: its step is 0"),
        (
            lambda v: without(v, "global_step"),
            WIDTH,
            "does not say how long it was trained",
        ),
        (lambda v: v, "--dataset=imagenet2012", "pass it with --data_dir"),
    ],
)
def test_what_cannot_be_imported_leaves_no_folder(
    change, flag, expected, variables, refused, tmp_path
):
    prefix = published.write(tmp_path / "model.ckpt-7", change(variables))
    assert expected in refused(*import_of(prefix, tmp_path / "run", flag))
    assert not (tmp_path / "run").exists()


def test_names_of_the_published_code_are_found_as_well(other, variables, tmp_path):
    """The first block of a group, as the code that makes it calls it."""
    renamed = {}
    for name, value in variables.items():
        scope = name.split("/")[1] if "/" in name else ""
        if "block_group" in scope and not scope.endswith("_1"):
            group = f"block_group{scope[-1]}"
            name = name.replace(group, f"block_group_projection_{group}")
        renamed[name] = value
    assert renamed.keys() - variables.keys()
    found = [
        (loaded(other, given, tmp_path), other.get_weights())
        for given in (renamed, variables)
    ]
    np.testing.assert_equal(*found)


def test_a_report_is_of_a_model_or_a_checkpoint(command, tmp_path):
    flags = (f"--model={tmp_path}", f"--tf1_checkpoint={tmp_path}")
    outcome = command("report_sparsity", *flags)
    assert outcome.code == 2
    assert "Give one of --model and --tf1_checkpoint" in outcome.err
