"""Evaluation of runs: one score, or one for each threshold."""

import json
import math
from collections.abc import Callable

from absl import flags

import state_of_sparsity as sos
from state_of_sparsity.engines.tf_keras.backend import keras
from state_of_sparsity.models.runs import folders
from state_of_sparsity.models.training.data.records import naming_damage
from state_of_sparsity.models.training.loop.task import Task
from state_of_sparsity.models.training.run_folder import write_text
from state_of_sparsity.models.usage import UsageError, usage_errors

Score = Callable[[Task, keras.Model, str], dict]
COLUMNS = ("log_alpha_threshold", "sparsity", "quality", "split")


def define_flags() -> None:
    """Defines --split and --log_alpha_thresholds."""
    flags.DEFINE_enum("split", "test", ["validation", "test"], "What to score it on.")
    flags.DEFINE_list(
        "log_alpha_thresholds",
        None,
        "For variational dropout: score the model at each of these thresholds, and "
        "write the table to thresholds.csv in the run's folder.",
    )


def evaluate(run_dir: str, binary: str, score: Score) -> None:
    """Scores the deployed model of a run and prints what came out.

    Args:
      run_dir: the run's folder.
      binary: that trained it.
      score: of a task, a deployed model and a split gives what to print, with
        "quality" in it.
    """
    thresholds = _thresholds()
    run, folder = folders.read_run(run_dir, binary)
    task, model = folders.load_model(run, folder)

    def scores_at(threshold):
        with usage_errors():
            deployed = sos.strip(model, threshold)
        task.compile(deployed)
        sparsity = sos.sparsity_report(model, threshold).sparsity
        with naming_damage(task.damage):
            return score(task, deployed, flags.FLAGS.split), sparsity

    if thresholds is None:
        scores, sparsity = scores_at(None)
        printed = {
            "run_dir": str(folder.path),
            "split": flags.FLAGS.split,
            "step": int(model.optimizer.iterations.numpy()),
            "quality_metric": task.quality_metric,
            **scores,
            "sparsity": sparsity,
        }
        print(json.dumps(printed, indent=2))
        return
    lines = [",".join(COLUMNS)]
    for threshold in thresholds:
        scores, sparsity = scores_at(threshold)
        if len(lines) == 1:
            print(f"{'threshold':>9}  {'sparsity':>8}  {task.quality_metric:>8}")
        quality = scores["quality"]
        print(f"{threshold:9g}  {sparsity:8.2%}  {quality:8.4f}", flush=True)
        lines.append(f"{threshold:g},{sparsity:.6g},{quality:.6g},{flags.FLAGS.split}")
    with usage_errors():
        write_text(folder.thresholds, "\n".join([*lines, ""]))
    print(f"written to {folder.thresholds}")


def _thresholds():
    texts = flags.FLAGS.log_alpha_thresholds
    if texts is None:
        return None
    try:
        thresholds = [float(text) for text in texts]
    except ValueError as error:
        raise UsageError(
            "--log_alpha_thresholds must be numbers with commas between them. "
            f"Received: {','.join(texts)}"
        ) from error
    if not thresholds or not all(map(math.isfinite, thresholds)):
        raise UsageError(
            "--log_alpha_thresholds must be finite numbers, at least one. "
            f"Received: {','.join(texts)}"
        )
    return thresholds
