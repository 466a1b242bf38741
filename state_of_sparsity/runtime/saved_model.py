"""Sparse files as SavedModels, where TensorFlow is installed."""

import importlib.util
import os
import pathlib

from state_of_sparsity.runtime import files


def to_saved_model(path: str | os.PathLike, out: str | os.PathLike) -> None:
    """Writes the dense model of a sparse file as a SavedModel.

    `loaded = tf.saved_model.load(out)`, which has to be kept, then
    `loaded.serve(inputs)`. It takes the inputs of the ONNX graph, in their order.

    Args:
      path: what `write` or `sos.export(..., format="sparse")` wrote.
      out: the folder to write, which is empty or not there yet.

    Raises:
      FileExistsError: if something is at `out`.
      ImportError: if TensorFlow is not installed.
      RuntimeFileError: as `read`.
      ValueError: for an operator that has no counterpart here, naming it.
    """
    out = pathlib.Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists: choose another path.")
    if not importlib.util.find_spec("tensorflow"):
        raise ImportError("To write a SavedModel, run `pip install tensorflow`.")
    # Imports TensorFlow, which nothing else here needs.
    graph = importlib.import_module("state_of_sparsity.runtime.onnx_to_tf.graph")
    model = files.read(path)
    try:
        module = graph.Module(model)
        concrete = module.serve.get_concrete_function()
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)!r} as SavedModel: {error}") from error
    with files.appearing(out) as new:
        graph.tf.saved_model.save(module, new, {"serving_default": concrete})
