"""The results of a trained model: scores, reports, export."""

import gzip
import pathlib
import statistics
import tempfile

import state_of_sparsity as sos
from state_of_sparsity import atomic
from state_of_sparsity.engines.tf_keras.backend import keras
from state_of_sparsity.models.training.loop.sparsification import Sparsification
from state_of_sparsity.models.training.loop.task import Task
from state_of_sparsity.models.training.run_folder import RunFolder
from state_of_sparsity.models.training.run_folder.checkpoint import Checkpoint


def restore_best(
    checkpoint: Checkpoint, best: pathlib.Path, sparsification: Sparsification
) -> None:
    """Gives a model the state that was the best in validation, if there is one.

    Args:
      checkpoint: of the model.
      best: the folder that holds it.
      sparsification: whose schedules have to be over before an evaluation counts.
    """
    if not checkpoint.restore(best):
        print(
            "No evaluation came after the schedules of the technique were over (step "
            f"{sparsification.settled_step:,}), so that none counts as the best: the "
            "last state is exported."
        )


def finish(
    task: Task,
    sparsification: Sparsification,
    model: keras.Model,
    folder: RunFolder,
    steps: int,
    exported: int,
) -> dict:
    """Scores the deployed model on the test split and writes everything about it.

    Args:
      task: that was trained.
      sparsification: how it was made sparse.
      model: that was trained.
      folder: of the run.
      steps: that were trained.
      exported: the step whose state the model has.

    Returns:
      What result.json says of this training.
    """
    with model.distribute_strategy.scope():
        deployed = sos.strip(model)
        task.compile(deployed)
    report = sos.sparsity_report(model)
    flops = sos.count_flops(model, task.example)
    training = sos.count_training_flops(model, steps, task.example)
    with atomic.replacing(folder.layers) as path:
        report.to_csv(path)
    sos.save_masks(folder.masks, sos.weight_masks(model))
    with atomic.replacing(folder.picture) as path:
        report.plot(path)
    task.export(model, folder.export, overwrite=True)
    rows = [row["seconds_per_step"] for row in folder.read_metrics()]
    seconds = [float(text) for text in rows if text]
    return {
        "technique": sparsification.name,
        "model": task.name,
        "dataset": task.options.dataset,
        "steps": steps,
        "exported_step": exported,
        "seed": task.options.seed,
        "quality_metric": task.quality_metric,
        "quality": task.evaluate(deployed, "test"),
        "sparsity": report.sparsity,
        "target_sparsity": sparsification.target_sparsity,
        "parameters": report.parameters,
        "nonzero_parameters": report.nonzero_parameters,
        "flops": flops.dense,
        "sparse_flops": flops.sparse,
        "training_flops": training.sparse * task.examples_per_step,
        "dense_training_flops": training.dense * task.examples_per_step,
        # Of several workers, those that do not write have no rows if they go on
        # after the last step.
        "seconds_per_step": statistics.median(seconds) if seconds else None,
        **_smaller(task, sparsification, deployed),
    }


def _smaller(task, sparsification, deployed):
    """What there is to say of a model whose masks have a structure, without them."""
    structure = getattr(sparsification.pruning, "structure", None)
    if structure in (None, "weights"):
        return {}
    masked = task.in_keras3(deployed)
    if masked is None:
        return {}
    try:
        smaller = sos.shrink(masked)
    except ValueError as error:
        print(f"There is no smaller model: {error}")
        return {}
    return {
        "smaller_parameters": sos.sparsity_report(smaller).parameters,
        "smaller_flops": sos.count_flops(smaller).dense,
        "gzipped_bytes": _gzipped_bytes(masked),
        "smaller_gzipped_bytes": _gzipped_bytes(smaller),
    }


def _gzipped_bytes(model):
    """Of a .keras file of Keras 3."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.keras")
        model.save(path)
        return len(gzip.compress(path.read_bytes()))
