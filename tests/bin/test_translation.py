"""A tiny translation run from end to end, and what is done with it."""

import csv
import json
import pathlib
import re

import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import tf
from state_of_sparsity.models.training.run_folder import RunFolder
from state_of_sparsity.models.translation.dataset import training_text
from state_of_sparsity.models.translation.numbers_dataset import Numbers
from state_of_sparsity.models.translation.options import TranslationOptions
from state_of_sparsity.models.translation.task import TranslationTask
from state_of_sparsity.models.translation.vocabulary import Vocabulary
from tests.models.training.interrupted import raise_keyboard_interrupt

LINES = "\ufeffone\n\nthree hundred and twelve\n \u3000\t\n日本語\ntwo"


@pytest.fixture(scope="module")
def run(command, tiny_transformer, tmp_path_factory):
    """The folder of a finished run of variational dropout, and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "transformer"
    outcome = command(
        "train_transformer",
        *tiny_transformer,
        "--technique=variational_dropout",
        "--initial_log_sigma2=-4",
        f"--output_dir={folder}",
    )
    assert outcome.code == 0, outcome
    return folder, outcome


@pytest.fixture(scope="module")
def folder(run):
    return run[0]


@pytest.fixture(scope="module")
def translated(folder, command, tmp_path_factory):
    """The file of LINES, that of their translations, and what was said."""
    files = tmp_path_factory.mktemp("files")
    source, target = files / "english.txt", files / "german.txt"
    source.write_text(LINES, encoding="utf-8")
    flags = (f"--model={folder}", f"--input={source}", f"--output={target}")
    outcome = command("translate", *flags, "--batch_size=2")
    assert outcome.code == 0, outcome
    return source, target, outcome.err


@pytest.mark.slow
def test_the_folder_holds_the_vocabulary_and_all_that_other_runs_leave(folder):
    assert {path.name for path in folder.iterdir()} == {
        "best",
        "flags.txt",
        "checkpoints",
        "tensorboard",
        "metrics.csv",
        "result.json",
        "layers.csv",
        "masks.npz",
        "weights",
        "sparsity.png",
        "export",
        "vocabulary.model",
    }


@pytest.mark.slow
def test_the_command_tells_the_share_of_padding_and_the_score(run):
    _, outcome = run
    share = float(outcome.out.partition(" tokens: ")[2].partition("%")[0])
    assert 0 < share < 10
    assert "choose another --vocabulary_size" not in outcome.out
    assert "test bleu" in outcome.out
    assert outcome.err == ""


@pytest.mark.slow
def test_much_padding_is_said_with_a_way_out(tmp_path, capsys):
    options = TranslationOptions(vocabulary_size=300).resolved()
    assert TranslationTask(options, RunFolder(tmp_path)).steps_per_epoch > 0
    output = capsys.readouterr().out
    assert "Learning a vocabulary of 300 subwords" in output
    assert "choose another --vocabulary_size" in output


@pytest.mark.slow
def test_result_counts_the_operations_of_a_token_pair(folder):
    result = json.loads((folder / "result.json").read_text())
    width, vocabulary = 8, 384
    block = 2 * width * 8
    weights = vocabulary * width + (4 * width**2 + block) + (8 * width**2 + block)
    assert (result["model"], result["quality_metric"]) == ("transformer", "bleu")
    # In each of three attentions a query meets one key and one value.
    assert result["flops"] == 2 * (weights + 3 * 2 * width)
    # A learned technique trains all weights, on 256 tokens at each of 4 steps.
    training = 3 * 4 * 256 * result["flops"]
    assert result["training_flops"] == result["dense_training_flops"] == training
    with (folder / "layers.csv").open(newline="") as file:
        names = [row["name"] for row in csv.DictReader(file)]
    assert "embedding/embeddings" in names
    assert len(names) == 1 + 6 + 10


@pytest.mark.slow
def test_evaluation_says_the_score_of_the_result_and_its_signature(
    folder, command, refused
):
    outcome = command("evaluate_transformer", f"--run_dir={folder}")
    assert outcome.code == 0, outcome
    scores = json.loads(outcome.out)
    result = json.loads((folder / "result.json").read_text())
    assert scores["quality"] == pytest.approx(result["quality"])
    assert "tok:char" in scores["signature"]
    flags = (f"--run_dir={folder}", "--tokenized_reference=file")
    message = refused("evaluate_transformer", *flags)
    assert "--bleu=sacrebleu does not have --tokenized_reference" in message
    by_words = f"--run_dir={folder}", "--bleu=tokenized_compound_split"
    message = refused("evaluate_transformer", *by_words)
    assert "a sentence of numbers is one word: use --bleu=sacrebleu" in message


@pytest.mark.slow
def test_references_in_tokens_are_put_into_the_order_of_the_translations(
    folder, command, refused, monkeypatch, tmp_path
):
    monkeypatch.setattr(Numbers, "bleu_tokenizer", "13a")
    flags = (
        f"--run_dir={folder}",
        "--bleu=tokenized_compound_split",
        "--split=validation",
    )
    numbers = [
        text.decode()
        for _, text in Numbers().sentences("validation").take(-1).as_numpy_iterator()
    ]
    file = tmp_path / "validation.tok.de"
    file.write_text("\n".join([*numbers, ""]))
    given = f"--tokenized_reference={file}"
    expected = json.loads(command("evaluate_transformer", *flags).out)
    assert "tok:none" in expected["signature"]
    scores = json.loads(command("evaluate_transformer", *flags, given).out)
    # A number below a million is one token, so that they are the same references.
    assert scores["quality"] == expected["quality"]
    assert "reference-tokens:given" in scores["signature"]
    file.write_text("\n".join(numbers[1:]))
    message = refused("evaluate_transformer", *flags, given)
    assert f"--tokenized_reference={file}: there must be a line for each" in message
    assert "1,000 sentences of the validation split. Received: 999 lines" in message
    message = refused("evaluate_transformer", *flags, given + "x")
    assert f"--tokenized_reference={file}x: " in message


@pytest.mark.slow
def test_translate_keeps_the_number_and_the_order_of_lines(folder, translated, load):
    source, target, said = translated
    lines = target.read_bytes().decode().split("\n")
    assert len(lines) == 7
    assert lines[1] == lines[3] == lines[6] == ""
    task, model = load(folder)
    given = LINES.removeprefix("\ufeff").split("\n")
    expected = task.translator(sos.strip(model)).translate(given).numpy()
    assert lines[:6] == [text.decode() for text in expected]
    # As the SavedModel of the run does, from strings to strings.
    exported = tf.saved_model.load(str(folder / "export"))
    assert exported.serve(tf.constant(given)).numpy().tolist() == expected.tolist()
    # The bar, and a line that is longer than the model's maximum.
    assert "6/6" in said
    assert "line 5 has" in said
    assert "translate: line 5: the text that the vocabulary was" in said
    assert "not to be trusted: '日', '本', '語'." in said
    assert {path.name for path in target.parent.iterdir()} == {source.name, target.name}


@pytest.mark.slow
def test_the_sparse_engine_translates_as_tensorflow_does(
    folder, translated, command, refused, tmp_path
):
    source, expected, _ = translated
    export = (f"--model={folder}", f"--export_dir={tmp_path}", "--format=sparse")
    outcome = command("export_model", *export)
    assert outcome.code == 0, outcome
    assert "decoder.sparse: " in outcome.out
    assert {path.name for path in tmp_path.iterdir()} >= {
        "encoder.sparse",
        "decoder.sparse",
    }
    assert "holds decoder.sparse already" in refused("export_model", *export)
    target = tmp_path / "german.txt"
    files = (f"--model={folder}", f"--input={source}", f"--output={target}")
    engine = ("--engine=sparse", "--threads=1", f"--files={tmp_path}")
    outcome = command("translate", *files, *engine)
    assert outcome.code == 0, outcome
    assert target.read_bytes() == expected.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--engine=sparse", "--threads=1000"], "--engine=sparse: .*1000"),
        (["--engine=sparse", "--files=none"], "--engine=sparse: .*encoder.sparse"),
        (["--threads=1"], "--threads=1 is for --engine=sparse"),
    ],
)
def test_what_the_engine_cannot_do_is_one_message(
    folder, translated, refused, flags, message
):
    given = (f"--model={folder}", f"--input={translated[0]}")
    assert re.search(message, refused("translate", *given, *flags))


@pytest.mark.slow
def test_what_was_translated_before_an_interruption_is_kept(
    folder, command, tmp_path, monkeypatch
):
    source = tmp_path / "english.txt"
    source.write_text("one\n" * 5, encoding="utf-8")

    monkeypatch.setattr("tqdm.tqdm.update", raise_keyboard_interrupt)
    outcome = command(
        "translate",
        f"--model={folder}",
        f"--input={source}",
        f"--output={tmp_path / 'german.txt'}",
        "--batch_size=2",
    )
    assert outcome.code == 130
    partial = tmp_path / ".german.txt.new"
    assert f"interrupted; what was translated is in {partial}." in outcome.err
    assert partial.read_bytes().count(b"\n") == 2
    assert not (tmp_path / "german.txt").exists()


@pytest.mark.slow
def test_no_lines_are_said_to_be_none_and_a_full_disk_is_one_message(
    folder, command, tmp_path
):
    (tmp_path / "empty").touch()
    flags = (f"--model={folder}", f"--input={tmp_path / 'empty'}")
    outcome = command("translate", *flags, f"--output={tmp_path / 'out'}")
    assert outcome.code == 0
    assert "holds no lines" in outcome.err
    assert (tmp_path / "out").read_bytes() == b""
    if pathlib.Path("/dev/full").exists():
        (tmp_path / "empty").write_text("one\n", encoding="utf-8")
        outcome = command("translate", *flags, "--output=/dev/full")
        assert outcome.code == 2
        assert "translate: --output=/dev/full cannot be written: " in outcome.err


@pytest.mark.slow
def test_bad_input_is_refused(folder, refused, tmp_path, monkeypatch):
    model = f"--model={folder}"
    assert "No such file" in refused("translate", model, f"--input={tmp_path / 'no'}")
    latin = tmp_path / "latin"
    latin.write_bytes("one\nfünf\n".encode("latin1"))
    message = refused("translate", model, f"--input={latin}")
    assert "not UTF-8" in message
    assert "line 2" in message
    message = refused("translate", model, f"--input={__file__}", f"--output={tmp_path}")
    assert f"translate: --output={tmp_path} cannot be written: " in message
    monkeypatch.setattr("sys.stdin", None)
    message = refused("translate", model)
    assert "standard input is closed: pass --input=FILE." in message
    other = refused("evaluate_resnet50", f"--run_dir={folder}")
    assert "holds a run of train_transformer, and not of train_resnet50" in other


@pytest.mark.slow
def test_a_run_in_mixed_precision_trains_and_translates(
    command, load, tiny_transformer, tmp_path
):
    folder = tmp_path / "run"
    outcome = command(
        "train_transformer",
        *tiny_transformer,
        "--technique=l0_regularization",
        "--precision=mixed_float16",
        f"--output_dir={folder}",
    )
    assert outcome.code == 0, outcome
    result = json.loads((folder / "result.json").read_text())
    assert result["steps"] == 4
    loaded = tf.saved_model.load(str(folder / "export"))
    assert loaded.serve(["one", ""]).numpy()[1] == b""
    task, model = load(folder)
    stripped = sos.strip(model)
    assert stripped.compute_dtype == model.compute_dtype == "float16"
    assert task.translator(stripped).translate(["one", ""]).shape == (2,)


@pytest.mark.slow
def test_a_run_with_subwords_of_a_file_needs_its_folder_alone_from_then_on(
    command, load, tiny_transformer, tmp_path
):
    folder, file = tmp_path / "run", tmp_path / "numbers.subwords"
    words = ("hundred_", "thousand", "and_", ", _", "hundert", "tausend", "zig", "und")
    letters = dict.fromkeys("\\_u;0123456789abcdefghijklmnopqrstvwxyzüöß ,-")
    subwords = ["<pad>_", "<EOS>_", *words, *letters]
    file.write_text("".join(f"'{s}'\n" for s in subwords), encoding="utf-8")
    flags = (*tiny_transformer, f"--subwords={file}", f"--output_dir={folder}")
    outcome = command("train_transformer", *flags, "--packed_length=128")
    assert outcome.code == 0, outcome
    assert "Learning a vocabulary" not in outcome.out
    assert (folder / "vocabulary.model").read_bytes() == file.read_bytes()
    assert f"--vocabulary_size={len(subwords)}\n" in (folder / "flags.txt").read_text()

    file.unlink()
    outcome = command("evaluate_transformer", f"--run_dir={folder}")
    assert outcome.code == 0, outcome
    result = json.loads((folder / "result.json").read_text())
    assert json.loads(outcome.out)["quality"] == pytest.approx(result["quality"])
    task, model = load(folder)
    sentences = tf.constant(["one", "", "twenty-two", "日_"])
    expected = task.translator(sos.strip(model)).translate(sentences).numpy()
    exported = tf.saved_model.load(str(folder / "export"))
    assert exported.serve(sentences).numpy().tolist() == expected.tolist()
    assert expected[0] != b""


@pytest.mark.slow
def test_what_has_no_smaller_model_is_one_message(folder, refused, tmp_path):
    assert "smaller_flops" not in json.loads((folder / "result.json").read_text())
    arguments = (f"--export_dir={tmp_path / 'out'}", "--shrink")
    message = refused("export_model", f"--model={folder}", *arguments)
    assert "--shrink is for runs on images, and for models of Keras 3" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_run_without_its_vocabulary_is_refused(folder, refused):
    hidden = folder / "vocabulary.hidden"
    (folder / "vocabulary.model").rename(hidden)
    try:
        message = refused("evaluate_transformer", f"--run_dir={folder}")
    finally:
        hidden.rename(folder / "vocabulary.model")
    assert "has checkpoints and no vocabulary.model" in message


@pytest.mark.slow
def test_a_vocabulary_of_another_size_is_refused(folder, refused):
    kept = (folder / "vocabulary.model").read_bytes()
    try:
        other = Vocabulary.learn(training_text(Numbers(), 500), 390)
        other.save(folder / "vocabulary.model")
        message = refused("evaluate_transformer", f"--run_dir={folder}")
        assert "has 390 subwords and not vocabulary_size=384" in message
        (folder / "vocabulary.model").write_bytes(b"nonsense")
        message = refused("evaluate_transformer", f"--run_dir={folder}")
        assert "no SentencePiece vocabulary" in message
    finally:
        (folder / "vocabulary.model").write_bytes(kept)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--vocabulary_size=100", "vocabulary_size=100: `size` must be above 259"),
        ("--dataset=wmt14_translate/de-en", "--data_dir"),
        ("--subwords=none.txt", "No such file or directory: 'none.txt'"),
        (f"--subwords={__file__}", f"{__file__}: line 2 is no subword in quotes"),
        ("--heads=3", "width must be even and a multiple of heads"),
    ],
)
def test_bad_options_are_refused(refused, tiny_transformer, tmp_path, flag, message):
    run = f"--output_dir={tmp_path / 'run'}"
    flags = (*tiny_transformer, flag, "--technique=dense", run)
    assert message in refused("train_transformer", *flags)
