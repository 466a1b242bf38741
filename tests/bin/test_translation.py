"""A tiny translation run from end to end, and what is done with it."""

import csv
import json
import pathlib

import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import tf
from state_of_sparsity.models.runs import folders as runs
from state_of_sparsity.models.training.run_folder import RunFolder
from state_of_sparsity.models.translation import bleu
from state_of_sparsity.models.translation.numbers_dataset import Numbers
from state_of_sparsity.models.translation.options import TranslationOptions
from state_of_sparsity.models.translation.task import TranslationTask

pytestmark = pytest.mark.slow

LINES = "one\n\nthree hundred and twelve\n  \n日本語\ntwo"
TINY = (
    "--layers=1",
    "--width=8",
    "--feed_forward=8",
    "--heads=2",
    "--tokens_per_replica=256",
    "--train_steps=4",
    "--eval_steps=4",
    "--beams=1",
    "--max_length=6",
    "--extra_length=2",
)


@pytest.fixture(scope="module")
def run(command, tmp_path_factory):
    """The folder of a finished run of variational dropout, and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "transformer"
    outcome = command(
        "train_transformer",
        *TINY,
        "--technique=variational_dropout",
        "--initial_log_sigma2=-4",
        f"--output_dir={folder}",
    )
    assert outcome.code == 0, outcome
    return folder, outcome


@pytest.fixture(scope="module")
def folder(run):
    return run[0]


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


def test_the_command_tells_the_share_of_padding_and_the_score(run):
    _, outcome = run
    share = float(outcome.out.partition(" tokens: ")[2].partition("%")[0])
    assert 0 < share < 10
    assert "test bleu" in outcome.out
    assert outcome.err == ""


@pytest.mark.parametrize(("size", "warned"), [(384, False), (300, True)])
def test_much_padding_is_said_with_a_way_out(size, warned, tmp_path, capsys):
    options = TranslationOptions(vocabulary_size=size).resolved()
    assert TranslationTask(options, RunFolder(tmp_path)).steps_per_epoch > 0
    output = capsys.readouterr().out
    assert f"Learning a vocabulary of {size} subwords" in output
    assert ("choose another --vocabulary_size" in output) == warned


def test_result_counts_the_operations_of_a_token_pair(folder):
    result = json.loads((folder / "result.json").read_text())
    width, vocabulary = 8, 384
    block = 2 * width * 8
    weights = vocabulary * width + (4 * width**2 + block) + (8 * width**2 + block)
    assert (result["model"], result["quality_metric"]) == ("transformer", "bleu")
    # In each of three attentions a query meets one key and one value.
    products = 3 * 2 * width
    assert result["flops"] == 2 * (weights + products)
    # A learned technique trains all weights, on 256 tokens at each of 4 steps.
    training = 3 * 4 * 256 * result["flops"]
    assert result["training_flops"] == result["dense_training_flops"] == training
    kept = round((1 - result["sparsity"]) * weights)
    assert result["sparse_flops"] == 2 * (kept + products)
    # Two biases of feed-forward blocks and two weights for each of seven norms.
    assert result["parameters"] == weights + 2 * (8 + 8) + 7 * 2 * width
    with (folder / "layers.csv").open(newline="") as file:
        names = [row["name"] for row in csv.DictReader(file)]
    assert "embedding/embeddings" in names
    assert len(names) == 1 + 6 + 10


def test_evaluation_says_the_score_of_the_result_and_its_signature(
    folder, command, refused, monkeypatch
):
    outcome = command("evaluate_transformer", f"--run_dir={folder}")
    assert outcome.code == 0, outcome
    scores = json.loads(outcome.out)
    result = json.loads((folder / "result.json").read_text())
    assert scores["quality"] == pytest.approx(result["quality"])
    assert "tok:char" in scores["signature"]
    by_words = f"--run_dir={folder}", "--bleu=tokenized_compound_split"
    message = refused("evaluate_transformer", *by_words)
    assert "a sentence of numbers is one word: use --bleu=sacrebleu" in message
    monkeypatch.setattr(Numbers, "bleu_tokenizer", "13a")
    outcome = command("evaluate_transformer", *by_words)
    assert "tok:none" in json.loads(outcome.out)["signature"]


def test_references_in_tokens_are_put_into_the_order_of_the_translations(
    folder, command, refused, monkeypatch, tmp_path
):
    monkeypatch.setattr(Numbers, "bleu_tokenizer", "13a")
    flags = (
        f"--run_dir={folder}",
        "--bleu=tokenized_compound_split",
        "--split=validation",
    )
    expected = json.loads(command("evaluate_transformer", *flags).out)
    numbers = [
        text.decode()
        for _, text in Numbers().sentences("validation").take(-1).as_numpy_iterator()
    ]
    file = tmp_path / "validation.tok.de"
    file.write_text("\n".join([*numbers, ""]))
    given = f"--tokenized_reference={file}"
    seen = {}
    score = bleu.tokenized_compound_split_bleu

    def seen_by(hypotheses, references, tokenized):
        seen[tokenized] = references
        return score(hypotheses, references, tokenized)

    monkeypatch.setattr(bleu, "tokenized_compound_split_bleu", seen_by)
    assert command("evaluate_transformer", *flags).code == 0
    scores = json.loads(command("evaluate_transformer", *flags, given).out)
    # A number below a million is one token.
    assert seen[True] == seen[False] != numbers
    assert scores["quality"] == expected["quality"]
    assert "reference-tokens:given" in scores["signature"]
    file.write_text("\n".join(numbers[1:]))
    message = refused("evaluate_transformer", *flags, given)
    assert f"--tokenized_reference={file}: there must be a line for each" in message
    assert "1,000 sentences of the validation split. Received: 999 lines" in message
    message = refused("evaluate_transformer", *flags, given + "x")
    assert f"--tokenized_reference={file}x: " in message


def test_references_in_tokens_are_of_the_published_measure_alone(folder, refused):
    message = refused(
        "evaluate_transformer", f"--run_dir={folder}", "--tokenized_reference=file"
    )
    assert "--bleu=sacrebleu does not have --tokenized_reference" in message


def test_thresholds_can_be_swept(folder, command):
    outcome = command(
        "evaluate_transformer", f"--run_dir={folder}", "--log_alpha_thresholds=-2,3"
    )
    assert outcome.code == 0, outcome
    with (folder / "thresholds.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["sparsity"]) > float(rows[1]["sparsity"])


def test_translate_keeps_the_number_and_the_order_of_lines(folder, command, tmp_path):
    source, target = tmp_path / "english.txt", tmp_path / "german.txt"
    source.write_text(LINES, encoding="utf-8")
    outcome = command(
        "translate",
        f"--model={folder}",
        f"--input={source}",
        f"--output={target}",
        "--batch_size=2",
    )
    assert outcome.code == 0, outcome
    translated = target.read_bytes().decode().split("\n")
    assert len(translated) == 7
    assert translated[1] == translated[3] == translated[6] == ""
    task, model = runs.load_model(*runs.read_run(folder))
    expected = task.translator(sos.strip(model)).translate(LINES.split("\n")).numpy()
    assert translated[:6] == [text.decode() for text in expected]
    # The bar, and a line that is longer than the model's maximum.
    assert "6/6" in outcome.err
    assert "line 5 has" in outcome.err
    assert "translate: line 5: the text that the vocabulary was" in outcome.err
    assert "not to be trusted: '日', '本', '語'." in outcome.err
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "english.txt",
        "german.txt",
    ]


def test_the_sparse_engine_translates_as_tensorflow_does(
    folder, command, refused, tmp_path
):
    source = tmp_path / "english.txt"
    source.write_text(LINES, encoding="utf-8")
    exported = tmp_path / "exported"
    export = (f"--model={folder}", f"--export_dir={exported}", "--format=sparse")
    outcome = command("export_model", *export)
    assert outcome.code == 0, outcome
    assert "decoder.sparse: " in outcome.out
    assert "holds decoder.sparse already" in refused("export_model", *export)
    sparse, written = ["--engine=sparse", "--threads=1"], []
    for engine in ([], sparse, [*sparse, f"--files={exported}"]):
        target = tmp_path / f"{len(written)}.txt"
        files = (f"--model={folder}", f"--input={source}", f"--output={target}")
        outcome = command("translate", *files, *engine)
        assert outcome.code == 0, outcome
        written.append(target.read_bytes())
    assert written[0] == written[1] == written[2]
    names = {path.name for path in exported.iterdir()}
    assert names >= {"encoder.sparse", "decoder.sparse"}


def test_threads_that_the_machine_does_not_have_are_one_message(
    folder, refused, tmp_path
):
    (tmp_path / "english.txt").write_text("one", encoding="utf-8")
    flags = (f"--model={folder}", f"--input={tmp_path / 'english.txt'}")
    message = refused("translate", *flags, "--engine=sparse", "--threads=1000")
    assert "--engine=sparse: " in message
    assert "1000" in message
    message = refused("translate", *flags, "--engine=sparse", f"--files={tmp_path}")
    assert "--engine=sparse: " in message
    assert "encoder.sparse" in message
    message = refused("translate", *flags, "--threads=1")
    assert "--threads=1 is for --engine=sparse" in message


def test_what_was_translated_before_an_interruption_is_kept(
    folder, command, tmp_path, monkeypatch
):
    source = tmp_path / "english.txt"
    source.write_text("one\n" * 5, encoding="utf-8")

    def interrupted(bar, count):
        raise KeyboardInterrupt

    monkeypatch.setattr("tqdm.tqdm.update", interrupted)
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


def test_blank_lines_of_any_kind_and_a_byte_order_mark_are_left_out(
    folder, command, tmp_path
):
    source = tmp_path / "english.txt"
    source.write_text("\ufeffone\n\u00a0\n\u3000 \t\n" + " " * 40, encoding="utf-8")
    arguments = [f"--model={folder}", f"--input={source}"]
    outcome = command("translate", *arguments, f"--output={tmp_path / 'german.txt'}")
    assert outcome.code == 0, outcome
    first, *others = (tmp_path / "german.txt").read_text(encoding="utf-8").split("\n")
    source.write_text("one", encoding="utf-8")
    command("translate", *arguments, f"--output={tmp_path / 'one.txt'}")
    assert first == (tmp_path / "one.txt").read_text(encoding="utf-8").rstrip("\n")
    assert others == ["", "", "", ""]
    assert "line" not in outcome.err.replace("line/s", "")


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="no such device")
def test_a_full_disk_is_one_message(folder, command, tmp_path):
    source = tmp_path / "english.txt"
    source.write_text("one\n", encoding="utf-8")
    outcome = command(
        "translate", f"--model={folder}", f"--input={source}", "--output=/dev/full"
    )
    assert outcome.code == 2
    assert "translate: --output=/dev/full cannot be written: " in outcome.err
    assert "Traceback" not in outcome.err


def test_closed_standard_input_is_one_message(folder, refused, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    message = refused("translate", f"--model={folder}")
    assert "standard input is closed: pass --input=FILE." in message


@pytest.mark.parametrize(
    ("precision", "technique"),
    [
        ("mixed_bfloat16", "magnitude_pruning"),
        ("mixed_float16", "variational_dropout"),
        ("mixed_float16", "l0_regularization"),
    ],
)
def test_a_run_in_mixed_precision_trains_and_translates(
    command, tmp_path, precision, technique
):
    folder = tmp_path / "run"
    outcome = command(
        "train_transformer",
        *TINY,
        f"--technique={technique}",
        f"--precision={precision}",
        f"--output_dir={folder}",
    )
    assert outcome.code == 0, outcome
    result = json.loads((folder / "result.json").read_text())
    assert result["steps"] == 4
    loaded = tf.saved_model.load(str(folder / "export"))
    assert loaded.serve(["one", ""]).numpy()[1] == b""
    task, model = runs.load_model(*runs.read_run(folder))
    stripped = sos.strip(model)
    assert stripped.compute_dtype == model.compute_dtype == precision[6:]
    assert task.translator(stripped).translate(["one", ""]).shape == (2,)


def test_an_empty_file_is_said_to_be_empty(folder, command, tmp_path):
    (tmp_path / "empty").touch()
    outcome = command(
        "translate",
        f"--model={folder}",
        f"--input={tmp_path / 'empty'}",
        f"--output={tmp_path / 'out'}",
    )
    assert outcome.code == 0
    assert "holds no lines" in outcome.err
    assert (tmp_path / "out").read_bytes() == b""


def test_bad_input_is_refused(folder, finished, refused, tmp_path):
    missing = f"--input={tmp_path / 'missing'}"
    assert "No such file" in refused("translate", f"--model={folder}", missing)
    latin = tmp_path / "latin"
    latin.write_bytes("one\nfünf\n".encode("latin1"))
    message = refused("translate", f"--model={folder}", f"--input={latin}")
    assert "not UTF-8" in message
    assert "line 2" in message
    here = f"--input={__file__}"
    other = refused("translate", f"--model={finished}", here)
    assert "holds a run of train_resnet50, and not of train_transformer" in other
    other = refused("evaluate_resnet50", f"--run_dir={folder}")
    assert "holds a run of train_transformer, and not of train_resnet50" in other


def test_a_folder_is_no_place_to_write_translations_to(folder, refused, tmp_path):
    source = tmp_path / "english.txt"
    source.write_text(LINES, encoding="utf-8")
    message = refused(
        "translate", f"--model={folder}", f"--input={source}", f"--output={tmp_path}"
    )
    assert f"translate: --output={tmp_path} cannot be written: " in message
    assert list(tmp_path.iterdir()) == [source]


def test_a_run_without_its_vocabulary_is_refused(folder, refused):
    hidden = folder / "vocabulary.hidden"
    (folder / "vocabulary.model").rename(hidden)
    try:
        message = refused("evaluate_transformer", f"--run_dir={folder}")
    finally:
        hidden.rename(folder / "vocabulary.model")
    assert "has checkpoints and no vocabulary.model" in message


def test_a_vocabulary_of_another_run_is_refused(folder, refused, tmp_path):
    from state_of_sparsity.models.translation.dataset import training_text
    from state_of_sparsity.models.translation.vocabulary import Vocabulary

    kept = (folder / "vocabulary.model").read_bytes()
    try:
        other = Vocabulary.learn(training_text(Numbers(), 500), 390)
        other.save(folder / "vocabulary.model")
        message = refused("evaluate_transformer", f"--run_dir={folder}")
        assert "has 390 subwords and not vocabulary_size=384" in message
        other = Vocabulary.learn(training_text(Numbers(), 500), 384)
        other.save(folder / "vocabulary.model")
        message = refused("evaluate_transformer", f"--run_dir={folder}")
        assert "was trained with another vocabulary than the one that is" in message
        (folder / "vocabulary.model").write_bytes(b"nonsense")
        message = refused("evaluate_transformer", f"--run_dir={folder}")
        assert "no SentencePiece vocabulary" in message
    finally:
        (folder / "vocabulary.model").write_bytes(kept)


def test_the_run_is_exported_from_strings_to_strings(folder, command, tmp_path):
    outcome = command(
        "export_model",
        f"--model={folder}",
        f"--export_dir={tmp_path / 'export'}",
        "--log_alpha_threshold=-2",
    )
    assert outcome.code == 0, outcome
    loaded = tf.saved_model.load(str(tmp_path / "export"))
    task, model = runs.load_model(*runs.read_run(folder))
    translator = task.translator(sos.strip(model, -2.0))
    lines = ["one", "", "seven thousand"]
    assert (
        loaded.serve(tf.constant(lines)).numpy().tolist()
        == translator.translate(lines).numpy().tolist()
    )


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--width=9", "width must be even and a multiple of heads"),
        ("--dropout=1", "dropout must be at least 0 and below 1"),
        ("--packed_length=300", "tokens_per_replica must be at least packed_length"),
        ("--vocabulary_size=5000", "vocabulary_size=5000: `size` is more than the tex"),
        ("--vocabulary_size=100", "vocabulary_size=100: `size` must be above 259"),
        (
            "--extra_length=-1",
            "extra_length must be at least 0 and finite. Received: -1",
        ),
        ("--max_length=1", "max_length must be at least 2. Received: 1"),
        ("--alpha=nan", "alpha must be at least 0 and finite. Received: nan"),
        ("--dataset=wmt14_translate/de-en", "--data_dir"),
        ("--dataset=digits", "dataset must be one of numbers"),
        ("--alpha=-1", "alpha must be at least 0 and finite"),
        ("--packed_length=1", "no pair of sentences has at most `packed_length`"),
    ],
)
def test_bad_options_are_refused(refused, tmp_path, flag, message):
    options = [each for each in TINY if each.split("=")[0] != flag.split("=")[0]]
    output = refused(
        "train_transformer",
        *options,
        flag,
        "--technique=dense",
        f"--output_dir={tmp_path / 'run'}",
    )
    assert message in output
