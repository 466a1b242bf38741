"""What killed writes left is removed, and nothing else."""

import pathlib

import pytest

from state_of_sparsity import atomic
from state_of_sparsity.models.training import leftovers
from state_of_sparsity.models.training.run_folder import RunFolder, write_text
from tests.models.training.interrupted import Killed, kill


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path, {"seed": "0"})
    folder.start()
    return folder


def names(folder):
    return sorted(str(p.relative_to(folder.path)) for p in folder.path.rglob("*"))


def write(path, text="whole"):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def killed_in(monkeypatch, owner, name, write, *arguments):
    """A write that is killed when it calls a function for the last time."""
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, kill)
        # As if the process were gone: nobody tidies up.
        patch.setattr(atomic.tempfile.TemporaryDirectory, "__exit__", lambda *a: None)
        with pytest.raises(Killed):
            write(*arguments)


@pytest.mark.filterwarnings("ignore:Implicitly cleaning up")
def test_half_written_files_and_folders_are_removed(folder, monkeypatch):
    before = names(folder)
    for path in (folder.metrics, folder.result):
        killed_in(monkeypatch, pathlib.Path, "replace", write_text, path, "half")
    left = [
        ".export-abcd_123/new/export/saved_model.pb",
        ".masks.npz-0a1b2c3d/new/masks.npz",
        "weights/.step_4.npz-0a1b2c3d/new/step_4.npz",
        "vocabulary.model.1234.tmp",
        "checkpoints/ckpt-8_temp/part-00000-of-00001.data-00000-of-00001",
        "checkpoints/ckpt-8.data-00000-of-00001",
        "checkpoints/checkpoint.tmp0f0f0f",
    ]
    for name in left:
        path = folder.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    assert len(names(folder)) > len(before) + len(left)
    leftovers.remove(folder)
    assert names(folder) == sorted([*before, "checkpoints", "weights"])


def test_what_is_whole_and_what_is_the_users_stays(folder):
    for name in (
        "checkpoints/ckpt-8.index",
        "checkpoints/ckpt-8.data-00000-of-00001",
        "weights/step_0.npz",
        ".notes.txt.new",
        ".thesis-abcd1234",
        # An evaluation, which may go on meanwhile.
        ".thresholds.csv.new",
    ):
        write(folder.path / name)
    before = names(folder)
    leftovers.remove(folder)
    assert names(folder) == before


def test_a_checkpoint_that_is_listed_without_its_index_is_not_removed(folder):
    data = write(folder.checkpoints / "ckpt-8.data-00000-of-00001")
    write(folder.checkpoints / "checkpoint", 'model_checkpoint_path: "ckpt-8"\n')
    leftovers.remove(folder)
    assert data.exists()


def test_what_was_being_replaced_comes_back(folder):
    export = folder.export
    old = folder.path / ".export-abcd1234" / "old" / "export"
    old.mkdir(parents=True)
    (old / "saved_model.pb").write_text("old")
    leftovers.remove(folder)
    assert (export / "saved_model.pb").read_text() == "old"
    # Unless the new one is there.
    second = folder.path / ".export-abcd1234" / "old" / "export"
    second.mkdir(parents=True)
    (second / "saved_model.pb").write_text("older")
    leftovers.remove(folder)
    assert (export / "saved_model.pb").read_text() == "old"
    assert not second.parent.exists()
