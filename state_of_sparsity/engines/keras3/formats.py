"""Plain Keras 3 models in the formats that other runtimes load.

`write` goes through `keras.Model.export` and takes its format names. What it adds:
the files appear complete or not at all, the batch has any size in every format, and
what Keras would write wrongly without a word is refused.
"""

import importlib.util
import os
import pathlib
import tempfile
import textwrap
from typing import NamedTuple

import keras

from state_of_sparsity import atomic
from state_of_sparsity.engines import litert_files, onnx_erfc
from state_of_sparsity.engines.keras3 import torch_export


class Format(NamedTuple):
    """The packages that each backend needs to write a format, and the path's suffix."""

    packages: dict[str, tuple[str, ...]]
    suffix: str


# As of Keras 3.15. Not here, for they fail or fit one size of batch: SavedModel and
# LiteRT from torch, OpenVINO from JAX; and ONNX from JAX, where jax2onnx 0.17 writes
# max pooling that ONNX Runtime refuses and no bidirectional layers.
FORMATS = {
    "tf_saved_model": Format({"tensorflow": (), "jax": ("tensorflow",)}, ""),
    "onnx": Format(
        {"tensorflow": ("onnx", "tf2onnx"), "torch": ("onnx", "onnxscript")}, ".onnx"
    ),
    "openvino": Format({"tensorflow": ("openvino",), "torch": ("openvino",)}, ".xml"),
    "litert": Format({"tensorflow": ()}, ".tflite"),
    "torch": Format({"torch": ()}, ".pt2"),
    "sparse": Format(
        {
            "tensorflow": ("onnx", "tf2onnx", "safetensors", "zstandard"),
            "torch": ("onnx", "onnxscript", "safetensors", "zstandard"),
        },
        ".sparse",
    ),
}


def check_format(format: str) -> None:
    """Raises unless the current backend can write a format here.

    Raises:
      ValueError: for an unknown format, or one that the backend cannot write.
      ImportError: if a package that the backend needs for the format is missing.
    """
    if format not in FORMATS:
        known = ", ".join(FORMATS)
        raise ValueError(f"The format has to be one of {known}. Received: {format!r}")
    backend = keras.backend.backend()
    packages = FORMATS[format].packages
    if backend not in packages:
        own = [name for name, entry in FORMATS.items() if backend in entry.packages]
        raise ValueError(
            f"The {backend} backend can write {', '.join(own) or 'no format'}. For "
            f"{format}, save the model as `.keras` and load it under KERAS_BACKEND="
            f"{' or '.join(packages)}. Received: {format!r}"
        )
    missing = [name for name in packages[backend] if not importlib.util.find_spec(name)]
    if missing:
        raise ImportError(
            f"To write {format} from the {backend} backend, run `pip install "
            f"{' '.join(missing)}`. Received: {format!r}"
        )


def write(
    model: keras.Model,
    path: str | os.PathLike,
    format: str,
    quantize: str | None = None,
    values: str | None = None,
) -> None:
    """Writes a model for inference, complete or not at all.

    Weights are written as they are, zeros included; LiteRT's as sparse tensors where
    the file is smaller for it. OpenVINO's are in a second file,
    `.bin` beside the `.xml`; such further files, or those of an ONNX model above 2 GB,
    are in place before the one at `path`.

    Args:
      model: a built model of plain layers, of one argument: sequential, functional, or
        subclassed and called once. The latter takes inputs of the model's dtype, whose
        lengths but the batch's are those of that call.
      path: the file, with the format's suffix, or the folder of a SavedModel. What is
        there is replaced.
      format: a key of `FORMATS`.
      quantize: of "litert", "int8" for weights of 8 bits; None for weights as they are.
      values: of "sparse", a key of `runtime.files.VALUES`; None for "float32".

    Raises:
      ValueError, ImportError: as `check_format`, and for another suffix, a model that
        is not built, undefined lengths that the format would fix in silence, or weights
        that cannot be rounded to such values.
      RuntimeError: if the backend cannot express the model in the format.
    """
    check_format(format)
    path, suffix = pathlib.Path(path), FORMATS[format].suffix
    if not path.name.endswith(suffix):
        raise ValueError(f"The path has to end in {suffix!r}. Received: {str(path)!r}")
    inputs = signature(model)
    if keras.backend.backend() == "torch" and format in ("onnx", "openvino", "sparse"):
        torch_export.check_lengths(inputs)
    with atomic.replacing(path) as written:
        if format == "sparse":
            _write_sparse(model, written, inputs, values or "float32")
        elif format == "litert":
            _write_litert(model, written, inputs, quantize)
        else:
            _export_or_tell(model, str(written), format, inputs)


