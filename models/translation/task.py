"""Translating English to German with a Transformer: the second task of the paper."""

import functools
import pathlib

import numpy as np

import state_of_sparsity as sos
from state_of_sparsity.engines import engine_of, formats
from state_of_sparsity.engines.tf_keras.backend import keras, tf
from state_of_sparsity.exporting import check_free
from state_of_sparsity.models.training.devices.strategy import counted
from state_of_sparsity.models.training.loop.learning_rate import InverseSquareRoot
from state_of_sparsity.models.training.loop.losses import SmoothedCrossEntropy
from state_of_sparsity.models.training.loop.task import Task
from state_of_sparsity.models.training.run_folder import RunFolder
from state_of_sparsity.models.translation import bleu
from state_of_sparsity.models.translation.dataset import (
    PackedPairs,
    TranslationDataset,
    evaluation_batches,
    evaluation_sentences,
    in_order_of_evaluation,
    training_text,
)
from state_of_sparsity.models.translation.numbers_dataset import Numbers
from state_of_sparsity.models.translation.options import TranslationOptions
from state_of_sparsity.models.translation.sparse_engine import (
    DECODER,
    ENCODER,
    write_sparse,
)
from state_of_sparsity.models.translation.subwords import Subwords
from state_of_sparsity.models.translation.transformer import INPUT_NAMES, Transformer
from state_of_sparsity.models.translation.translator import Translator
from state_of_sparsity.models.translation.vocabulary import Vocabulary
from state_of_sparsity.models.translation.wmt14 import Wmt14

DATASETS = {
    "numbers": lambda options: Numbers(),
    "wmt14_translate/de-en": lambda options: Wmt14(options.data_dir),
}
# Sentences that are translated at a time when a model is scored.
TRANSLATED_AT_A_TIME = 100
# Of the validation split, one in so many is translated after each interval.
EVERY_IN_TRAINING = 5
# Share of padding from which on another setting would be worth its while.
MUCH_PADDING = 0.1


