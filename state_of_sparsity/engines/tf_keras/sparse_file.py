"""Plain models as sparse files, by way of ONNX."""

import importlib.util
import os
import pathlib
import textwrap

from state_of_sparsity.engines import onnx_erfc
from state_of_sparsity.engines.tf_keras.backend import keras, tf
from state_of_sparsity.engines.tf_keras.saved_model import served_signature

SUFFIX = ".sparse"
_PACKAGES = ("onnx", "tf2onnx", "safetensors", "zstandard")
# The latest that tf2onnx knows without warning, and what Keras 3 writes with it.
_OPSET = 15


def check_packages(*more: str) -> None:
    """Raises ImportError if a package that the format needs is missing, naming it.

    Args:
      more: packages that are needed as well.
    """
    needed = (*_PACKAGES, *more)
    missing = [name for name in needed if not importlib.util.find_spec(name)]
    if missing:
        raise ImportError(f"For sparse files, run `pip install {' '.join(missing)}`.")


def write_sparse(
    model: keras.Model, path: str | os.PathLike, values: str = "float32"
) -> None:
    """Writes the inference of a plain model as a sparse file, complete or not at all.

    Args:
      model: a built plain model of one argument.
      path: the file, which ends in ".sparse". What is there is replaced.
      values: how weights are stored, a key of `runtime.files.VALUES`.

    Raises:
      ImportError: as `check_packages`.
      ValueError: for another suffix, or weights that cannot be rounded to such values.
      RuntimeError: if tf2onnx cannot express the model.
    """
    check_packages()
    from state_of_sparsity.runtime import files

    path = pathlib.Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"The path has to end in {SUFFIX!r}. Received: {str(path)!r}")
    files.write(_to_onnx(model), path, values, signed_zeros=False)


def _to_onnx(model):
    serve = tf.function(lambda inputs: model(inputs, training=False))
    return to_onnx(serve, [served_signature(model)], model.name)


def to_onnx(serve, signature: list, name: str):
    """A function of tensors as an `onnx.ModelProto`.

    Args:
      serve: a `tf.function`.
      signature: specifications of its arguments.
      name: of the model, for messages.

    Raises:
      RuntimeError: if tf2onnx cannot express it.
    """
    import onnx
    import tf2onnx

    onnx_erfc.register()
    try:
        converted, _ = tf2onnx.convert.from_function(
            serve, input_signature=signature, opset=_OPSET
        )
        # tf2onnx only logs the operations that it leaves as TensorFlow's.
        onnx.checker.check_model(converted)
    except Exception as error:
        raise RuntimeError(
            f"tf2onnx cannot write model {name!r} as sparse. Recurrent layers may need "
            "`unroll=True`; or export it as tf_saved_model. Received: "
            f"{textwrap.shorten(str(error), 400)}"
        ) from error
    return converted
