"""Runs that are killed at any moment, and go on as if they had not been."""

import time

import numpy as np
import pytest

from state_of_sparsity.engines.tf_keras.backend import tf
from state_of_sparsity.models.training.loop import training
from state_of_sparsity.models.training.run_folder import RunFolder
from tests.bin.test_processes import start
from tests.models.training.interrupted import raise_keyboard_interrupt

TRANSFORMER = (
    "--layers=1",
    "--width=8",
    "--feed_forward=16",
    "--heads=2",
    "--dropout=0.3",
    "--tokens_per_replica=256",
    "--train_steps=20",
    "--eval_steps=10",
    "--checkpoint_every_steps=3",
    "--max_length=6",
    "--extra_length=2",
    "--beams=1",
    "--distribution=one_device",
)


def values(folder):
    """Those of the last checkpoint by name, but for how many were written before."""
    reader = tf.train.load_checkpoint(str(folder.checkpoints))
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if not name.startswith(("save_counter", "_CHECKPOINTABLE"))
    }


@pytest.mark.slow
def test_a_killed_transformer_ends_with_the_same_bits(command, tmp_path, monkeypatch):
    """Wherever the kill comes, between two steps or while it writes."""
    flags = (*TRANSFORMER, "--technique=variational_dropout")
    whole, killed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    with monkeypatch.context() as patch:
        # It is trained; of its export and scores, others tell.
        patch.setattr(training, "finish", raise_keyboard_interrupt)
        outcome = command("train_transformer", *flags, f"--output_dir={whole.path}")
    assert "interrupted, and saved at step 20: " in outcome.err
    process = start("train_transformer", *flags, f"--output_dir={killed.path}")
    # As soon as it has written a checkpoint.
    while not step_on_disk(killed) and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    seen = step_on_disk(killed)
    assert not killed.is_finished
    outcome = command("train_transformer", *flags, f"--output_dir={killed.path}")
    assert (outcome.code, outcome.err) == (0, "")
    assert f"Going on from step {seen} of 20." in outcome.out
    expected, found = values(whole), values(killed)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, name)
    # The mean over an interval that was cut is that of its last steps.
    assert [row["validation_loss"] for row in killed.read_metrics()] == [
        row["validation_loss"] for row in whole.read_metrics()
    ]


def step_on_disk(folder):
    newest = tf.train.latest_checkpoint(str(folder.checkpoints))
    return int(newest.rpartition("-")[2]) if newest else 0
