"""Scores the deployed model of a run of train_transformer with BLEU.

  evaluate_transformer --run_dir=runs/transformer --split=validation

Prints a JSON object with the score, its signature and the sparsity. For variational
dropout,

  evaluate_transformer --run_dir=runs/transformer --log_alpha_thresholds=0,0.5,1,2,3

prints sparsity and BLEU at each threshold, and writes them to thresholds.csv in the
run's folder.
"""

from absl import flags

from state_of_sparsity.bin import app, evaluation
from state_of_sparsity.bin.flags import UsageError
from state_of_sparsity.models.translation import bleu

flags.DEFINE_string("run_dir", "runs/transformer", "A folder of train_transformer.")
flags.DEFINE_enum(
    "bleu",
    "sacrebleu",
    ["sacrebleu", "tokenized_compound_split"],
    "sacreBLEU, or the measure of the published scores: on Moses tokens, with "
    "compounds split at hyphens.",
)
evaluation.define_flags()


def main():
    evaluation.evaluate(flags.FLAGS.run_dir, "train_transformer", _score)


def _score(task, deployed, split):
    by_words = flags.FLAGS.bleu == "tokenized_compound_split"
    if by_words and task.dataset.bleu_tokenizer == "char":
        raise UsageError(
            f"--bleu={flags.FLAGS.bleu} counts sequences of four words, and a sentence "
            f"of {task.dataset.name} is one word: use --bleu=sacrebleu."
        )
    translated = task.translate(deployed, split)
    if by_words:
        quality, signature = bleu.tokenized_compound_split_bleu(*translated)
    else:
        quality, signature = task.bleu(*translated)
    return {"quality": quality, "signature": signature}


def run():
    """The console script."""
    app.run(main, __doc__)


if __name__ == "__main__":
    run()
