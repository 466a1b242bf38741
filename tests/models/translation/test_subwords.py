"""Tensor2Tensor's subwords: ids by hand, exact round trips, files, and errors."""

import dataclasses

import numpy as np
import pytest

from state_of_sparsity.engines.tf_keras.backend import keras, tf
from state_of_sparsity.models.training.run_folder import RunFolder
from state_of_sparsity.models.translation.options import TranslationOptions
from state_of_sparsity.models.translation.subwords import Subwords, read_subwords
from state_of_sparsity.models.translation.task import TranslationTask

SUBWORDS = [
    *("<pad>_", "<EOS>_"),
    *(", _", "._", "the_", "th", "über", "übe", "ab", "abc_", "\\u_", "12"),
    *"\\_u;0123456789",
    *"abcehrtüxyz ,.'\"",
]
# Of what, by hand: each subword is the longest that the rest of a token begins with.
TOKENS = {
    "": [],
    "the": ["the_"],
    # A single space between words is none; any other one is.
    "the the, the. ": ["the_", "the_", ", _", "the_", ".", " ", "_"],
    "the  the": ["the_", " ", " ", "_", "the_"],
    " the": [" ", "_", "the_"],
    " ": [" ", "_"],
    # Letters and numbers are words, whatever the script.
    "über 12 12": ["über", "_", "12", "_", "12", "_"],
    "x12ü": ["x", "12", "ü", "_"],
    "a日b": ["a", "\\", "2", "6", "0", "8", "5", ";", "b", "_"],
    "²": ["\\", "1", "7", "8", ";", "_"],
    # The longest comes first, and is never taken back.
    "abc": ["abc_"],
    "abcthe": ["ab", "c", "the_"],
    "übet": ["übe", "t", "_"],
    "then": ["th", "e", "\\", "1", "1", "0", ";", "_"],
    # Escapes.
    "_": ["\\u_"],
    "a_b": ["a", "_", "\\u_", "b", "_"],
    "\\": ["\\", "\\", "_"],
    "\\u": ["\\", "\\", "_", "u", "_"],
    "\n": ["\\", "1", "0", ";", "_"],
    "\\12;": ["\\", "\\", "_", "12", "_", ";", "_"],
    "€€": ["\\", "8", "3", "6", "4", ";", "\\", "8", "3", "6", "4", ";", "_"],
    "<pad>": [
        *("\\", "6", "0", ";", "_"),
        *("\\", "1", "12", ";", "a", "\\", "1", "0", "0", ";", "_"),
        *("\\", "6", "2", ";", "_"),
    ],
}
TEXTS = [*TOKENS, "日本 語_x\t\\", "'a' \"b\"", "\ufeffa \u00a0b\r\n", "🙂 ab _ ab"]


def quoted(subwords=SUBWORDS, ends="''"):
    return "".join(f"{ends[0]}{s}{ends[1]}\n" for s in subwords).encode()


def ids_of(subwords):
    return [SUBWORDS.index(subword) for subword in subwords]


@pytest.fixture(scope="module")
def subwords():
    return Subwords(SUBWORDS)


def decoded(subwords, rows):
    return [text.decode() for text in subwords.decode(rows).numpy()]


def test_ids_are_the_numbers_of_the_lines_of_the_longest_subwords(subwords):
    ids = subwords.encode(list(TOKENS))
    assert isinstance(ids, tf.RaggedTensor)
    assert ids.dtype == tf.int32
    for text, found in zip(TOKENS, ids.to_list(), strict=True):
        assert found == [*ids_of(TOKENS[text]), 1], text


def test_text_of_any_script_comes_back_exactly(subwords, rng):
    pool = list("ab the,. _\\ü日\n\t€²;1u\u00a0\ufeff'\"")
    drawn = ["".join(rng.choice(pool, n)) for n in rng.integers(0, 20, 500)]
    assert decoded(subwords, subwords.encode(TEXTS + drawn)) == TEXTS + drawn


def test_what_is_no_text_is_taken_for_the_replacement_character(subwords):
    ids = subwords.encode([b"a\0b", b"a\xffb"])
    assert decoded(subwords, ids) == ["a\ufffdb"] * 2


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        # Only what is a whole escape is one.
        (["\\", "u", "_", "\\", ";", "_", "u", ";", "_"], "_\\;u;"),
        (["\\", "\\", "u", "_"], "\\u"),
        # A token that is empty, and one without an end.
        (["_", "_", "ab", "_", "the_", "x"], "ab the x"),
        # An underscore by its number, a space that is not due, and no character at all.
        (["\\", "9", "5", ";", "_", "a", "_"], "_a"),
        (["a", "_", "\\", "2", "6", "0", "8", "5", ";", "_"], "a 日"),
        (["\\", *"1114112", ";", *"\\99999999999999999999;", "_"], "〓〓"),
    ],
)
def test_ids_that_no_text_has_stand_for_something(subwords, pieces, text):
    assert decoded(subwords, [ids_of(pieces)]) == [text]


