"""Plain models as LiteRT files."""

import functools
import os
import pathlib
import tempfile
import textwrap

from state_of_sparsity.atomic import replacing
from state_of_sparsity.engines.litert_files import smallest
from state_of_sparsity.engines.tf_keras.backend import keras, tf
from state_of_sparsity.engines.tf_keras.saved_model import write_served

SUFFIX = ".tflite"


def write_litert(
    model: keras.Model, path: str | os.PathLike, quantize: str | None = None
) -> None:
    """Writes the inference of a plain model for LiteRT, complete or not at all.

    Tensors are sparse ones where the file is smaller for it.

    Args:
      model: a built plain model of one argument.
      path: the file, which ends in ".tflite". What is there is replaced.
      quantize: "int8" for weights of 8 bits with a scale per tensor or channel, and
        activations that are quantized as they are computed; None for weights as they
        are.

    Raises:
      ValueError: for another suffix.
      RuntimeError: if the converter cannot express the model in LiteRT's operations.
    """
    path = pathlib.Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"The path has to end in {SUFFIX!r}. Received: {str(path)!r}")
    with tempfile.TemporaryDirectory() as folder:
        write_served(model, folder)
        try:
            contents = smallest(functools.partial(_convert, folder), quantize)
        except Exception as error:
            message = textwrap.shorten(str(error), 400)
            raise RuntimeError(
                f"TensorFlow cannot write model {model.name!r} as litert. Recurrent "
                "layers may need `unroll=True`; or export it as tf_saved_model. "
                f"Received: {message}"
            ) from error
    with replacing(path) as new:
        new.write_bytes(contents)


def _convert(folder, options):
    converter = tf.lite.TFLiteConverter.from_saved_model(
        folder, signature_keys=["serving_default"]
    )
    # Others need a runtime that no package index has.
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    converter.optimizations = options
    return converter.convert()
