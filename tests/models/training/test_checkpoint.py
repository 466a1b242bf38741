"""Checkpoints that are whole are restored; others are refused and left alone."""

import gc
import shutil

import numpy as np
import pytest

from state_of_sparsity.engines.tf_keras.backend import keras
from state_of_sparsity.models.training.run_folder.checkpoint import (
    Checkpoint,
    CheckpointError,
)


def trained(units=4, steps=3):
    model = keras.Sequential(
        [
            keras.layers.Dense(units, input_shape=(2,), name="a"),
            keras.layers.Dense(1, name="b"),
        ]
    )
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    x = np.linspace(-1, 1, 8 * 2, dtype="float32").reshape(8, 2)
    if steps:
        model.fit(x, x[:, :1], epochs=steps, batch_size=8, verbose=0)
    return model


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


@pytest.fixture
def saved(folder):
    model = trained()
    Checkpoint(model).save(folder)
    return model


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def check_refused(folder, message, model=None, falls_back=False):
    before = contents(folder)
    with pytest.raises(CheckpointError, match=message) as error:
        Checkpoint(model or trained(steps=0)).restore(folder, falls_back)
    assert f"Move {folder} away" in str(error.value) or "Move it away" in str(
        error.value
    )
    assert "\n" not in str(error.value)
    assert contents(folder) == before


@pytest.mark.usefixtures("saved")
@pytest.mark.parametrize("units", [(5, 1), (4, 1, 1), (4,)])
def test_a_model_of_another_size_is_refused_and_not_talked_about_further(
    folder, units, logged
):
    model = keras.Sequential([keras.layers.Dense(n) for n in units])
    model.build((None, 2))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    check_refused(folder, "checkpoint of another model", model)
    # Then TensorFlow would list what it has not restored.
    del model
    gc.collect()
    assert logged == []


def test_weights_momenta_and_steps_come_back(folder, saved):
    restored = trained(steps=0)
    assert Checkpoint(restored).restore(folder) == 3
    for a, b in zip(saved.get_weights(), restored.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(
        saved.optimizer.variables, restored.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(a, b)
    momentum = restored.optimizer.variables[-1].numpy()
    assert np.any(momentum)


def test_without_a_folder_training_begins_at_step_0(folder):
    assert Checkpoint(trained(steps=0)).restore(folder) == 0


def test_the_last_two_checkpoints_are_kept(folder):
    model = trained(steps=0)
    checkpoint = Checkpoint(model)
    for step in (1, 2, 3, 4):
        model.optimizer.iterations.assign(step)
        assert checkpoint.save(folder) == step
    assert sorted(p.stem for p in folder.glob("*.index")) == ["ckpt-3", "ckpt-4"]


def test_nothing_is_written_before_the_first_step(folder):
    assert Checkpoint(trained(steps=0)).save(folder) == 0
    assert not folder.exists()


def test_a_step_that_is_on_disk_is_not_written_again(folder, saved):
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    restored = trained(steps=0)
    checkpoint = Checkpoint(restored)
    checkpoint.restore(folder)
    assert checkpoint.save(folder) == 3
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == before


def damage(path, how):
    whole = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "flipped":
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle:])
    else:
        path.write_bytes(whole[: int(how * len(whole))])


@pytest.fixture
def saved_twice(folder):
    """A folder with checkpoints of steps 2 and 3."""
    model = trained(steps=2)
    checkpoint = Checkpoint(model)
    checkpoint.save(folder)
    model.optimizer.iterations.assign(3)
    checkpoint.save(folder)
    return model


@pytest.mark.parametrize("how", [0.0, 0.5, 0.95, "missing", "flipped"])
@pytest.mark.parametrize("suffix", ["data-00000-of-00001", "index"])
def test_before_a_damaged_checkpoint_is_the_one_to_go_on_from(
    folder, saved_twice, suffix, how, capsys
):
    damage(folder / f"ckpt-3.{suffix}", how)
    check_refused(folder, "ckpt-3 cannot be read, it may be truncated")
    restored = trained(steps=0)
    checkpoint = Checkpoint(restored)
    assert checkpoint.restore(folder, falls_back=True) == 2
    out = capsys.readouterr().out
    assert out.startswith(f"warning: {folder / 'ckpt-3'} cannot be read, it may be tru")
    assert "The run goes on from step 2, the checkpoint before" in out
    assert out.count("\n") == 1
    for a, b in zip(saved_twice.get_weights(), restored.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    # The damaged one is written again when the run comes to its step.
    restored.optimizer.iterations.assign(3)
    checkpoint.save(folder)
    assert Checkpoint(trained(steps=0)).restore(folder) == 3


@pytest.mark.parametrize("how", [0.5, "missing"])
@pytest.mark.usefixtures("saved_twice")
def test_without_another_checkpoint_it_is_refused_and_left_alone(folder, how):
    for step in (2, 3):
        damage(folder / f"ckpt-{step}.data-00000-of-00001", how)
    message = "ckpt-3 cannot be read, .* There is no other checkpoint"
    check_refused(folder, message, falls_back=True)


def test_stray_files_are_refused(folder):
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    check_refused(folder, "holds files but no checkpoint")


@pytest.mark.usefixtures("saved")
def test_a_checkpoint_without_its_list_is_refused(folder):
    (folder / "checkpoint").unlink()
    check_refused(folder, "holds files but no checkpoint")


@pytest.mark.usefixtures("saved")
def test_what_a_killed_process_left_of_its_first_checkpoint_does_not_matter(folder):
    shutil.rmtree(folder)
    part = folder / "ckpt-3_temp" / "part-00000-of-00001.data-00000-of-00001"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"half")
    assert Checkpoint(trained(steps=0)).restore(folder) == 0
