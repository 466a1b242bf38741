"""Writes a sparse model for inference: stripped, zeros in place.

  export_model --model=runs/resnet50 --export_dir=exported
  export_model --model=sparse.keras --export_dir=exported --format=litert
  export_model --model=sparse.keras --export_dir=exported --format=sparse --values=int8
  export_model --model=runs/channels --export_dir=exported --shrink

A SavedModel loads with TensorFlow alone, and that of a translation run with TensorFlow
and tensorflow_text. With --format=litert, the folder gets a file model.tflite, which a
translation run has none of. With --format=sparse, it gets a file model.sparse, which
state_of_sparsity.runtime reads, and of a translation run encoder.sparse and
decoder.sparse, which translate takes as --files.
"""

import functools
import pathlib

from absl import flags

import state_of_sparsity as sos
from state_of_sparsity.bin import app, model_flag
from state_of_sparsity.engines import is_of_tf_keras
from state_of_sparsity.models.runs import folders
from state_of_sparsity.models.runs.run import TRAINERS
from state_of_sparsity.models.usage import UsageError, usage_errors

# What is written into the folder, and by what an earlier export is known.
_FILES = {
    "tf_saved_model": "saved_model.pb",
    "litert": "model.tflite",
    "sparse": "model.sparse",
}

model_flag.define_flags()
flags.DEFINE_string("export_dir", None, "The folder to write.", required=True)
flags.DEFINE_enum(
    "format", "tf_saved_model", list(_FILES), "What to write; see docs/export.md."
)
flags.DEFINE_enum(
    "quantize",
    None,
    ["int8"],
    "Of --format=litert: weights of 8 bits, with activations that are quantized as "
    "they are computed.",
)
flags.DEFINE_enum(
    "values",
    None,
    ["float32", "float16", "int8"],
    "Of --format=sparse: how weights are stored; as they are unless told.",
)
flags.DEFINE_bool(
    "shrink",
    False,
    "Of runs on images, and of models of Keras 3: whether to take out the channels, "
    "units and heads that are masked; see docs/shrinking.md.",
)
flags.DEFINE_bool("overwrite", False, "Whether to replace an earlier export there.")


def main():
    given = flags.FLAGS
    folder = pathlib.Path(given.export_dir)
    name = _file(given.model, given.format)
    if (folder / name).is_file() and not given.overwrite:
        raise UsageError(
            f"--export_dir={folder} holds {name} already: choose another folder, or "
            "pass --overwrite to replace it."
        )
    if given.quantize and given.format != "litert":
        raise UsageError(f"--quantize={given.quantize} is for --format=litert.")
    if given.values and given.format != "sparse":
        raise UsageError(f"--values={given.values} is for --format=sparse.")
    path = folder if given.format == "tf_saved_model" else folder / name
    options = {"quantize": given.quantize, "values": given.values}
    with usage_errors():
        export = _exporter(given.model, given.log_alpha_threshold, given.shrink)
        try:
            export(
                path,
                format=given.format,
                overwrite=given.overwrite,
                **{n: v for n, v in options.items() if v is not None},
            )
        except (OSError, RuntimeError) as error:
            raise UsageError(f"--export_dir={folder}: {error}") from error
    plain, gzipped = app.folder_sizes(folder)
    print(f"{path}: {plain / 1e6:.2f} MB, gzipped {gzipped / 1e6:.2f} MB")


def _file(source, format):
    """The file by which an export is known."""
    if format == "sparse" and model_flag.is_run(source):
        run, _ = folders.read_run(source)
        return TRAINERS[run.binary][1].sparse_file
    return _FILES[format]


def _exporter(source, threshold, shrink):
    """What writes the model; that of a run takes and returns what its task says."""
    is_run = model_flag.is_run(source)
    if is_run:
        task, model = folders.load_model(*folders.read_run(source))
    else:
        model = model_flag.load(source)
    if not shrink:
        export = task.export if is_run else sos.export
        return functools.partial(export, model, log_alpha_threshold=threshold)
    plain = sos.strip(model, threshold)
    plain = task.in_keras3(plain) if is_run else plain
    if plain is None or is_of_tf_keras(plain):
        raise UsageError(
            "--shrink is for runs on images, and for models of Keras 3. Received: "
            f"--model={source}"
        )
    return functools.partial(sos.export, sos.shrink(plain))


def run():
    """The console script."""
    app.run(main, __doc__)


if __name__ == "__main__":
    run()