def _write_sparse(model, path, inputs, values):
    import onnx

    from state_of_sparsity.runtime import files

    # Elsewhere: all that is beside the path is kept.
    with tempfile.TemporaryDirectory() as folder:
        dense = os.path.join(folder, "model.onnx")
        _export_or_tell(model, dense, "onnx", inputs)
        files.write(onnx.load(dense), path, values, signed_zeros=False)


def _write_litert(model, path, inputs, quantize):
    def convert(optimizations):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder, "model.tflite")
            _export_or_tell(
                model, str(file), "litert", inputs, optimizations=optimizations
            )
            return file.read_bytes()

    path.write_bytes(litert_files.smallest(convert, quantize))


def _export_or_tell(model, path, format, inputs, **options):
    try:
        _export(model, path, format, inputs, options)
    except OSError:
        raise
    except Exception as error:
        raise RuntimeError(
            f"The {keras.backend.backend()} backend cannot write this model as "
            f"{format}. Recurrent layers may need `unroll=True`; or try another "
            f"backend or format. Received: {textwrap.shorten(str(error), 400)}"
        ) from error


def signature(model: keras.Model) -> list:
    """The model's one argument as input specs, with an undefined batch."""
    if model.built and hasattr(model, "inputs"):
        sequential = isinstance(model, keras.Sequential)
        inputs = model.inputs[0] if sequential else model.input
        return [
            keras.tree.map_structure(lambda x: _spec(x.shape, x.dtype, x.name), inputs)
        ]
    shapes = (model.get_build_config() or {}).get("input_shape")
    if shapes is None:
        raise ValueError(f"Call the model once on one argument. Received: {model}")
    return [_specs(shapes, model.input_dtype)]


def _specs(shapes, dtype: str):
    """Specs in plain containers: Keras's own, which shapes come in, JAX refuses."""
    if isinstance(shapes, dict):
        return {name: _specs(shape, dtype) for name, shape in shapes.items()}
    if all(isinstance(size, int | None) for size in shapes):
        return _spec(shapes, dtype)
    return [_specs(shape, dtype) for shape in shapes]


def _spec(shape, dtype: str, name: str | None = None) -> keras.InputSpec:
    return keras.InputSpec(dtype, (None, *shape[1:]), name=name)


def _export(
    model: keras.Model, path: str, format: str, signature: list, options: dict
) -> None:
    """Writes a format's files into the folder of `path`."""
    backend = keras.backend.backend()
    options |= {"format": format, "verbose": False, "input_signature": signature}
    if format == "tf_saved_model" and backend == "jax":
        # Inference needs no gradients, and those of some models cannot be traced.
        options["jax2tf_kwargs"] = {"with_gradient": False}
    elif format == "onnx" and backend == "tensorflow":
        onnx_erfc.register()
    elif format == "litert":
        import tensorflow as tf

        # Keras also allows operations that no runtime on the package index has.
        options["target_spec"] = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    elif format == "torch":
        options["dynamic_shapes"] = torch_export.dynamic_shapes(signature)
    if format == "onnx" and backend == "torch":
        torch_export.export_onnx(model, path, options)
    else:
        model.export(path, **options)
    if format == "onnx":
        import onnx

        # tf2onnx only logs the operations that it leaves as TensorFlow's.
        onnx.checker.check_model(path)
