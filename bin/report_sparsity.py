"""Prints where the zeros of a model are.

  report_sparsity --model=runs/resnet50 --csv=layers.csv --plot=sparsity.png

Or those of a checkpoint of the published runs, of any technique (arXiv 1902.09574):

  report_sparsity --tf1_checkpoint=model.ckpt-500000
"""

from absl import flags

import state_of_sparsity as sos
from state_of_sparsity.bin import app, model_flag
from state_of_sparsity.models.published import tf1_checkpoint
from state_of_sparsity.models.published.resnet50 import default_threshold
from state_of_sparsity.models.usage import usage_errors

model_flag.define_flags(required=False)
flags.DEFINE_string(
    "tf1_checkpoint",
    None,
    "Instead of --model: what the names of the files of a checkpoint of the published "
    "runs begin with.",
)
flags.register_multi_flags_validator(
    ["model", "tf1_checkpoint"],
    lambda given: (given["model"] is None) != (given["tf1_checkpoint"] is None),
    "Give one of --model and --tf1_checkpoint.",
)
flags.DEFINE_string("csv", None, "Where to write the table as well.")
flags.DEFINE_string("plot", None, "Where to draw it as well (.png, .pdf, .svg).")


def main():
    report = _report()
    print(report)
    csv, plot = flags.FLAGS.csv, flags.FLAGS.plot
    if csv:
        with usage_errors(f"--csv={csv}"):
            report.to_csv(csv)
    if plot:
        with usage_errors(f"--plot={plot}"):
            report.plot(plot)


def _report():
    threshold = flags.FLAGS.log_alpha_threshold
    if flags.FLAGS.tf1_checkpoint is None:
        model = model_flag.load(flags.FLAGS.model)
        with usage_errors():
            return sos.sparsity_report(model, threshold)
    checkpoint = tf1_checkpoint.TF1Checkpoint(flags.FLAGS.tf1_checkpoint)
    if threshold is None:
        threshold = default_threshold(checkpoint)
    with usage_errors():
        report = tf1_checkpoint.sparsity_report(checkpoint, threshold)
    unknown = checkpoint.names("unknown")
    if unknown:
        names = tf1_checkpoint.some_of(unknown)
        print(f"Not counted, since their names do not say what they are: {names}.")
    return report


def run():
    """The console script."""
    app.run(main, __doc__)


if __name__ == "__main__":
    run()
