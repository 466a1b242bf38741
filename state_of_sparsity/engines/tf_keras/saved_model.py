"""Plain models as SavedModels, which load with TensorFlow alone."""

import contextlib
import io
import os
import pathlib

from state_of_sparsity.atomic import replacing
from state_of_sparsity.engines.tf_keras.backend import input_signature, keras, tf


def write_served(model: keras.Model, path: str | os.PathLike) -> None:
    """Writes the inference of a plain model as a SavedModel."""
    write_saved_model(
        path,
        model,
        lambda inputs: model(inputs, training=False),
        served_signature(model),
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
    archive = keras.export.ExportArchive()
    archive.track(model)
    # Of a model, Keras keeps the variables only; of a module, all has to be kept.
    archive.modules = list(modules)
    archive.add_endpoint("serve", serve, [signature])
    # Keras prints the signature to standard output.
    with (
        replacing(pathlib.Path(path)) as new,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        archive.write_out(os.fspath(new))


def served_signature(model: keras.Model):
    """The `TensorSpec`, or a structure of them, of what an exported model takes."""
    return tf.nest.map_structure(_served_spec, input_signature(model))


def _served_spec(spec):
    """Callers pass float32, also to a model that computes in half precision."""
    dtype = tf.float32 if spec.dtype.is_floating else spec.dtype
    return tf.TensorSpec(spec.shape, dtype, spec.name)
