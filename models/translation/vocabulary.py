"""A subword vocabulary that two languages share, tokenized in the graph.

SentencePiece's unigram model (Kudo 2018, arXiv 1804.10959) over the characters as they
are: nothing is normalized, so that decoding what was encoded gives the text back.
"""

import io
import os
import pathlib
import re
import tempfile
from collections.abc import Iterable

import sentencepiece
import tensorflow as tf

# Registers its operations with TensorFlow, which has to be there first.
import tensorflow_text
from sentencepiece import sentencepiece_model_pb2

from state_of_sparsity.models.translation.special_ids import (
    END_ID,
    PADDING_ID,
    UNKNOWN_ID,
)

SPACE = "\u2581"  # As SentencePiece writes it.
PIECES = {PADDING_ID: "<pad>", END_ID: "</s>", UNKNOWN_ID: "<unk>"}
# Those, and one for each byte.
SPECIAL_PIECES = len(PIECES) + 256
# SentencePiece writes spaces as U+2581 in any case, so that this rule changes nothing.
# Without any rule, each tokenizer prints to the log that it has none.
SPACE_RULE = "2581\t20\n"
# Sums of floats are taken thread by thread: another number, another vocabulary.
THREADS = 16


class Vocabulary(tf.Module):
    """Text to subword ids and back.

    Id 0 is padding, 1 the end of a sentence, 2 unknown; no text becomes the latter,
    since characters that the vocabulary has not seen are encoded byte by byte.

    It is a `tf.Module`: as an attribute of a model or module that is exported, it is
    saved along with it.

    Args:
      model: a SentencePiece model as bytes, as `learn` makes it.

    Attributes:
      size: number of ids.
      characters: those with a subword of their own. `learn` gives one to each that the
        text has; others are encoded byte by byte.

    Raises:
      ValueError: if `model` is no SentencePiece model, or one with other ids.
    """

    def __init__(self, model: bytes):
        super().__init__(name="vocabulary")
        self._model = model
        pieces = _checked_pieces(model)
        self.size = len(pieces)
        characters = {piece for piece in pieces if len(piece) == 1}
        self.characters = frozenset({c.replace(SPACE, " ") for c in characters})
        self._tokenizer = _tokenizer(model)

    @classmethod
    def learn(cls, sentences: Iterable[str | bytes], size: int) -> "Vocabulary":
        """Learns a vocabulary; the same sentences and size give the same one.

        Args:
          sentences: text of all languages, without end-of-line characters. Those of
            more than 4,192 bytes are passed over.
          size: number of ids, among them 3 special ones and 256 for bytes.

        Raises:
          ValueError: if there is no text, or if it does not allow for this size; the
            message says the smallest or the largest possible.
        """
        if size <= SPECIAL_PIECES:
            raise ValueError(
                f"`size` must be above {SPECIAL_PIECES}, which are special ids and "
                f"bytes. Received: {size}"
            )
        model = io.BytesIO()
        with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rule:
            rule.write(SPACE_RULE)
            rule.flush()
            try:
                sentencepiece.SentencePieceTrainer.train(
                    # A word has one form, whether it begins a sentence or not.
                    # SentencePiece's own dummy prefix loses leading spaces.
                    sentence_iterator=(" " + tf.compat.as_text(s) for s in sentences),
                    model_writer=model,
                    vocab_size=size,
                    model_type="unigram",
                    pad_id=PADDING_ID,
                    eos_id=END_ID,
                    unk_id=UNKNOWN_ID,
                    bos_id=-1,
                    pad_piece=PIECES[PADDING_ID],
                    eos_piece=PIECES[END_ID],
                    unk_piece=PIECES[UNKNOWN_ID],
                    normalization_rule_tsv=rule.name,
                    remove_extra_whitespaces=False,
                    add_dummy_prefix=False,
                    character_coverage=1.0,
                    byte_fallback=True,
                    num_threads=THREADS,
                    minloglevel=2,
                )
            except RuntimeError as error:
                raise ValueError(_explained(str(error), size)) from error
        return cls(_without_file_names(model.getvalue()))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Vocabulary":
        """Reads what `save` wrote.

        Raises:
          FileNotFoundError: if there is no such file.
          ValueError: if it holds no vocabulary.
        """
        try:
            return cls(pathlib.Path(path).read_bytes())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def save(self, path: str | os.PathLike) -> None:
        """Writes the SentencePiece model: a file is there as a whole or not at all."""
        path = pathlib.Path(path)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        temporary.write_bytes(self._model)
        temporary.replace(path)

    def encode(self, strings) -> tf.RaggedTensor:
        """Ids of each string, with id 1 at the end.

        Args:
          strings: UTF-8 strings `(batch,)`. U+2581 is taken for a space.

        Returns:
          int32 `(batch, None)`, ragged.
        """
        return self._live_tokenizer().tokenize(tf.strings.join([" ", strings]))

    def decode(self, ids) -> tf.Tensor:
        """The strings that ids stand for.

        Args:
          ids: int32 `(batch, length)`, dense or ragged. What comes after the first 1
            does not count, nor do zeros.

        Returns:
          UTF-8 strings `(batch,)`.
        """
        text = self._live_tokenizer().detokenize(text_ids(ids))
        return tf.strings.regex_replace(text, "^ ", "")

    def _live_tokenizer(self):
        """The tokenizer, made anew if `keras.backend.clear_session` destroyed it.

        What it destroys is the tokenizer's state, which belongs to a cached kernel.
        """
        with tf.init_scope():
            try:
                self._tokenizer.vocab_size()
            except tf.errors.NotFoundError:
                self._tokenizer = _tokenizer(self._model)
        return self._tokenizer


def text_ids(ids) -> tf.RaggedTensor:
    """Those of ids (batch, length) that stand for text: before an end, no padding."""
    if isinstance(ids, tf.RaggedTensor):
        ids = ids.to_tensor(PADDING_ID)
    ids = tf.convert_to_tensor(ids, tf.int32)
    ends = tf.cumsum(tf.cast(ids == END_ID, tf.int32), axis=-1)
    return tf.ragged.boolean_mask(ids, (ends == 0) & (ids != PADDING_ID))


def _tokenizer(model):
    return tensorflow_text.SentencepieceTokenizer(
        model, out_type=tf.int32, add_eos=True
    )


def _without_file_names(model):
    """A model that does not remember the name of the temporary file of its rule."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    proto.normalizer_spec.ClearField("normalization_rule_tsv")
    return proto.SerializeToString(deterministic=True)


def _checked_pieces(model):
    processor = sentencepiece.SentencePieceProcessor()
    try:
        # An empty model would be accepted, and fail later.
        if not model:
            raise RuntimeError
        processor.LoadFromSerializedProto(model)
    except RuntimeError as error:
        raise ValueError("this is no SentencePiece vocabulary.") from error
    pieces = [processor.IdToPiece(i) for i in range(processor.GetPieceSize())]
    first = pieces[: len(PIECES)]
    if first != list(PIECES.values()):
        raise ValueError(
            f"a vocabulary must begin with {list(PIECES.values())}. Received: {first}"
        )
    return pieces


def _explained(error, size):
    """What SentencePiece's message means for who asked for a size."""
    if found := re.search(r"too high.*<= (\d+)", error):
        return (
            f"`size` is more than the text allows for: at most {found[1]}. "
            f"Received: {size}"
        )
    if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", error):
        return (
            f"`size` must have room for each character of the text: at least "
            f"{found[1]}. Received: {size}"
        )
    if "sentences_.empty()" in error:
        return "`sentences` hold no text to learn a vocabulary from."
    return f"No vocabulary of size {size} can be learned: {error}"
