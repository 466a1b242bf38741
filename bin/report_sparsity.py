"""Prints where the zeros of a model are.

report_sparsity --model=runs/resnet50 --csv=layers.csv --plot=sparsity.png
"""

from absl import flags

import state_of_sparsity as sos
from state_of_sparsity.bin import app, stored_models

stored_models.define_flags()
flags.DEFINE_string("csv", None, "Where to write the table as well.")
flags.DEFINE_string("plot", None, "Where to draw it as well (.png, .pdf, .svg).")


def main():
    model = stored_models.load(flags.FLAGS.model)
    with app.usage_errors():
        report = sos.sparsity_report(model, flags.FLAGS.log_alpha_threshold)
    print(report)
    csv, plot = flags.FLAGS.csv, flags.FLAGS.plot
    if csv:
        with app.usage_errors(f"--csv={csv}"):
            report.to_csv(csv)
    if plot:
        with app.usage_errors(f"--plot={plot}"):
            report.plot(plot)


def run():
    """The console script."""
    app.run(main, __doc__)


if __name__ == "__main__":
    run()