def test_what_follows_the_end_and_zeros_do_not_count(subwords):
    ab, the = ids_of(["ab", "_"]), ids_of(["the_"])
    rows = np.array([[*ab, 1, *the], [0, *ab, 0], [*ab, *the, 1], [1, *ab, 0]])
    assert decoded(subwords, rows) == ["ab", "ab", "ab the", ""]
    assert subwords.decode(tf.zeros([0, 3], tf.int32)).shape == (0,)
    assert subwords.encode(tf.zeros([0], tf.string)).shape[0] == 0


def test_size_is_the_number_of_lines_and_characters_are_those_of_the_file(subwords):
    assert subwords.size == len(SUBWORDS)
    assert subwords.characters == {s for s in SUBWORDS if len(s) == 1}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (quoted(), SUBWORDS),
        (quoted(ends='""'), SUBWORDS),
        (quoted().replace(b"\n", b"\r\n"), SUBWORDS),
        (quoted().rstrip(), SUBWORDS),
        (quoted(bare := ["<pad>", "<EOS>", *SUBWORDS[2:], "\u2028", "\x85"]), bare),
    ],
)
def test_subwords_are_what_is_within_the_quotes(content, expected, tmp_path):
    path = tmp_path / "subwords"
    path.write_bytes(content)
    assert read_subwords(path) == expected


def test_what_is_saved_is_the_same_when_loaded(subwords, tmp_path):
    path = tmp_path / "subwords"
    subwords.save(path)
    subwords.save(path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == quoted()
    loaded = Subwords.load(path)
    assert loaded.encode(TEXTS).to_list() == subwords.encode(TEXTS).to_list()


@pytest.mark.slow
def test_it_works_in_a_graph_and_survives_a_cleared_keras_session(subwords):
    round_trip = tf.function(lambda text: subwords.decode(subwords.encode(text)))
    assert [text.decode() for text in round_trip(TEXTS).numpy()] == TEXTS
    keras.backend.clear_session()
    assert [text.decode() for text in round_trip(TEXTS).numpy()] == TEXTS
    assert decoded(subwords, subwords.encode(TEXTS)) == TEXTS


def test_a_run_has_the_size_and_the_subwords_of_its_file(subwords, tmp_path):
    path, folder = tmp_path / "file.subwords", RunFolder(tmp_path / "run")
    path.write_bytes(quoted())
    options = TranslationOptions(subwords=str(path)).resolved()
    assert options.vocabulary_size == len(SUBWORDS)
    task = TranslationTask(options, folder)
    assert task.vocabulary.encode(TEXTS).to_list() == subwords.encode(TEXTS).to_list()
    folder.path.mkdir()
    task.write_assets(folder)
    # From now on, the file is not needed.
    path.unlink()
    again = TranslationTask(options, folder).vocabulary
    assert again.encode(TEXTS).to_list() == subwords.encode(TEXTS).to_list()
    other = dataclasses.replace(options, vocabulary_size=30)
    with pytest.raises(ValueError, match=f"has {len(SUBWORDS)} subwords and not"):
        _ = TranslationTask(other, folder).vocabulary


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"first lines must hold \['<pad>', '<EOS>'\]. Received: \[\]"),
        (quoted(SUBWORDS[1:]), r"Received: \['<EOS>_', ', _'\]"),
        (b"<pad>\n<EOS>\n", "line 1 is no subword in quotes.*Received: '<pad>'"),
        (quoted() + b"'ab\"\n", f"line {len(SUBWORDS) + 1} is no subword in quotes"),
        (quoted() + b"''\n", f"line {len(SUBWORDS) + 1} is no subword in quotes"),
        (quoted() + b"'\xff'\n", f"line {len(SUBWORDS) + 1} is not UTF-8"),
        (quoted([*SUBWORDS, "ab"]), "has the subword of line 9: 'ab'"),
        (quoted([*SUBWORDS, "a_b"]), "an underscore that ends no subword: 'a_b'"),
        (quoted([*SUBWORDS, "aq"]), r"'aq', has characters that .*: \['q'\]"),
        (quoted(["<pad>_", "<EOS>_", *"\\_u01234567"]), r"written in: \['8', '9', ';'"),
    ],
)
def test_another_file_is_an_error_which_names_it_and_the_line(
    content, message, tmp_path
):
    path = tmp_path / "file.subwords"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"file.subwords: .*{message}"):
        read_subwords(path)
