"""TensorBoard has each step of a run once, however often it was interrupted."""

import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import (
    EventAccumulator,
)

from state_of_sparsity.engines.tf_keras.backend import tf
from state_of_sparsity.models.training.loop.summaries import log_restart
from state_of_sparsity.models.training.run_folder.checkpoint import Checkpoint
from tests.models.training.interrupted import Killed, interrupted_at, kill


def shown(folder):
    """The steps of each tag in each folder, as TensorBoard reads them."""
    steps = {}
    for path in sorted(p for p in folder.iterdir() if p.is_dir()):
        accumulator = EventAccumulator(str(path), size_guidance={"tensors": 0})
        accumulator.Reload()
        for tag in accumulator.Tags()["tensors"]:
            steps[path.name, tag] = [e.step for e in accumulator.Tensors(tag)]
    return steps


def write(folder, values):
    with tf.summary.create_file_writer(str(folder)).as_default():
        for tag, step in values:
            tf.summary.scalar(tag, 1.0, step=step)


@pytest.mark.slow
def test_a_run_that_was_killed_and_interrupted_shows_each_step_once(
    tiny_run, pruning, finished
):
    expected = shown(finished.folder.tensorboard)
    for (part, _), steps in expected.items():
        # Hyperparameters have no step.
        assert steps in ([[0], [12]] if part == "result" else [[4, 8, 12]])
    run = tiny_run(pruning)
    # Before its checkpoint, but with its row and its summaries.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "save", kill)
        with pytest.raises(Killed):
            run.train()
    with interrupted_at(7, kill, Killed):
        tiny_run(pruning).train()
    with interrupted_at(10):
        tiny_run(pruning).train()
    tiny_run(pruning).train()
    assert shown(run.folder.tensorboard) == expected


def test_what_comes_later_is_dropped(tmp_path):
    write(tmp_path / "train", [("loss", 4), ("rate", 4), ("loss", 8), ("rate", 8)])
    write(tmp_path / "sparsity", [("sparsity", 8)])
    log_restart(tmp_path, step=4)
    write(tmp_path / "train", [("loss", 6)])
    expected = {("train", "loss"): [4, 6], ("train", "rate"): [4]}
    expected["sparsity", "sparsity"] = []
    assert shown(tmp_path) == expected


def test_a_file_that_ends_in_the_middle_of_a_value_keeps_what_is_before(tmp_path):
    write(tmp_path / "a", [("loss", 4), ("loss", 6), ("loss", 8)])
    (file,) = (tmp_path / "a").iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    log_restart(tmp_path, step=4)
    assert shown(tmp_path) == {("a", "loss"): [4]}


def test_without_a_folder_there_is_nothing_to_drop(tmp_path):
    log_restart(tmp_path / "none", 0)
