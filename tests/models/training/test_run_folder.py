"""The folder of a run on disk."""

import pytest

import state_of_sparsity as sos
from state_of_sparsity.models.training.run_folder import (
    METRICS,
    DamagedError,
    RunFolder,
    RunFolderError,
)

SETTINGS = {"seed": "3", "sparsity": "0.9", "override": ["a=dense", "b=0.5"]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "one"


def row(step, **values):
    return dict.fromkeys(METRICS, 0.5) | {"step": step, **values}


def contents(folder):
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_flags_are_written_as_a_flagfile(path):
    RunFolder(path, SETTINGS, "how to").start()
    assert (path / "flags.txt").read_text().splitlines() == [
        "# how to",
        f"# Begun with state-of-sparsity {sos.__version__}.",
        "--seed=3",
        "--sparsity=0.9",
        "--override=a=dense",
        "--override=b=0.5",
    ]


def test_the_folder_of_a_round_shares_the_metrics_and_starts_the_run(path):
    run = RunFolder(path, SETTINGS, "how to")
    first = run.round(0, {"technique": "dense"}, "of a round")
    first.start()
    first.add_metrics(row(4))
    assert run.flags.is_file()
    assert (path / "rounds" / "0" / "flags.txt").read_text().splitlines() == [
        "# of a round",
        f"# Begun with state-of-sparsity {sos.__version__}.",
        "--technique=dense",
    ]
    run.round(1).add_metrics(row(8))
    assert [r["step"] for r in run.read_metrics()] == ["4", "8"]
    first.keep_metrics_until(4)
    assert [r["step"] for r in run.read_metrics()] == ["4"]
    first.write_result({})
    assert not run.is_finished


def test_a_new_or_empty_folder_is_free(path):
    RunFolder(path, SETTINGS).check_same_run()
    path.mkdir(parents=True)
    RunFolder(path, SETTINGS).check_same_run()
    assert not list(path.iterdir())


def test_the_same_settings_go_on_in_the_folder(path):
    RunFolder(path, SETTINGS).start()
    before = contents(path)
    again = RunFolder(path, SETTINGS)
    again.check_same_run()
    again.start()
    assert contents(path) == before


def test_other_settings_are_refused_and_all_that_differ_are_listed(path):
    RunFolder(path, SETTINGS).start()
    before = contents(path)
    other = {"seed": "4", "override": ["b=0.5"], "frequency": "2"}
    with pytest.raises(RunFolderError) as error:
        RunFolder(path, other).check_same_run()
    assert str(error.value).splitlines()[1:] == [
        "  --frequency: (not set) in the folder, 2 now",
        "  --override: a=dense, b=0.5 in the folder, b=0.5 now",
        "  --seed: 3 in the folder, 4 now",
        "  --sparsity: 0.9 in the folder, (not set) now",
    ]
    assert "Choose another --output_dir" in str(error.value)
    assert contents(path) == before


def test_a_folder_of_something_else_is_refused(path):
    path.mkdir(parents=True)
    (path / "thesis.tex").write_text("dear")
    with pytest.raises(RunFolderError, match=r"holds files but no run .*--output_dir"):
        RunFolder(path, SETTINGS).check_same_run()
    assert contents(path) == {"thesis.tex": b"dear"}


def test_a_file_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(RunFolderError, match=f"{file} is a file: choose another"):
        RunFolder(file).check_same_run()


def test_a_link_that_leads_nowhere_is_refused_and_holds_no_finished_run(tmp_path):
    for name, target in (("dangling", "nowhere"), ("loop", "loop")):
        (tmp_path / name).symlink_to(target)
        with pytest.raises(RunFolderError, match=f"{name} is a link that leads now"):
            RunFolder(tmp_path / name).check_same_run()
        assert not RunFolder(tmp_path / name / "run").is_finished


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    folder = RunFolder(tmp_path / "file" / "a" / "b")
    with pytest.raises(RunFolderError, match=r"--output_dir=.*/a/b cannot be written"):
        folder.start()


@pytest.mark.parametrize("version", ["0.1.7.", "100.0.0.", None])
def test_a_run_of_another_version_is_one_message(path, version):
    folder = RunFolder(path, SETTINGS)
    folder.start()
    begun = f"state-of-sparsity {sos.__version__}."
    text = folder.flags.read_text()
    other = f"state-of-sparsity {version}" if version else "state"
    folder.flags.write_text(text.replace(begun, other))
    named = f"state-of-sparsity {version[:-1]}" if version else "a version that is not"
    message = f"begun with {named}.*, and this is {sos.__version__}: "
    with pytest.raises(RunFolderError, match=message):
        folder.check_same_run()


@pytest.mark.parametrize("text", ["", "[]", '{"quality": 0.', "\0\0\0"])
def test_a_damaged_result_is_no_finished_run(path, text):
    folder = RunFolder(path)
    folder.start()
    folder.result.write_text(text)
    assert not folder.is_finished
    with pytest.raises(DamagedError, match=r"result.json is damaged \("):
        folder.read_result()


def test_what_a_killed_process_left_half_written_is_removed(path):
    folder = RunFolder(path, SETTINGS)
    folder.start()
    before = contents(path) | {".lock": b"", "checkpoints/ckpt-4.index": b""}
    for name in (
        ".lock",
        "checkpoints/ckpt-4.index",
        "checkpoints/ckpt-8_temp/part-0",
        ".export-0a1b2c3d/new/export/saved_model.pb",
        ".result.json.new",
        "weights/.step_0.npz-abcd1234/new/step_0.npz",
    ):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("")
    folder.start()
    assert contents(path) == before


def test_metrics_are_read_back_in_order_with_all_columns(path):
    folder = RunFolder(path)
    folder.start()
    assert folder.read_metrics() == []
    for step in (4, 8):
        folder.add_metrics(row(step))
    assert [r["step"] for r in folder.read_metrics()] == ["4", "8"]
    assert folder.metrics.read_text().splitlines()[0] == ",".join(METRICS)


def test_metrics_are_written_with_six_digits(path):
    folder = RunFolder(path)
    folder.start()
    folder.add_metrics(row(128_000, loss=1 / 3, quality=0.9666666388511658))
    (line,) = folder.read_metrics()
    assert (line["step"], line["loss"], line["quality"]) == (
        "128000",
        "0.333333",
        "0.966667",
    )


@pytest.mark.parametrize(("step", "kept"), [(0, []), (4, [4]), (7, [4]), (8, [4, 8])])
def test_metrics_after_the_step_of_a_checkpoint_are_dropped(path, step, kept):
    folder = RunFolder(path)
    folder.start()
    folder.add_metrics(row(4))
    folder.add_metrics(row(8))
    folder.keep_metrics_until(step)
    assert [int(r["step"]) for r in folder.read_metrics()] == kept


def test_the_result_marks_a_finished_run(path):
    folder = RunFolder(path)
    folder.start()
    assert not folder.is_finished
    folder.write_result({"quality": 0.5})
    assert folder.is_finished
    assert folder.read_result() == {"quality": 0.5}


def test_a_write_that_fails_leaves_the_file_as_it_was(path, monkeypatch):
    folder = RunFolder(path)
    folder.start()
    folder.write_result({"quality": 0.5})

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        folder.write_result({"quality": 0.6})
    assert folder.read_result() == {"quality": 0.5}
