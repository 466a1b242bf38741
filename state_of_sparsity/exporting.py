"""Stripped models in files, for whoever deploys."""

import os
import pathlib
import warnings

from state_of_sparsity.checks import check_path
from state_of_sparsity.conversion import strip
from state_of_sparsity.engines import elsewhere, engine_of, formats

SAVED_MODEL = "tf_saved_model"


def export(
    model,
    path: str | os.PathLike,
    format: str = SAVED_MODEL,
    overwrite: bool = False,
    log_alpha_threshold: float | None = None,
    **options,
) -> None:
    """Writes the stripped model for inference, zeros in place.

    The file or folder appears complete or not at all. Before, it is run in its runtime,
    where that is installed, on an example of random values.

    Args:
      model: a sparse model, or a stripped, a TF-MOT-pruned or a plain one.
      path: the file or folder to write.
      format: "tf_saved_model", which loads with TensorFlow alone
        (`loaded = tf.saved_model.load(path)`, which has to be kept, then
        `loaded.serve(inputs)`), "litert", or "sparse", a small file for
        `sos.runtime`; for Keras 3 also "onnx", "openvino" and "torch". One that the
        backend lacks is written by another process, under an installed backend that
        has it: a line of the log says so. There, custom classes and functions have to
        be registered, in a module that can be imported.
      overwrite: whether to replace what an earlier export has left there.
      log_alpha_threshold: as for `sos.strip`.
      **options: of the format; None is as if it were not given. Of "litert",
        `quantize="int8"` for kernels of 8 bits, zeros among them, with activations that
        are quantized as they are computed. Of "sparse", `values`, how weights are
        stored, which in `sos.runtime` are float32 again: "float32", as they are but for
        the signs of zeros, which it is by default; "float16" or "int8", rounded, the
        latter with a scale per output channel.

    Raises:
      FileExistsError: if something is at `path`, and it is no earlier export in this
        format or `overwrite` is false.
      ImportError: if a package that the format needs is missing, naming it.
      TypeError, ValueError: for something that is not a built model, a format that no
        installed Keras backend has, an option that the format does not have or a value
        that it cannot have, weights that cannot be rounded, or a threshold that will
        not do.
      RuntimeError: if the model cannot be expressed in the format, the other process
        cannot load it, or the file does not run, or has other inputs or outputs.

    Warns:
      UserWarning: if the file gives other outputs than the model, which one that draws
        random numbers does.
    """
    path = check_path(path)
    engine = engine_of(model)
    writer = formats.check(format, engine.writer, **options)
    check_free(path, overwrite, format)
    stripped = strip(model, log_alpha_threshold)
    if writer == engine.writer:
        is_same = formats.write(stripped, path, format, **options)
    else:
        is_same = elsewhere.write(stripped, path, format, writer, **options)
    if not is_same:
        warnings.warn(
            f"The {format} file of model {model.name!r} gives other outputs than the "
            "model for a random example: compare them for an example of yours.",
            stacklevel=2,
        )


def export_saved_model(
    model,
    path: str | os.PathLike,
    overwrite: bool = False,
    log_alpha_threshold: float | None = None,
) -> None:
    """Writes the stripped model as a SavedModel: `export` in its default format."""
    export(model, path, SAVED_MODEL, overwrite, log_alpha_threshold)


def check_free(path: pathlib.Path, overwrite: bool, format: str = SAVED_MODEL) -> None:
    """Raises FileExistsError unless an export may be written at a path."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    is_folder = format == SAVED_MODEL
    kind = "SavedModel" if is_folder else "file"
    is_export = (path / "saved_model.pb").is_file() if is_folder else path.is_file()
    if not is_export:
        raise FileExistsError(f"{path} exists and is no {kind}: choose another path.")
    if not overwrite:
        raise FileExistsError(
            f"{path} holds a {kind} already: choose another path, or pass "
            "overwrite=True."
        )
