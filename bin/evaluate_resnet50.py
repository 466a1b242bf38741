"""Scores the deployed model of a run of train_resnet50: zeros in place, no noise.

  evaluate_resnet50 --run_dir=runs/resnet50 --split=validation

Prints a JSON object with the quality and the sparsity.
"""

import json

from absl import flags

import state_of_sparsity as sos
from state_of_sparsity.bin import app, runs

flags.DEFINE_string("run_dir", "runs/resnet50", "A folder of train_resnet50.")
flags.DEFINE_enum("split", "test", ["validation", "test"], "What to score it on.")


def main():
    run_, folder = runs.read_run(flags.FLAGS.run_dir)
    task, model = runs.load_model(run_, folder)
    deployed = sos.strip(model)
    task.compile(deployed)
    split = flags.FLAGS.split
    scores = {
        "run_dir": str(folder.path),
        "split": split,
        "step": int(model.optimizer.iterations.numpy()),
        "quality_metric": task.quality_metric,
        "quality": task.evaluate(deployed, split),
        "sparsity": sos.sparsity_report(model).sparsity,
    }
    print(json.dumps(scores, indent=2))


def run():
    """The console script."""
    app.run(main, __doc__)


if __name__ == "__main__":
    run()
