"""Trains a Transformer that translates English to German, with a technique.

Without flags: a small Transformer on numbers that are spelled out, 80 % sparse by
magnitude pruning, in minutes on a CPU. With the published settings, on WMT 2014:

  train_transformer --flagfile=bin/recipes/transformer_magnitude_pruning_0.90.flags
      --data_dir=<prepared by TFDS> --output_dir=<the run's folder>

Run the same command again to go on with a run that was interrupted.
"""

from absl import flags

from state_of_sparsity.bin import app, runs

BINARY = "train_transformer"

flags.DEFINE_string(
    "output_dir", "runs/transformer", "The run's folder: results, checkpoints, export."
)
runs.define_run_flags(BINARY)


def main():
    runs.train_from_flags(BINARY)


def run():
    """The console script."""
    app.run(main, __doc__)


if __name__ == "__main__":
    run()