class TranslationTask(Task):
    """A Transformer, its data, and how it is trained (Gale et al. 2019, section 4).

    Args:
      options: resolved.
      folder: the run's folder, whose vocabulary is used if it has one; otherwise it is
        that of the options, or learned from the training split.

    Raises:
      ValueError: if a step has too few rows for all replicas and parts.
    """

    quality_metric = "bleu"
    name = "transformer"
    sparse_file = DECODER

    def __init__(self, options: TranslationOptions, folder: RunFolder | None = None):
        self.options = options
        self._folder = folder
        # Task and model are made under the strategy.
        self._replicas = tf.distribute.get_strategy().num_replicas_in_sync
        self._rows = options.rows_per_replica(self._replicas) * self._replicas
        options.at_a_time(self._rows, self._replicas)

    @functools.cached_property
    def dataset(self) -> TranslationDataset:
        """Read when it is needed: translating takes none.

        Raises:
          ValueError, FileNotFoundError: if there is no such dataset.
        """
        return DATASETS[self.options.dataset](self.options)

    # Not before the model is built: `tf.random.set_seed`, which comes first, drops the
    # resources of tokenizers that are there already.
    @functools.cached_property
    def vocabulary(self) -> Vocabulary | Subwords:
        """From the run's folder, a file, or learned from the training split.

        Raises:
          FileNotFoundError: if there is no such file.
          ValueError: if it cannot be learned or read, or is not that of the options.
        """
        folder, size = self._folder, self.options.vocabulary_size
        path = self.options.subwords
        if folder is not None and folder.vocabulary.is_file():
            path = folder.vocabulary
        elif folder is not None and folder.checkpoints.exists():
            raise ValueError(
                f"{folder.path} has checkpoints and no {folder.vocabulary.name}, "
                "without which they are of no use: put it back."
            )
        elif path is None:
            return self._learned_vocabulary(size)
        vocabulary = (Subwords if self.options.subwords else Vocabulary).load(path)
        if vocabulary.size != size:
            raise ValueError(
                f"{path} has {vocabulary.size} subwords and not "
                f"vocabulary_size={size}: it is of another model."
            )
        return vocabulary

    def _learned_vocabulary(self, size):
        pairs = self.dataset.vocabulary_pairs
        print(
            f"Learning a vocabulary of {size:,} subwords from {pairs:,} pairs of "
            "sentences at most."
        )
        try:
            return Vocabulary.learn(training_text(self.dataset, pairs), size)
        except ValueError as error:
            raise ValueError(f"vocabulary_size={size}: {error}") from error

    def prepare(self):
        _ = self.vocabulary

    def write_assets(self, folder):
        if not folder.vocabulary.is_file():
            self.vocabulary.save(folder.vocabulary)

    @functools.cached_property
    def _packed(self):
        packed = PackedPairs(self.dataset, self.vocabulary, self.options.packed_length)
        print(
            f"{packed.examples:,} pairs of sentences packed into "
            f"{packed.rows_per_epoch:,} rows of {packed.length} tokens: "
            f"{packed.padding_share:.1%} padding, {packed.left_out:,} too long"
        )
        if packed.padding_share > MUCH_PADDING:
            print(
                "That is much padding, which costs time: choose another "
                "--vocabulary_size, so that both languages take as many tokens, or a "
                "larger --packed_length."
            )
        return packed

    @property
    def steps_per_epoch(self):
        return self._packed.rows_per_epoch / self._rows

    @property
    def examples_per_step(self):
        return self._rows * self.options.packed_length

    @property
    def example(self):
        """One source and one target token, for which each weight is used once.

        The embedding counts as the map to logits; an attention is to one position.
        """
        return {name: np.zeros((1, 1), "int32") for name in INPUT_NAMES}

    @property
    def batch(self):
        length = self.options.packed_length
        return (
            f"{self._rows * length:,} target positions on {counted(self._replicas)}, "
            f"in {self._rows:,} rows of {length:,} tokens{self.options.in_parts}"
        )

    def build(self):
        options = self.options
        model = Transformer(
            options.vocabulary_size,
            options.layers,
            options.width,
            options.feed_forward,
            options.heads,
            options.dropout,
        )
        model.build()
        return model

    def compile(self, model):
        options = self.options
        rate = InverseSquareRoot(
            options.learning_rate, options.width, options.warmup_steps
        )
        model.compile(
            keras.optimizers.Adam(rate, beta_1=0.9, beta_2=0.997, epsilon=1e-9),
            # The weights of a batch sum to one, so that the sum over all replicas is
            # the mean over the target tokens.
            SmoothedCrossEntropy(
                options.label_smoothing, reduction=keras.losses.Reduction.SUM
            ),
            weighted_metrics=[
                keras.metrics.SparseCategoricalAccuracy("token_accuracy")
            ],
        )

    def training_data(self, start_step):
        batches = self._packed.training(self._rows, self.options.seed, start_step)
        return batches.map(weighted_by_token)

    def evaluation_data(self, split):
        batches = evaluation_batches(
            self.dataset, self.vocabulary, split, TRANSLATED_AT_A_TIME
        )
        return batches.map(weighted_by_token)

    def damage(self):
        return self.dataset.damage()

    def translator(self, deployed: Transformer) -> Translator:
        """Maps strings to strings with a stripped model."""
        options = self.options
        return Translator(
            deployed,
            self.vocabulary,
            options.max_length,
            options.beams,
            options.alpha,
            options.extra_length,
        )

    def translate(
        self, deployed: Transformer, split: str, every: int = 1
    ) -> tuple[list[str], list[str]]:
        """Translations of a split, the longest first, and the reference translations.

        Args:
          deployed: a stripped model.
          split: "validation" or "test".
          every: translate only every so many sentences.
        """
        sources, references = (
            side[::every]
            for side in evaluation_sentences(self.dataset, self.vocabulary, split)
        )
        translate = self.translator(deployed).translate
        hypotheses = []
        for start in range(0, len(sources), TRANSLATED_AT_A_TIME):
            batch = tf.constant(sources[start : start + TRANSLATED_AT_A_TIME])
            hypotheses += [text.decode() for text in translate(batch).numpy()]
        return hypotheses, references

    def in_order_of_translations(self, lines: list[str], split: str) -> list[str]:
        """Lines on the sentences of a split, in the order of `translate`.

        Raises:
          ValueError: unless there is one for each sentence.
        """
        return in_order_of_evaluation(lines, self.dataset, self.vocabulary, split)

    def bleu(self, hypotheses: list[str], references: list[str]) -> tuple[float, str]:
        """sacreBLEU's score, from 0 to 100, and its signature."""
        tokenizer = self.dataset.bleu_tokenizer
        return bleu.sacrebleu_score(hypotheses, references, tokenizer)

    def evaluate(self, model, split):
        return self.bleu(*self.translate(model, split))[0]

    def quality_in_training(self, model, logs):
        del logs
        deployed = engine_of(model).strip(model)
        translated = self.translate(deployed, "validation", EVERY_IN_TRAINING)
        return self.bleu(*translated)[0]

    def export(
        self,
        model,
        path,
        format="tf_saved_model",
        overwrite=False,
        log_alpha_threshold=None,
        **options,
    ):
        if format not in ("tf_saved_model", "sparse"):
            raise ValueError(
                "A translation run is exported as tf_saved_model, from strings to "
                "strings, or as sparse files, and is not quantized. Received: "
                f"format={format!r}"
            )
        formats.check(format, "tf_keras", **options)
        if format == "sparse":
            for name in (ENCODER, DECODER):
                check_free(pathlib.Path(path).with_name(name), overwrite, format)
            write_sparse(sos.strip(model, log_alpha_threshold), path, **options)
            return
        deployed = sos.strip(model, log_alpha_threshold)
        self.translator(deployed).export(path, overwrite)


def weighted_by_token(inputs, labels, weights):
    """Weights of which a batch has the sum of one, however many tokens it has."""
    return inputs, labels, weights / tf.maximum(tf.reduce_sum(weights), 1.0)
