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
    _check_free(path, overwrite)
    stripped = strip(model, log_alpha_threshold)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=path.parent, prefix=f".{path.name}-"
    ) as folder:
        written = pathlib.Path(folder) / "new"
        _write(stripped, written)
        old = pathlib.Path(folder) / "old"
        if path.exists():
            path.rename(old)
        try:
            written.rename(path)
        except BaseException:
            if old.exists():
                old.rename(path)
            raise


def _check_free(path, overwrite):
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


def _write(model, path):
    archive = keras.export.ExportArchive()
    archive.track(model)
    signature = tf.nest.map_structure(_served_spec, input_signature(model))
    archive.add_endpoint(
        "serve", lambda inputs: model(inputs, training=False), [signature]
    )
    # Keras prints the signature to standard output.
    with contextlib.redirect_stdout(io.StringIO()):
        archive.write_out(os.fspath(path))


def _served_spec(spec):
    """Callers pass float32, also to a model that computes in half precision."""
    dtype = tf.float32 if spec.dtype.is_floating else spec.dtype
    return tf.TensorSpec(spec.shape, dtype, spec.name)
