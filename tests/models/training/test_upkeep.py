"""What is checked and mended in a run's folder before its run goes on."""

import pytest

import state_of_sparsity as sos
from state_of_sparsity.models.training import upkeep
from state_of_sparsity.models.training.checkpoint import CheckpointError
from state_of_sparsity.models.training.run_folder import (
    METRICS,
    DamagedError,
    RunFolder,
    RunFolderError,
)

SETTINGS = {"technique": "dense", "load_weights_from": "/data/Läufe"}
HEADER = ",".join(METRICS)


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run", SETTINGS, "Repeat this run")
    folder.start()
    return folder


@pytest.mark.parametrize("name", ["metrics.csv", "result.json", "layers.csv"])
def test_a_users_folder_in_the_place_of_a_file_is_refused(folder, name):
    path = folder.path / name
    path.mkdir()
    with pytest.raises(RunFolderError, match=f"{path} is a folder.* move it away"):
        upkeep.prepare(folder)


def test_a_users_folder_in_the_place_of_the_flags_is_refused(folder):
    folder.flags.unlink()
    folder.flags.mkdir()
    with pytest.raises(RunFolderError, match=r"flags.txt is a folder.* move it away"):
        folder.check_same_run()


@pytest.mark.parametrize(
    "name", ["checkpoints", "weights", "tensorboard", "tensorboard/train", "export"]
)
def test_a_users_file_in_the_place_of_a_folder_is_refused(folder, name):
    path = folder.path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    with pytest.raises(RunFolderError, match=f"{path} is a file.* move it away"):
        upkeep.prepare(folder)
    assert path.read_text() == "mine"


def test_a_users_files_in_the_export_are_refused(folder):
    folder.export.mkdir()
    (folder.export / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="holds files but no SavedModel: move"):
        upkeep.prepare(folder)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "sets no flag"),
        (b"# Repeat this run\n", "sets no flag"),
        (b"--technique=dense\nqwertz\n", "line 2 is no flag: 'qwertz'"),
        (b"--technique=d\xff\xfe\n", "not UTF-8"),
    ],
)
def test_damaged_flags_are_one_message(folder, content, expected):
    folder.flags.write_bytes(content)
    with pytest.raises(DamagedError, match=rf"flags.txt is damaged \(.*{expected}"):
        folder.check_same_run()
    assert folder.flags.read_bytes() == content


@pytest.mark.parametrize(
    "content",
    [
        b"step,loss\n4,0.5\n",
        f"{HEADER}\n4,1,0.5\n".encode(),
        f"{HEADER}\n4,1,0.5,0.5,0.5,fast\n".encode(),
        f"{HEADER}\n4,1,0.5,0.5,0.5,0.1,7\n".encode(),
        b"\xff\xfe\x00",
        b"mine",
        b"",
    ],
)
def test_damaged_metrics_are_one_message(folder, content):
    folder.metrics.write_bytes(content)
    with pytest.raises(DamagedError, match=r"metrics\.csv is damaged .* move it away"):
        upkeep.prepare(folder)
    assert folder.metrics.read_bytes() == content


def test_metrics_that_are_whole_are_taken(folder):
    folder.add_metrics(dict.fromkeys(METRICS, 0.5) | {"step": 4, "loss": 1e-7})
    upkeep.prepare(folder)


@pytest.mark.parametrize("text", ["", "[]", '{"quality": 0.', "\0\0\0"])
def test_a_damaged_result_is_no_finished_run(folder, text):
    folder.result.write_text(text)
    assert not folder.is_finished
    with pytest.raises(DamagedError, match=r"result.json is damaged \("):
        folder.read_result()
    with pytest.raises(RunFolderError, match="is damaged, and there is no checkpoint"):
        upkeep.prepare(folder)
    assert folder.result.read_text() == text


def test_damaged_checkpoints_are_refused_before_a_model_is_built(folder):
    folder.checkpoints.mkdir()
    (folder.checkpoints / "ckpt-4.index").write_text("half")
    with pytest.raises(CheckpointError, match="ckpt-4 cannot be read"):
        upkeep.prepare(folder)


def test_flags_say_which_version_began_the_run(folder):
    assert folder.version == sos.__version__
    assert folder.say_which_version() == ""


def test_a_run_of_a_version_that_did_not_say_so_goes_on_or_names_it(folder):
    lines = folder.flags.read_text().splitlines()
    folder.flags.write_text("\n".join(x for x in lines if "Begun with" not in x))
    folder.check_same_run()
    assert folder.version == "0.1.0"
    with folder.flags.open("a") as file:
        file.write("\n--network=resnet\n")
    assert folder.version == "0.2.0"
    folder.flags.write_text("\n".join(x for x in lines if "Begun with" not in x))
    assert f"0.1.0, and this is {sos.__version__}" in folder.say_which_version()
    other = RunFolder(folder.path, SETTINGS | {"seed": "1"})
    with pytest.raises(RunFolderError, match=r"--seed.*\n.*begun with .* 0.1.0, and"):
        other.check_same_run()


def test_a_path_is_the_same_in_each_locale(folder):
    as_in_ascii = "/data/Läufe".encode().decode("ascii", "surrogateescape")
    RunFolder(
        folder.path, SETTINGS | {"load_weights_from": as_in_ascii}
    ).check_same_run()
    again = RunFolder(folder.path.with_name("again"), {"budget": as_in_ascii})
    again.start()
    assert "--budget=/data/Läufe" in again.flags.read_text(encoding="utf-8")
