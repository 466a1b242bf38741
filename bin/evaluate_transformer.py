"""Scores the deployed model of a run of train_transformer with BLEU.

  evaluate_transformer --run_dir=runs/transformer --split=validation

Prints a JSON object with the score, its signature and the sparsity. For variational
dropout,

  evaluate_transformer --run_dir=runs/transformer --log_alpha_thresholds=0,0.5,1,2,3

prints sparsity and BLEU at each threshold, and writes them to thresholds.csv in the
run's folder. The published measure, with the published reference:

  evaluate_transformer --run_dir=runs/transformer --bleu=tokenized_compound_split
      --tokenized_reference=newstest2014.tok.de
"""

import pathlib

from absl import flags

from state_of_sparsity.bin import app, evaluation
from state_of_sparsity.models.translation import bleu
from state_of_sparsity.models.usage import UsageError, usage_errors

flags.DEFINE_string("run_dir", "runs/transformer", "A folder of train_transformer.")
flags.DEFINE_enum(
    "bleu",
    "sacrebleu",
    ["sacrebleu", "tokenized_compound_split"],
    "sacreBLEU, or the measure of the published scores: on Moses tokens, with "
    "compounds split at hyphens.",
)
flags.DEFINE_string(
    "tokenized_reference",
    None,
    "For --bleu=tokenized_compound_split: a UTF-8 file of the references in tokens, a "
    "line for each sentence of the split in its order, such as newstest2014.tok.de. "
    "By default Moses tokenizes those of the dataset.",
)
evaluation.define_flags()


def main():
    if flags.FLAGS.tokenized_reference is not None and not _by_words():
        raise UsageError(
            f"--bleu={flags.FLAGS.bleu} does not have --tokenized_reference "
            "(it belongs to tokenized_compound_split)"
        )
    evaluation.evaluate(flags.FLAGS.run_dir, "train_transformer", _score)


def _by_words():
    return flags.FLAGS.bleu == "tokenized_compound_split"


def _score(task, deployed, split):
    by_words = _by_words()
    if by_words and task.dataset.bleu_tokenizer == "char":
        raise UsageError(
            f"--bleu={flags.FLAGS.bleu} counts sequences of four words, and a sentence "
            f"of {task.dataset.name} is one word: use --bleu=sacrebleu."
        )
    tokens = _tokenized_references(task, split)
    hypotheses, references = task.translate(deployed, split)
    if by_words:
        quality, signature = bleu.tokenized_compound_split_bleu(
            hypotheses, tokens or references, tokenized=tokens is not None
        )
    else:
        quality, signature = task.bleu(hypotheses, references)
    return {"quality": quality, "signature": signature}


def _tokenized_references(task, split):
    """The lines of --tokenized_reference in the order of translations, or None."""
    path = flags.FLAGS.tokenized_reference
    if path is None:
        return None
    # Before minutes are spent on translating.
    with usage_errors(f"--tokenized_reference={path}"):
        text = pathlib.Path(path).read_text(encoding="utf-8")
        # Not `splitlines`: other characters than these end no line.
        lines = text.removesuffix("\n").replace("\r\n", "\n").split("\n")
        return task.in_order_of_translations(lines, split)


def run():
    """The console script."""
    app.run(main, __doc__)


if __name__ == "__main__":
    run()
