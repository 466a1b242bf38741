"""The shared vocabulary: exact round trips, special ids, files, and errors."""

import itertools
import re

import numpy as np
import pytest
import sentencepiece

from state_of_sparsity.engines.tf_keras.backend import keras, tf
from state_of_sparsity.models.translation.vocabulary import Vocabulary

SIZE = 320
SENTENCES = [
    "Die Kosten-Nutzen-Rechnung überzeugt Füchse nicht.",
    "The costs, and the benefits, do not convince foxes.",
    "  zwei Leerzeichen  innen, vorn und hinten  ",
    " one in front",
    "one behind ",
    "Übergrößenträger süß-saure Äpfel",
    "cost benefit costs benefits foxes fox the the the",
]
UNSEEN = [
    "",
    " ",
    "   ",
    "日本語のテキスト",
    "Привет, мир",
    "🙂🙃",
    "a\tb\nc\0d",
    "<pad> </s> <unk>",
    "e\u0301 is not \u00e9",
    "\ufb01 \uff21\uff22 \u00a0 \ufeff",
]


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.learn(SENTENCES, SIZE)


def decoded(vocabulary, ids):
    return [text.decode() for text in vocabulary.decode(ids).numpy()]


def test_text_of_any_script_comes_back_exactly(vocabulary):
    ids = vocabulary.encode(SENTENCES + UNSEEN)
    assert decoded(vocabulary, ids) == SENTENCES + UNSEEN
    assert not np.any(ids.flat_values == 2)


def test_other_characters_than_those_of_the_text_are_encoded_in_bytes(vocabulary):
    assert vocabulary.characters == set(itertools.chain(*SENTENCES))
    for character in [*vocabulary.characters, *"日Жß🙂é\t"]:
        (ids,) = vocabulary.encode([character]).to_list()
        in_bytes = any(3 <= index < 3 + 256 for index in ids)
        assert in_bytes == (character not in vocabulary.characters)


def test_sentences_end_in_one_and_hold_no_other_special_id(vocabulary):
    ids = vocabulary.encode(SENTENCES + UNSEEN)
    assert isinstance(ids, tf.RaggedTensor)
    assert ids.dtype == tf.int32
    for sentence in ids.to_list():
        assert sentence[-1] == 1
        assert min(sentence[:-1], default=3) > 2
        assert max(sentence) < vocabulary.size == SIZE


def test_what_follows_the_end_and_zeros_do_not_count(vocabulary):
    (fox,) = vocabulary.encode(["fox"]).to_list()
    (cost,) = vocabulary.encode(["cost"]).to_list()
    rows = [
        fox + cost,
        fox + [0] * len(cost),
        [0, *fox[:-1], 0, 0, *fox[-1:], *cost[1:]],
        [*fox[:-1]] + [0] * (len(cost) + 1),
        [1] * (len(fox) + len(cost)),
    ]
    ragged = tf.ragged.constant(rows, tf.int32)
    for ids in (ragged, ragged.to_tensor(), ragged.to_tensor().numpy()):
        assert decoded(vocabulary, ids) == ["fox"] * 4 + [""]


def test_the_same_sentences_give_the_same_vocabulary(vocabulary, tmp_path):
    vocabulary.save(tmp_path / "one")
    Vocabulary.learn(iter([s.encode() for s in SENTENCES]), SIZE).save(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_saved_vocabulary_is_the_same_when_loaded(vocabulary, tmp_path):
    path = tmp_path / "vocabulary.model"
    vocabulary.save(path)
    vocabulary.save(path)
    assert list(tmp_path.iterdir()) == [path]
    loaded = Vocabulary.load(path)
    text = SENTENCES + UNSEEN
    assert loaded.size == SIZE
    assert loaded.encode(text).to_list() == vocabulary.encode(text).to_list()


def test_it_survives_a_cleared_keras_session(vocabulary):
    round_trip = tf.function(lambda text: vocabulary.decode(vocabulary.encode(text)))
    for _ in range(2):
        keras.backend.clear_session()
        assert decoded(vocabulary, vocabulary.encode(SENTENCES)) == SENTENCES
    keras.backend.clear_session()
    assert [text.decode() for text in round_trip(SENTENCES).numpy()] == SENTENCES


def test_too_large_a_size_is_an_error_which_says_the_largest():
    with pytest.raises(ValueError, match="Received: 5000") as error:
        Vocabulary.learn(SENTENCES, 5000)
    largest = int(re.search(r"at most (\d+)", str(error.value))[1])
    assert Vocabulary.learn(SENTENCES, largest).size == largest
    with pytest.raises(ValueError, match=f"at most {largest}"):
        Vocabulary.learn(SENTENCES, largest + 1)


def test_too_small_a_size_is_an_error_which_says_the_smallest():
    characters = set(itertools.chain(*SENTENCES))
    smallest = 3 + 256 + len(characters)
    with pytest.raises(ValueError, match=f"at least {smallest}. Received: 270"):
        Vocabulary.learn(SENTENCES, 270)
    with pytest.raises(ValueError, match=r"above 259.* Received: 1"):
        Vocabulary.learn(SENTENCES, 1)
    assert Vocabulary.learn(SENTENCES, smallest).size == smallest


def test_no_text_is_an_error():
    with pytest.raises(ValueError, match="no text"):
        Vocabulary.learn([], SIZE)


@pytest.mark.parametrize("content", [b"", b"no vocabulary", b"\n\x0e\n\x05<pad>\x15"])
def test_a_file_that_is_no_vocabulary_is_an_error_which_names_it(tmp_path, content):
    path = tmp_path / "broken.model"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken.model: this is no SentencePiece"):
        Vocabulary.load(path)


def test_a_vocabulary_with_other_special_ids_is_an_error(tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_prefix=str(tmp_path / "other"),
        vocab_size=60,
        minloglevel=2,
    )
    with pytest.raises(ValueError, match=r"must begin with.*Received: \['<unk>'"):
        Vocabulary.load(tmp_path / "other.model")
