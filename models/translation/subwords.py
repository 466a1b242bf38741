r"""The vocabulary of a subword file of Tensor2Tensor, which the published models have.

The file has a quoted subword on each line, and the ids are the numbers of the lines,
from 0: `'<pad>_'`, `'<EOS>_'`, `', _'`, `'the_'`, …

Text is cut into tokens: runs of letters and numbers, and runs of other characters. A
single space between two of the former is left out. In a token, `\` becomes `\\`, `_`
becomes `\u`, and what the subwords have no character for becomes the decimal number of
its code point: a line feed `\10;`. A `_` ends the token. What comes of it is cut into
subwords from left to right, of which each is the longest possible.
"""

import os
import pathlib
import re
from collections.abc import Sequence

import tensorflow as tf

# Registers its operations with TensorFlow, which has to be there first.
import tensorflow_text

from state_of_sparsity.atomic import replacing
from state_of_sparsity.models.translation.special_ids import END_ID
from state_of_sparsity.models.translation.vocabulary import text_ids

# Without the end of a token, which some files leave out.
RESERVED = ["<pad>", "<EOS>"]
# What each token can be written in.
ESCAPES = "\\_u;0123456789"
# For the number of no character.
UNDEFINED = 0x3013
# Regular expressions as TensorFlow has them.
ALPHANUMERIC = r"[\pL\pN]"
ESCAPED = r"\\(?:\\|u|[0-9]+;)"
ESCAPED_CODE = r"\\0*[0-9]{1,7};"


class Subwords(tf.Module):
    """Text to subword ids and back, as `Vocabulary`, with subwords of Tensor2Tensor.

    Id 0 is padding, 1 the end of a sentence. As an attribute of a model or module that
    is exported, it is saved along with it.

    Args:
      subwords: of a file, as `read_subwords` gives them.

    Attributes:
      size: number of ids.
      characters: those that are not encoded as numbers.
    """

    def __init__(self, subwords: Sequence[str]):
        super().__init__(name="subwords")
        alphabet = _alphabet(subwords)
        self.size = len(subwords)
        self.characters = frozenset({*alphabet, " "})
        self._unknown = f"[^{re.escape(''.join(sorted(alphabet)))}]"
        self._subwords = tf.constant(subwords)
        self._tokenizer = tensorflow_text.FastWordpieceTokenizer(
            subwords,
            suffix_indicator="",
            # It cuts a sentence at once, since no subword goes across tokens.
            no_pretokenization=True,
            max_bytes_per_word=2**31 - 1,
            token_out_type=tf.int32,
            # Which it needs to have, although all characters are known.
            unknown_token=subwords[0],
        )

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Subwords":
        """Reads a file.

        Raises:
          FileNotFoundError, ValueError: as `read_subwords`.
        """
        return cls(read_subwords(path))

    def save(self, path: str | os.PathLike) -> None:
        """Writes such a file: it is there as a whole or not at all."""
        lines = [f"'{subword.decode()}'\n" for subword in self._subwords.numpy()]
        with replacing(pathlib.Path(path)) as new:
            new.write_bytes("".join(lines).encode())

    def encode(self, strings) -> tf.RaggedTensor:
        """Ids of each string, with id 1 at the end.

        Args:
          strings: UTF-8 strings `(batch,)`. What is not, and U+0000, is taken for
            U+FFFD.

        Returns:
          int32 `(batch, None)`, ragged.
        """
        strings = tf.strings.unicode_transcode(strings, "UTF-8", "UTF-8")
        # There, `regex_split` would end the string.
        strings = tf.strings.regex_replace(strings, r"\x00", "\ufffd")
        words = f"{ALPHANUMERIC}+"
        tokens = tensorflow_text.regex_split(strings, words, words)
        tokens = tf.strings.regex_replace(tokens, r"\\", r"\\\\")
        tokens = tf.strings.regex_replace(tokens, "_", r"\\u")
        text = tf.strings.reduce_join(tf.strings.join([tokens, "_"]), axis=-1)
        # A token of one space, unless it is the first or the last.
        text = tf.strings.regex_replace(text, "(?s)_ _(.)", r"_\1")
        ids = self._tokenizer.tokenize(self._with_codes(text))
        return tf.concat([ids, tf.fill([ids.nrows(), 1], END_ID)], axis=1)

    def _with_codes(self, text):
        """Text with the numbers of those characters that no subword has."""
        pieces = tensorflow_text.regex_split(text, self._unknown, self._unknown)
        is_unknown = tf.strings.regex_full_match(pieces, self._unknown)
        # Of the one character that an unknown piece has.
        codes = tf.reduce_max(tf.strings.unicode_decode(pieces, "UTF-8"), axis=-1)
        numbers = tf.strings.join(["\\", tf.strings.as_string(codes), ";"])
        return tf.strings.reduce_join(tf.where(is_unknown, numbers, pieces), axis=-1)

    def decode(self, ids) -> tf.Tensor:
        """The strings that ids stand for.

        Args:
          ids: int32 `(batch, length)`, dense or ragged. What comes after the first 1
            does not count, nor do zeros.

        Returns:
          UTF-8 strings `(batch,)`.
        """
        subwords = tf.gather(self._subwords, text_ids(ids))
        tokens = tf.strings.split(tf.strings.reduce_join(subwords, axis=-1), "_")
        tokens = tf.ragged.boolean_mask(tokens, tokens != "")
        pieces = tensorflow_text.regex_split(tokens, ESCAPED, ESCAPED)
        pieces = pieces.with_flat_values(_unescaped(pieces.flat_values))
        tokens = tf.strings.reduce_join(pieces, axis=-1).to_tensor("")
        is_word = tf.strings.regex_full_match(tokens, f"(?s){ALPHANUMERIC}.*")
        after_word = tf.pad(is_word, [[0, 0], [1, 0]])[:, :-1]
        spaces = tf.where(is_word & after_word, " ", "")
        return tf.strings.reduce_join(tf.strings.join([spaces, tokens]), axis=-1)


