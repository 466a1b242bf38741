"""The options of a training run on translation."""

import dataclasses
import math

from state_of_sparsity.models.training.options import Options, Preset
from state_of_sparsity.models.translation.subwords import read_subwords

PRESETS = {
    "numbers": Preset(
        options={
            "vocabulary_size": 384,
            "layers": 2,
            "width": 32,
            "feed_forward": 128,
            "heads": 4,
            "train_steps": 1_000,
            "tokens_per_step": 2_048,
            "packed_length": 64,
            "warmup_steps": 300,
            "dropout": 0.0,
            "label_smoothing": 0.1,
            "eval_steps": 500,
            "max_length": 128,
        },
        technique={
            "sparsity": 0.8,
            "begin_step": 0.3,
            "end_step": 0.8,
            "frequency": 1 / 50,
            "kl_weight": 2e-5,
            "l0_weight": 2e-4,
            "ramp_length": 1 / 2,
            "threshold_init": -5.0,
            # It has no option of this name.
            "weight_decay": 1e-4,
        },
        # The data is embedded.
        without=("data_dir",),
    ),
    "wmt14_translate/de-en": Preset(
        options={
            "vocabulary_size": 33_288,
            "layers": 6,
            "width": 512,
            "feed_forward": 2_048,
            "heads": 8,
            "train_steps": 500_000,
            # 2,048 on each of what were most likely 8 devices.
            "tokens_per_step": 16_384,
            "packed_length": 256,
            "warmup_steps": 8_000,
            "dropout": 0.1,
            "label_smoothing": 0.1,
            "eval_steps": 10_000,
            # Longer than any sentence of newstest.
            "max_length": 1_024,
        },
        technique={
            "sparsity": 0.9,
            "begin_step": 0.2,
            "end_step": 0.8,
            "frequency": 10 / 500,
        },
    ),
}


@dataclasses.dataclass(frozen=True)
class TranslationOptions(Options):
    """What a run on translation is, apart from the technique.

    Options that are None take the value that goes with the dataset.

    Attributes:
      dataset: numbers (embedded) or wmt14_translate/de-en (from --data_dir).
      data_dir: folder of datasets prepared by TFDS.
      subwords: file of subwords as Tensor2Tensor writes it, to take in place of those
        learned from the training split.
      vocabulary_size: number of subwords that are learned, or that the file has.
      layers: of the encoder, and as many of the decoder.
      width: of embeddings and residual connections.
      feed_forward: width inside of the feed-forward blocks.
      heads: of each attention.
      dropout: rate at residual connections, attention weights and ReLU.
      train_steps: number of training steps.
      tokens_per_step: target positions per step, over all replicas.
      tokens_per_replica: target positions per step of each replica, in place of
        tokens_per_step.
      accumulate_steps: equal parts in which each replica takes its rows of a step, one
        after the other, for want of memory. The step is that of all of them.
      packed_length: of the rows that sentences are packed into, in tokens.
      learning_rate: constant factor of the schedule of Vaswani et al. 2017.
      warmup_steps: training steps in which the learning rate grows linearly.
      label_smoothing: share of the probability that goes to all subwords evenly.
      eval_steps: steps from one evaluation and checkpoint to the next.
      export: last, or best: which state is exported, scored on the test split and
        evaluated later; the best in validation is looked for once the schedules of the
        technique are over.
      beams: hypotheses of the beam search.
      alpha: exponent of its length penalty.
      max_length: most tokens of a sentence that is translated; the rest is left out.
      extra_length: tokens that a translation may have more than its sentence.
      seed: of initial weights, order of the data, dropout and random pruning.
      precision: float32, mixed_float16 or mixed_bfloat16.
      distribution: auto, one_device, mirrored or multi_worker (from TF_CONFIG).
    """

    presets = PRESETS
    at_least_one = (
        *Options.at_least_one,
        "vocabulary_size",
        "layers",
        "width",
        "feed_forward",
        "heads",
        "tokens_per_step",
        "tokens_per_replica",
        "packed_length",
        "warmup_steps",
        "beams",
    )
    not_negative = (*Options.not_negative, "alpha", "extra_length")
    fractions = (*Options.fractions, "dropout")

    dataset: str = "numbers"
    data_dir: str | None = None
    subwords: str | None = None
    vocabulary_size: int | None = None
    layers: int | None = None
    width: int | None = None
    feed_forward: int | None = None
    heads: int | None = None
    dropout: float | None = None
    train_steps: int | None = None
    tokens_per_step: int | None = None
    tokens_per_replica: int | None = None
    accumulate_steps: int = 1
    packed_length: int | None = None
    learning_rate: float = 2.0
    warmup_steps: int | None = None
    label_smoothing: float | None = None
    eval_steps: int | None = None
    export: str = "last"
    beams: int = 4
    alpha: float = 0.6
    max_length: int | None = None
    extra_length: int = 100
    seed: int = 0
    precision: str = "float32"
    distribution: str = "auto"

    def resolved(self):
        if self.subwords is not None and self.vocabulary_size is None:
            size = len(read_subwords(self.subwords))
            return dataclasses.replace(self, vocabulary_size=size).resolved()
        options = super().resolved()
        if self.tokens_per_replica is None:
            return options
        self._require(
            "tokens_per_replica",
            self.tokens_per_step is None,
            f"be left out with tokens_per_step={self.tokens_per_step}",
        )
        return dataclasses.replace(options, tokens_per_step=None)

    def rows_per_replica(self, replicas: int) -> int:
        """Packed rows in the batch of each of so many replicas.

        Raises:
          ValueError: if there is none.
        """
        name, tokens = "tokens_per_replica", self.tokens_per_replica
        if tokens is None:
            name, tokens = "tokens_per_step", self.tokens_per_step
            tokens /= replicas
        self._require(
            name,
            tokens >= self.packed_length,
            f"be at least packed_length={self.packed_length} on each device",
        )
        return math.floor(tokens / self.packed_length)

    def check(self):
        super().check()
        self.rows_per_replica(replicas=1)
        # One for the end of a sentence.
        self._require("max_length", self.max_length >= 2, "be at least 2")
        if self.width % self.heads or self.width % 2:
            raise ValueError(
                "width must be even and a multiple of heads. "
                f"Received: width={self.width}, heads={self.heads}"
            )
