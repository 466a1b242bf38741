"""What users get wrong: one message each, that names the value and the way out."""

import shutil

import pytest
import tensorflow_datasets as tfds

import state_of_sparsity as sos
from tests.models.images import test_mnist
from tests.models.training import test_records

# The head of flags.txt.
BEGUN = f"# train_resnet50\n# Begun with state-of-sparsity {sos.__version__}.\n"


@pytest.mark.feature("others: exit status of what is wrong with flags")
@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("technique=dense", "this is not a flag: technique=dense"),
        ("--techniqe=dense", "Did you mean: technique"),
        ("--technique=foo", "<dense|magnitude_pruning|random_pruning|"),
        ("--depth=deep", "--depth=deep"),
        ("--flagfile=none.flags", "none.flags"),
        ("--worker_timeout=9", "went in 0.4.0"),
        ("--noseed", "seed"),
    ],
)
def test_all_that_is_wrong_with_flags_has_one_exit_status(command, flag, expected):
    outcome = command("train_resnet50", flag)
    assert outcome.code == 2
    assert outcome.err.startswith("train_resnet50: ")
    assert expected in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("given", ["grid", "fixed", "flagfiles"])
def test_a_sweep_says_the_same_of_a_flag_that_went(refused, tmp_path, given):
    flagfile = tmp_path / "old.flags"
    flagfile.write_text("--worker_timeout=9")
    value = flagfile if given == "flagfiles" else "worker_timeout=9"
    message = refused("sweep", f"--{given}={value}", f"--output_dir={tmp_path / 'out'}")
    instead = "workers wait as long as TensorFlow does"
    assert message == f"sweep: --worker_timeout went in 0.4.0: {instead}.\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flag", "instead"),
    [
        ("--strict_data", "a damaged record is always an error"),
        ("--nostrict_data", "a damaged record is always an error"),
        ("--worker_timeout=9", "workers wait as long as TensorFlow does"),
        ("--cpu_devices=2", "examples/two_workers.py"),
    ],
)
def test_a_flag_that_went_says_since_when_and_what_to_do(
    refused, tiny, tmp_path, flag, instead
):
    flagfile = tmp_path / "old.flags"
    flagfile.write_text(flag)
    name = flag.partition("=")[0].replace("no", "").lstrip("-")
    for argument in (flag, f"--flagfile={flagfile}"):
        message = refused("train_resnet50", *tiny, argument)
        assert message.startswith(f"train_resnet50: --{name} went in 0.4.0: ")
        assert instead in message


def test_what_has_no_flag_is_said_to_be_for_python(refused, tiny):
    message = refused("train_resnet50", *tiny, "--zeta=1.2")
    assert message.startswith("train_resnet50: --zeta is no flag: ")
    assert "another value is for sos.sparsify in Python" in message


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--sparsity=1", "--technique=magnitude_pruning: sparsity must be"),
        ("--override=conv_1=0.5", "Received: 'conv_1'. Near matches: ['conv1'"),
        ("--override=conv(=0.5", "not a regular expression"),
        ("--override=conv1=1.5", "In the override 'conv1': sparsity must be"),
        (
            "--batch_size=100000000000",
            "batch_size must be below 2147483648. Received: 100000000000",
        ),
        (
            "--batch_size=2000000000",
            "batch_size must be smaller: as many images of 32x32x3 take",
        ),
    ],
)
def test_bad_flags_leave_no_folder(refused, tiny, tmp_path, flag, expected):
    folder = tmp_path / "run"
    message = refused("train_resnet50", *tiny, flag, f"--output_dir={folder}")
    assert expected in message
    assert not folder.exists()


def test_a_damaged_record_ends_the_run_and_is_named(refused, tmp_path):
    tfds.disable_progress_bar()
    test_mnist.store(tmp_path)
    path = test_records.shard(tmp_path, index=0)
    test_records.change(path, test_records.frames(path)[3] + 40)
    message = refused(
        "train_resnet50",
        *("--dataset=mnist", f"--data_dir={tmp_path}"),
        *("--train_steps=8", "--eval_steps=4", "--batch_size=8"),
        f"--output_dir={tmp_path / 'run'}",
    )
    assert f"{path}: record 3 is damaged. Prepare the dataset again." in message


def test_a_folder_that_cannot_be_made_is_named_with_the_flag(refused, tiny, tmp_path):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "run"
    message = refused("train_resnet50", *tiny, f"--output_dir={folder}")
    assert f"--output_dir={folder} cannot be written" in message
    assert "choose another" in message


@pytest.mark.feature("others: links and lists of checkpoints that are none")
@pytest.mark.parametrize("place", ["dangling", "dangling/run", "loop", "loop/run"])
@pytest.mark.parametrize("binary", ["train_resnet50", "sweep"])
def test_a_link_that_leads_nowhere_is_one_message(refused, tmp_path, binary, place):
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    message = refused(binary, f"--output_dir={tmp_path / place}")
    assert f"{tmp_path / place}" in message
    assert "choose another" in message
    assert {p.name for p in tmp_path.iterdir()} == {"dangling", "loop"}


