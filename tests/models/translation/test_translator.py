"""From strings to strings, and the same from a SavedModel."""

import subprocess
import sys

import numpy as np
import pytest

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import tf
from state_of_sparsity.models.translation.decoding import beam_search
from state_of_sparsity.models.translation.special_ids import END_ID
from state_of_sparsity.models.translation.task import TranslationTask
from state_of_sparsity.models.translation.transformer import Transformer
from state_of_sparsity.models.translation.translator import Translator
from state_of_sparsity.models.translation.vocabulary import Vocabulary

TEXT = [
    "one two three four",
    "eins zwei drei vier fünf",
    "a quick brown fox jumps over the lazy dog",
    "zwölf Boxkämpfer jagen Viktor quer über den Deich",
]
MAX_LENGTH, EXTRA = 12, 5


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.learn(TEXT, 300)


# Each test drops the resources of tokenizers, which this one's graph holds.
@pytest.fixture
def translator(vocabulary):
    model = Transformer(vocabulary.size, 1, 8, 16, 2)
    model.build()
    return Translator(model, vocabulary, MAX_LENGTH, beams=2, extra_length=EXTRA)


@pytest.fixture
def pruned(translator):
    """The model as it is deployed with variational dropout, with zeros."""
    technique = sos.VariationalDropout(1.0, log_alpha_threshold=-8.0)
    return sos.strip(sos.sparsify(translator.model, technique))


LONG = "one two three four " * 10


@pytest.mark.parametrize("string", ["two dogs", "the dog", LONG])
def test_translations_are_those_of_a_beam_search_over_the_tokens(translator, string):
    ids = translator.vocabulary.encode([string]).to_tensor()
    assert (ids.shape[1] > MAX_LENGTH) == (string is LONG)
    if string is LONG:
        # What is longer than the maximum is cut.
        ids = tf.concat([ids[:, : MAX_LENGTH - 1], [[END_ID]]], axis=1)
    found = beam_search(translator.model, ids, ids.shape[1] + EXTRA, beams=2)
    expected = translator.vocabulary.decode(found.ids).numpy()
    assert translator.translate([string]).numpy().tolist() == expected.tolist()


def test_blank_sentences_stay_blank_and_none_are_lost(translator):
    translations = translator.translate(["", "two", "  \t", "日本語", "two"]).numpy()
    assert len(translations) == 5
    assert translations[0] == translations[2] == b""
    assert translations[1] == translations[4]
    assert translator.translate(tf.zeros([0], tf.string)).shape == (0,)


class Endless(Transformer):
    """Says one subword on and on, without an end."""

    def decode_step(self, ids, step, encoded, cache):
        logits, cache = super().decode_step(ids, step, encoded, cache)
        places = tf.range(tf.shape(logits)[1])
        never = tf.where(places == END_ID, -1e9, -100.0)
        return tf.where(places == self.said, 0.0, never) + 0.0 * logits, cache


def test_a_translation_is_at_most_so_many_tokens_longer_than_its_sentence(vocabulary):
    model = Endless(vocabulary.size, 1, 8, 16, 2)
    model.build()
    letter = "j"
    model.said = int(vocabulary.encode([letter]).numpy()[0][-2])
    translator = Translator(model, vocabulary, MAX_LENGTH, beams=1)
    strings = ["two", "the dog", LONG]
    counts = np.minimum(translator.token_counts(strings), MAX_LENGTH)
    translations = translator.translate(strings).numpy()
    assert len(set(counts)) == 3
    for translation, count in zip(translations, counts, strict=True):
        # By default, 100.
        assert translation.decode().count(letter) == count + 100


def test_a_vocabulary_of_another_size_is_refused(vocabulary):
    model = Transformer(50, 1, 8, 16, 2)
    model.build()
    with pytest.raises(ValueError, match=r"has 300 subwords, .* trained with 50"):
        Translator(model, vocabulary, MAX_LENGTH)


@pytest.mark.slow
def test_the_export_translates_without_this_project(translator, pruned, tmp_path):
    exported = Translator(pruned, translator.vocabulary, MAX_LENGTH, beams=2)
    exported.export(tmp_path / "export")
    strings = ["two dogs", "", "der Fuchs", "日本語"]
    code = (
        "import sys, tensorflow as tf, tensorflow_text\n"
        "loaded = tf.saved_model.load(sys.argv[1])\n"
        "out = loaded.serve(tf.constant(sys.argv[2:])).numpy()\n"
        "served = loaded.signatures['serving_default'](tf.constant(sys.argv[2:]))\n"
        "assert (list(served.values())[0].numpy() == out).all()\n"
        "assert not any(m.startswith('state_of_sparsity') for m in sys.modules)\n"
        "sys.stdout.buffer.write(b'\\0'.join(out))\n"
    )
    output = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "export", *strings],
        check=True,
        capture_output=True,
        cwd=tmp_path,
    ).stdout
    assert output.split(b"\0") == exported.translate(strings).numpy().tolist()


def test_an_export_that_is_there_is_not_replaced(translator, tmp_path):
    translator.export(tmp_path / "export")
    with pytest.raises(FileExistsError, match="holds a SavedModel already"):
        translator.export(tmp_path / "export")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"format": "litert"}, "exported as tf_saved_model.*litert"),
        ({"quantize": "int8"}, "no option quantize.*int8"),
    ],
)
def test_a_run_is_not_exported_otherwise(other, message, tmp_path):
    # Raised before anything of the task is looked at.
    task = object.__new__(TranslationTask)
    with pytest.raises(ValueError, match=message):
        task.export(None, tmp_path / "export", **other)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["encoder.sparse", "decoder.sparse"])
def test_no_file_of_an_earlier_export_is_replaced_unasked(name, tmp_path):
    (tmp_path / name).write_text("of before")
    task = object.__new__(TranslationTask)
    with pytest.raises(FileExistsError, match=f"{name} holds a file already"):
        task.export(None, tmp_path / "decoder.sparse", format="sparse")
    assert (tmp_path / name).read_text() == "of before"
