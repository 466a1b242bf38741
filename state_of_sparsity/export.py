"""SavedModels for whoever deploys."""

import contextlib
import io
import os
import pathlib
import tempfile

from state_of_sparsity.backend import input_signature, keras, tf
from state_of_sparsity.conversion import strip


def export_saved_model(
    model: keras.Model,
    path: str | os.PathLike,
    overwrite: bool = False,
    log_alpha_threshold: float | None = None,
) -> None:
    """Writes the stripped model as a SavedModel for inference.

    It loads with TensorFlow alone: `tf.saved_model.load(path).serve(inputs)`, or
    through the signature `serving_default`. The folder appears complete or not at
    all.

    Args:
      model: a sparse model, or a stripped, a TF-MOT-pruned or a plain one.
      path: the folder to write.
      overwrite: whether to replace a SavedModel that is there already.
      log_alpha_threshold: as for `sos.strip`.

    Raises:
      FileExistsError: if something is at `path`, and it is not a SavedModel or
        `overwrite` is false.
      TypeError, ValueError: for something that is not a built `tf_keras` model, or a
        threshold that will not do.
    """
    path = pathlib.Path(path)
    check_free(path, overwrite)
    stripped = strip(model, log_alpha_threshold)
    signature = tf.nest.map_structure(_served_spec, input_signature(stripped))
    write_saved_model(
        path, stripped, lambda inputs: stripped(inputs, training=False), signature
    )


def write_saved_model(
    path: str | os.PathLike, model: keras.Model, serve, signature, modules=()
) -> None:
    """Writes a function as a SavedModel, complete or not at all.

    Args:
      path: the folder; a SavedModel there is replaced.
      model: the stripped model that the function uses.
      serve: a function of one argument; `serve` and `serving_default` are its names.
      signature: `TensorSpec`, or a structure of them, of the argument.
      modules: what else the function uses: each a `tf.Module` or another trackable.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=path.parent, prefix=f".{path.name}-"
    ) as folder:
        written = pathlib.Path(folder) / "new"
        _write(written, model, serve, signature, modules)
        old = pathlib.Path(folder) / "old"
        if path.exists():
            path.rename(old)
        try:
            written.rename(path)
        except BaseException:
            if old.exists():
                old.rename(path)
            raise


def check_free(path: pathlib.Path, overwrite: bool) -> None:
    """Raises FileExistsError unless a SavedModel may be written at a path."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path / "saved_model.pb").is_file():
        raise FileExistsError(
            f"{path} exists and is no SavedModel: choose another path."
        )
    if not overwrite:
        raise FileExistsError(
            f"{path} holds a SavedModel already: choose another path, or pass "
            "overwrite=True."
        )


def _write(path, model, serve, signature, modules):
    archive = keras.export.ExportArchive()
    archive.track(model)
    # Of a model, Keras keeps the variables only; of a module, all has to be kept.
    archive.modules = list(modules)
    archive.add_endpoint("serve", serve, [signature])
    # Keras prints the signature to standard output.
    with contextlib.redirect_stdout(io.StringIO()):
        archive.write_out(os.fspath(path))


def _served_spec(spec):
    """Callers pass float32, also to a model that computes in half precision."""
    dtype = tf.float32 if spec.dtype.is_floating else spec.dtype
    return tf.TensorSpec(spec.shape, dtype, spec.name)
