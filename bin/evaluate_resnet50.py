"""Scores the deployed model of a run of train_resnet50: zeros in place, no noise.

  evaluate_resnet50 --run_dir=runs/resnet50 --split=validation

Prints a JSON object with the quality and the sparsity. For variational dropout,

  evaluate_resnet50 --run_dir=runs/resnet50 --log_alpha_thresholds=0,0.5,1,2,3

prints sparsity and quality at each threshold, and writes them to thresholds.csv in the
run's folder.
"""

from absl import flags

from state_of_sparsity.bin import app, evaluation

flags.DEFINE_string("run_dir", "runs/resnet50", "A folder of train_resnet50.")
evaluation.define_flags()


def main():
    evaluation.evaluate(flags.FLAGS.run_dir, "train_resnet50", _score)


def _score(task, deployed, split):
    return {"quality": task.evaluate(deployed, split)}


def run():
    """The console script."""
    app.run(main, __doc__)


if __name__ == "__main__":
    run()