def test_a_folder_name_too_long_is_one_message(refused, tiny, tmp_path):
    message = refused("train_resnet50", *tiny, f"--output_dir={tmp_path / ('x' * 300)}")
    assert "too long" in message


def test_a_folder_with_other_files_is_left_alone(refused, tiny, tmp_path):
    (tmp_path / "thesis.tex").write_text("dear")
    message = refused("train_resnet50", *tiny, f"--output_dir={tmp_path}")
    assert "holds files but no run" in message
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_several_workers_without_their_names_are_refused(
    refused, tiny, tmp_path, monkeypatch
):
    config = '{"cluster": {}}'
    monkeypatch.setenv("TF_CONFIG", config)
    message = refused(
        "train_resnet50",
        *tiny,
        "--distribution=multi_worker",
        f"--output_dir={tmp_path / 'run'}",
    )
    assert f"Received: TF_CONFIG={config!r}" in message
    assert '"cluster"' in message


def truncate(file):
    file.write_bytes(file.read_bytes()[:1000])


def test_a_truncated_checkpoint_is_not_evaluated_and_left_alone(refused, copied):
    truncate(copied / "checkpoints" / "ckpt-8.data-00000-of-00001")
    before = {p: p.read_bytes() for p in copied.rglob("*") if p.is_file()}
    message = refused("evaluate_resnet50", f"--run_dir={copied}")
    assert "ckpt-8 cannot be read, it may be truncated" in message
    assert f"Move {copied / 'checkpoints'} away" in message
    assert {p: p.read_bytes() for p in copied.rglob("*") if p.is_file()} == before


@pytest.mark.feature("others: links and lists of checkpoints that are none")
@pytest.mark.parametrize("content", [b"", b"\0\xff\x80", b"\x7fELF"])
def test_a_damaged_list_of_checkpoints_is_one_message(refused, copied, content):
    (copied / "checkpoints" / "checkpoint").write_bytes(content)
    message = refused("evaluate_resnet50", f"--run_dir={copied}")
    assert f"{copied / 'checkpoints'} holds files but no checkpoint" in message
    assert "Move it away to start again." in message


@pytest.mark.slow
def test_a_checkpoint_of_another_model_is_refused(refused, copied):
    flags = copied / "flags.txt"
    flags.write_text(flags.read_text().replace("--width=0.1", "--width=0.2"))
    message = refused("evaluate_resnet50", f"--run_dir={copied}")
    assert "ckpt-8 is a checkpoint of another model" in message


def test_a_run_without_checkpoint_is_refused(refused, copied):
    shutil.rmtree(copied / "checkpoints")
    message = refused("evaluate_resnet50", f"--run_dir={copied}")
    assert "has no checkpoint yet: train it first" in message


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("# by hand", "does not say which binary wrote it"),
        (f"{BEGUN}--patience=9", "Unknown command line flag 'patience'"),
        (f"{BEGUN}--depth=51", "depth must be one of"),
        (f"{BEGUN}--depth=deep", "--depth must be int. Received: 'deep'"),
        (f"{BEGUN}--technique=foo", "--technique must be one of dense, magnitude"),
        (f"{BEGUN}--keep_steps=a", "--keep_steps must be numbers"),
    ],
)
def test_flags_that_cannot_be_read_are_refused(refused, tmp_path, line, expected):
    (tmp_path / "flags.txt").write_text(line)
    assert expected in refused("evaluate_resnet50", f"--run_dir={tmp_path}")


def test_a_folder_that_is_no_run_is_refused(refused, tmp_path):
    message = refused("evaluate_resnet50", f"--run_dir={tmp_path / 'none'}")
    assert f"{tmp_path / 'none'} is not the folder of a run" in message


@pytest.mark.parametrize("binary", ["export_model", "report_sparsity"])
@pytest.mark.parametrize("kind", ["missing", "folder", "text", "export"])
def test_what_is_no_model_is_refused(refused, finished, tmp_path, binary, kind):
    path = finished / "export" if kind == "export" else tmp_path / "model.keras"
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path = tmp_path / "model.h5"
        path.write_text("a model, honestly")
    flags = [f"--export_dir={tmp_path / 'out'}"] if binary == "export_model" else []
    message = refused(binary, f"--model={path}", *flags)
    assert str(path) in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("binary", ["export_model", "report_sparsity"])
def test_a_model_has_to_be_named(command, binary):
    outcome = command(binary)
    assert outcome.code == 2
    assert "--model" in outcome.err


@pytest.mark.slow
def test_a_place_that_cannot_be_written_is_named(refused, finished, tmp_path):
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "out"
    for binary, flag in (
        ("export_model", "--export_dir"),
        ("report_sparsity", "--csv"),
        ("report_sparsity", "--plot"),
    ):
        message = refused(binary, f"--model={finished}", f"{flag}={place}")
        assert f"{flag}={place}: " in message


def test_an_unknown_format_of_picture_is_an_error(refused, finished, tmp_path):
    place = tmp_path / "sparsity.doc"
    message = refused("report_sparsity", f"--model={finished}", f"--plot={place}")
    assert "png" in message
    assert not place.exists()