def read_subwords(path: str | os.PathLike) -> list[str]:
    """The subwords of a file of Tensor2Tensor, in the order of their ids.

    It leaves TensorFlow alone, of which devices may not have been configured yet.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is not of the format: without quotes or in another encoding,
        with a subword twice or with an underscore inside, without the reserved ones or
        a character that others are made of. It names the file, and the line.
    """
    try:
        subwords = _unquoted(pathlib.Path(path).read_bytes())
        _check(subwords)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return subwords


def _unquoted(content):
    lines = content.split(b"\n")
    if not lines[-1]:
        del lines[-1]
    subwords = []
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode().rstrip()
        except UnicodeDecodeError as error:
            raise ValueError(f"line {number} is not UTF-8.") from error
        if len(text) < 3 or text[0] != text[-1] or text[0] not in "'\"":
            raise ValueError(
                f"line {number} is no subword in quotes, as Tensor2Tensor writes them. "
                f"Received: {text[:50]!r}"
            )
        subwords.append(text[1:-1])
    return subwords


def _check(subwords):
    """Raises ValueError for subwords in which not every text can be written."""
    first = subwords[: len(RESERVED)]
    if [subword.removesuffix("_") for subword in first] != RESERVED:
        raise ValueError(f"the first lines must hold {RESERVED}. Received: {first}")
    lines = {}
    for number, subword in enumerate(subwords, start=1):
        if subword in lines:
            raise ValueError(
                f"line {number} has the subword of line {lines[subword]}: {subword!r}"
            )
        if "_" in subword[:-1]:
            raise ValueError(
                f"line {number} has an underscore that ends no subword: {subword!r}"
            )
        lines[subword] = number
    alphabet = _alphabet(subwords)
    for number, subword in enumerate(subwords[len(RESERVED) :], len(RESERVED) + 1):
        if missing := set(subword) - alphabet:
            raise ValueError(
                f"line {number}, {subword!r}, has characters that are no subwords "
                f"themselves: {sorted(missing)}"
            )
    if missing := set(ESCAPES) - alphabet:
        raise ValueError(
            "no line has these characters, which others are written in: "
            f"{sorted(missing)}"
        )


def _alphabet(subwords):
    return {subword for subword in subwords if len(subword) == 1}


def _unescaped(pieces):
    """What pieces of tokens stand for, of which some are a whole escape."""
    is_code = tf.strings.regex_full_match(pieces, ESCAPED_CODE)
    digits = tf.strings.regex_replace(pieces, "[^0-9]", "")
    codes = tf.strings.to_number(tf.where(is_code, digits, str(UNDEFINED)), tf.int32)
    characters = tf.strings.unicode_encode(
        codes[:, tf.newaxis], "UTF-8", replacement_char=UNDEFINED
    )
    is_number = tf.strings.regex_full_match(pieces, r"\\[0-9]+;")
    text = tf.where(pieces == r"\\", "\\", tf.where(pieces == r"\u", "_", pieces))
    return tf.where(is_number, characters, text)
