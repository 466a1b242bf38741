"""Trains a ResNet on images with a sparsification technique.

Or another network, by --network. Without flags: a small ResNet-50 on handwritten
digits, 90 % sparse by magnitude pruning, in minutes on a CPU. With the published
settings, on ImageNet:

  train_resnet50 --flagfile=bin/recipes/resnet50_magnitude_pruning_0.90.flags
      --data_dir=<prepared by TFDS> --output_dir=<the run's folder>

Run the same command again to go on with a run that was interrupted.
"""

from absl import flags

from state_of_sparsity.bin import app, runs

BINARY = "train_resnet50"

flags.DEFINE_string(
    "output_dir", "runs/resnet50", "The run's folder: results, checkpoints, export."
)
runs.define_run_flags(BINARY)


def main():
    runs.train_from_flags(BINARY)


def run():
    """The console script."""
    app.run(main, __doc__)


if __name__ == "__main__":
    run()
