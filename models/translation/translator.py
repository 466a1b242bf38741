"""From strings to strings: tokenization, beam search, detokenization in one graph."""

import os
import pathlib

from state_of_sparsity.engines.tf_keras.backend import tf
from state_of_sparsity.engines.tf_keras.saved_model import write_saved_model
from state_of_sparsity.exporting import check_free
from state_of_sparsity.models.translation.decoding import beam_search
from state_of_sparsity.models.translation.sparse_engine import SparseTransformer
from state_of_sparsity.models.translation.special_ids import END_ID, PADDING_ID
from state_of_sparsity.models.translation.subwords import Subwords
from state_of_sparsity.models.translation.transformer import Transformer
from state_of_sparsity.models.translation.vocabulary import Vocabulary


def is_blank(strings) -> tf.Tensor:
    """Which strings hold nothing but white space, of any kind that Unicode has."""
    return tf.strings.regex_full_match(strings, r"[\s\p{Z}]*")


class Translator:
    """Translates batches of strings with a deployed Transformer.

    Args:
      model: a stripped `Transformer`, or a `SparseTransformer`, which is not exported.
      vocabulary: of the model.
      max_length: most tokens of a sentence, with its end. The rest of a longer
        sentence is left out.
      beams: hypotheses of the beam search.
      alpha: exponent of its length penalty.
      extra_length: tokens that a translation may have more than its sentence.

    Raises:
      ValueError: if the vocabulary is not that of the model.
    """

    def __init__(
        self,
        model: Transformer | SparseTransformer,
        vocabulary: Vocabulary | Subwords,
        max_length: int,
        beams: int = 4,
        alpha: float = 0.6,
        extra_length: int = 100,
    ):
        if vocabulary.size != model.vocabulary_size:
            raise ValueError(
                f"The vocabulary has {vocabulary.size} subwords, and the model was "
                f"trained with {model.vocabulary_size}: it is another run's."
            )
        self.model = model
        self.vocabulary = vocabulary
        self.max_length = max_length
        self.extra_length = extra_length
        self._search = {"beams": beams, "alpha": alpha}
        self.translate = self._translate
        if not isinstance(model, SparseTransformer):
            sentences = tf.TensorSpec([None], tf.string, "sentences")
            self.translate = tf.function(self._translate, [sentences])

    def _translate(self, strings):
        """The translations of strings (batch,); of a blank one, an empty string."""
        tokens = self.vocabulary.encode(strings)
        cut = tokens[:, : self.max_length - 1].to_tensor(END_ID)
        # Ends the sentences that were cut, and makes one of the others' padding.
        source = tf.pad(cut, [[0, 0], [0, 1]], constant_values=END_ID)
        ends = tf.cumsum(tf.cast(source == END_ID, tf.int32), axis=1, exclusive=True)
        source = tf.where(ends == 0, source, PADDING_ID)
        lengths = tf.math.count_nonzero(source != PADDING_ID, axis=1, dtype=tf.int32)
        longest = lengths + self.extra_length
        found = beam_search(self.model, source, longest, **self._search)
        return tf.where(is_blank(strings), "", self.vocabulary.decode(found.ids))

    def token_counts(self, strings) -> tf.Tensor:
        """How many tokens each string has, with its end; int64 (batch,).

        A blank one has none, as there is nothing to translate.
        """
        counts = self.vocabulary.encode(strings).row_lengths()
        return tf.where(is_blank(strings), tf.zeros_like(counts), counts)

    def export(self, path: str | os.PathLike, overwrite: bool = False) -> None:
        """Writes a SavedModel from strings to strings.

        It loads with TensorFlow, once tensorflow_text has been imported:
        `loaded = tf.saved_model.load(path)`, which has to be kept, and then
        `loaded.serve(["three"])`, or `serving_default`.

        Raises:
          FileExistsError: as `sos.export_saved_model`.
        """
        path = pathlib.Path(path)
        check_free(path, overwrite)
        spec = tf.TensorSpec([None], tf.string, "sentences")
        write_saved_model(path, self.model, self._translate, spec, [self.vocabulary])
