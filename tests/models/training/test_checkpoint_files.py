"""The newest checkpoint that is whole is the one that is gone on from."""

import pytest

from state_of_sparsity.engines.tf_keras.backend import tf
from state_of_sparsity.models.training import checkpoint_files
from state_of_sparsity.models.training.checkpoint import CheckpointError


class State:
    """As many values as it takes for half a file to lack some."""

    def __init__(self, folder):
        self.step = tf.Variable(0, dtype=tf.int64)
        self.values = tf.Variable(tf.random.stateless_normal([1000], (1, 2)))
        self.checkpoint = tf.train.Checkpoint(step=self.step, values=self.values)
        self.folder = folder

    def save(self, step):
        self.step.assign(step)
        manager = tf.train.CheckpointManager(self.checkpoint, self.folder, 2)
        manager.save(checkpoint_number=step)

    def restored(self):
        self.step.assign(-1)
        newest = tf.train.latest_checkpoint(self.folder)
        self.checkpoint.restore(newest).assert_consumed()
        return int(self.step)


@pytest.fixture
def state(tmp_path):
    state = State(tmp_path / "checkpoints")
    for step in (4, 8):
        state.save(step)
    return state


@pytest.fixture
def folder(state):
    return state.folder


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def damage(path, how):
    whole = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "flipped":
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle:])
    else:
        path.write_bytes(whole[: int(how * len(whole))])


def test_whole_checkpoints_are_left_alone(state, capsys):
    before = contents(state.folder)
    checkpoint_files.set_aside_damaged(state.folder)
    assert contents(state.folder) == before
    assert capsys.readouterr().out == ""
    assert checkpoint_files.newest_step(state.folder) == 8


@pytest.mark.parametrize("how", [0.0, 0.5, 0.95, "missing", "flipped"])
@pytest.mark.parametrize("suffix", ["data-00000-of-00001", "index"])
def test_before_a_damaged_checkpoint_is_the_one_to_go_on_from(
    state, suffix, how, capsys
):
    damage(state.folder / f"ckpt-8.{suffix}", how)
    left = {p.name for p in state.folder.glob("ckpt-8.*")}
    checkpoint_files.set_aside_damaged(state.folder)
    out = capsys.readouterr().out
    assert out.startswith(f"warning: {state.folder / 'ckpt-8'} cannot be read")
    assert "the run goes on from step 4, the checkpoint before" in out
    assert out.count("\n") == 1
    assert state.restored() == 4
    # It is not lost, and not in the way.
    assert {p.name for p in (state.folder / "damaged").iterdir()} == left
    state.save(6)
    state.save(8)
    assert state.restored() == 8
    assert sorted(p.stem for p in state.folder.glob("*.index")) == ["ckpt-6", "ckpt-8"]


@pytest.mark.parametrize("how", [0.5, "missing"])
def test_without_another_checkpoint_it_is_refused_and_left_alone(folder, how):
    for step in (4, 8):
        damage(folder / f"ckpt-{step}.data-00000-of-00001", how)
    before = contents(folder)
    with pytest.raises(
        CheckpointError, match=r"ckpt-8 cannot be read, .* no other"
    ) as e:
        checkpoint_files.set_aside_damaged(folder)
    assert f"Move {folder} away" in str(e.value)
    assert contents(folder) == before


@pytest.mark.parametrize("how", ["missing", 0.5, "flipped"])
def test_a_list_of_checkpoints_is_made_again(state, how):
    damage(state.folder / "checkpoint", how)
    checkpoint_files.set_aside_damaged(state.folder)
    assert state.restored() == 8
    state.save(12)
    assert sorted(p.stem for p in state.folder.glob("*.index")) == ["ckpt-12", "ckpt-8"]


def test_a_checkpoint_that_was_written_and_not_listed_yet_counts(state):
    listed = (state.folder / "checkpoint").read_bytes()
    state.save(12)
    (state.folder / "checkpoint").write_bytes(listed)
    checkpoint_files.set_aside_damaged(state.folder)
    assert state.restored() == 12


def test_a_folder_without_checkpoints_is_nothing_to_set_aside(tmp_path):
    checkpoint_files.set_aside_damaged(tmp_path / "none")
    checkpoint_files.set_aside_damaged(tmp_path)
    assert checkpoint_files.newest_step(tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_other_files_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="holds files but no checkpoint"):
        checkpoint_files.set_aside_damaged(tmp_path)
