"""Makes of a published ResNet-50, a checkpoint of TensorFlow 1, the folder of a run.

  import_checkpoint --tf1_checkpoint=model.ckpt-128000 --data_dir=<prepared by TFDS>
      --output_dir=runs/published

The folder holds the network as it was deployed: its masks, fixed, and its weights, for
evaluate_resnet50, export_model, report_sparsity and --load_masks_from. It has no
result.json: evaluate_resnet50 prints what the network scores here.
"""

import dataclasses
import os

from absl import flags

import state_of_sparsity as sos
from state_of_sparsity.bin import app
from state_of_sparsity.models.images.options import PRESETS, ImageOptions
from state_of_sparsity.models.published import resnet50 as published
from state_of_sparsity.models.published.tf1_checkpoint import TF1Checkpoint, some_of
from state_of_sparsity.models.runs.run import Run
from state_of_sparsity.models.training.loop.building import build_dense, build_model
from state_of_sparsity.models.training.loop.sparsification import Sparsification
from state_of_sparsity.models.training.rewinding.kept_weights import Start
from state_of_sparsity.models.training.run_folder import RunFolder, lock
from state_of_sparsity.models.training.run_folder.checkpoint import (
    Checkpoint,
    CheckpointError,
)
from state_of_sparsity.models.usage import usage_errors
from state_of_sparsity.report import report_now

BINARY = "train_resnet50"

flags.DEFINE_string(
    "tf1_checkpoint",
    None,
    "What the names of the checkpoint's files begin with, such as model.ckpt-128000.",
    required=True,
)
flags.DEFINE_string("output_dir", None, "The run's folder to make.", required=True)
flags.DEFINE_enum(
    "dataset", "imagenet2012", list(PRESETS), "That it was trained on, for its classes."
)
flags.DEFINE_string("data_dir", None, "Folder of datasets prepared by TFDS.")
flags.DEFINE_float("width", None, "Of the ResNet, if not that of the published one.")
flags.DEFINE_float(
    "log_alpha_threshold",
    None,
    "For variational dropout: from which log alpha on a weight is zero. By default "
    f"{published.LOG_ALPHA_THRESHOLD}, that of the published runs.",
)


def main():
    checkpoint = TF1Checkpoint(flags.FLAGS.tf1_checkpoint)
    step = checkpoint.step
    if step < 1:
        raise CheckpointError(f"{checkpoint.prefix} was not trained: its step is 0.")
    with usage_errors():
        plain = Run(BINARY, _options(step), Sparsification(), Start())
        task = plain.task(RunFolder(flags.FLAGS.output_dir))
        dense = build_dense(task)
        masks = published.load_resnet50(dense, checkpoint, _threshold(checkpoint))
    imported, folder = _with_masks(plain, masks, checkpoint.prefix)
    folder.check_same_run()
    model = build_model(task, imported.sparsification, dense)
    model.optimizer.iterations.assign(step)
    with lock.held(folder):
        _write(folder, model, masks, task)
    unknown = checkpoint.names("unknown")
    if unknown:
        print(f"Of the checkpoint, this found no place: {some_of(unknown)}.")
    report = report_now(model)
    print(f"{folder.path}: step {step:,}, sparsity {report.sparsity:.2%}")


def _options(step):
    names = ("dataset", "data_dir", "width")
    given = {name: flags.FLAGS[name].value for name in names}
    return ImageOptions(train_steps=step, network="resnet", **given).resolved()


def _threshold(checkpoint):
    given = flags.FLAGS.log_alpha_threshold
    return published.default_threshold(checkpoint) if given is None else given


def _with_masks(run, masks, prefix):
    """The run with its masks, if they leave anything out, and its folder."""
    path = os.path.realpath(flags.FLAGS.output_dir)
    if not all(mask.all() for mask in masks.values()):
        sparsification = Sparsification(
            sos.FixedMask(masks), source={"load_masks_from": path}
        )
        run = dataclasses.replace(run, sparsification=sparsification)
    header = (
        f"Imported from {prefix}, as if by {BINARY}: what is said of its training is "
        "not known of it."
    )
    return run, RunFolder(path, run.flags(), header)


def _write(folder, model, masks, task):
    folder.start()
    report = report_now(model)
    report.to_csv(folder.layers)
    report.plot(folder.picture)
    sos.save_masks(folder.masks, masks)
    # Whoever restores it looks for the slots of the optimizer, which are zero.
    model.optimizer.build(model.trainable_variables)
    Checkpoint(model).save(folder.checkpoints)
    folder.write_source(
        {"tf1_checkpoint": flags.FLAGS.tf1_checkpoint, "step": task.options.train_steps}
    )


def run():
    """The console script."""
    app.run(main, __doc__)


if __name__ == "__main__":
    run()
