"""Writes a sparse model as a SavedModel for inference: stripped, zeros in place.

  export_model --model=runs/resnet50 --export_dir=exported

What it writes loads with TensorFlow alone, and that of a translation run with
TensorFlow and tensorflow_text.
"""

import functools
import pathlib

from absl import flags

import state_of_sparsity as sos
from state_of_sparsity.bin import app, runs, stored_models
from state_of_sparsity.bin.flags import UsageError

stored_models.define_flags()
flags.DEFINE_string("export_dir", None, "The SavedModel to write.", required=True)
flags.DEFINE_bool("overwrite", False, "Whether to replace a SavedModel there.")


def main():
    path = pathlib.Path(flags.FLAGS.export_dir)
    if (path / "saved_model.pb").is_file() and not flags.FLAGS.overwrite:
        raise UsageError(
            f"--export_dir={path} holds a SavedModel already: choose another folder, "
            "or pass --overwrite to replace it."
        )
    export = _exporter(flags.FLAGS.model)
    with app.usage_errors():
        try:
            export(path, flags.FLAGS.overwrite, flags.FLAGS.log_alpha_threshold)
        except OSError as error:
            raise UsageError(f"--export_dir={path}: {error}") from error
    plain, gzipped = app.folder_sizes(path)
    print(f"{path}: {plain / 1e6:.2f} MB, gzipped {gzipped / 1e6:.2f} MB")


def _exporter(source):
    """What writes the model; that of a run takes and returns what its task says."""
    if stored_models.is_run(source):
        task, model = runs.load_model(*runs.read_run(source))
        return functools.partial(task.export, model)
    return functools.partial(sos.export_saved_model, stored_models.load(source))


def run():
    """The console script."""
    app.run(main, __doc__)


if __name__ == "__main__":
    run()
