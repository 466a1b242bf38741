"""Keras 3 models on torch, for formats that take a batch of any size."""

import warnings

import keras


def dynamic_shapes(signature: list) -> list:
    """What `torch.export` takes for the undefined lengths of a signature.

    By these it raises where the model fixes such a length; by default it fixes it too.
    """
    import torch

    def lengths(spec):
        undefined = [axis for axis, size in enumerate(spec.shape) if size is None]
        return dict.fromkeys(undefined, torch.export.Dim.DYNAMIC)

    # Keras's models have a `forward(*args)`, which counts as one argument.
    return [tuple(keras.tree.map_structure(lengths, signature))]


def export_onnx(model: keras.Model, path: str, signature: list) -> None:
    """Writes ONNX by torch's exporter, or by the older one that Keras takes.

    Only the former can write layer normalization of a dynamic batch, and only the
    latter recurrence with a mask.

    Args:
      model: a built model whose inputs' lengths are defined but the batch's.
      path: the file.
      signature: of its inputs, as of `exporting.signature`.
    """
    import torch

    specs = keras.tree.flatten(signature)
    # A batch of one would be taken for a constant.
    examples = keras.tree.map_structure(
        lambda spec: keras.ops.ones((2, *spec.shape[1:]), spec.dtype), signature
    )
    try:
        program = torch.onnx.export(
            model.eval(),
            tuple(examples),
            input_names=[spec.name or f"input_{i}" for i, spec in enumerate(specs)],
            dynamic_shapes=dynamic_shapes(signature),
            dynamo=True,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError:
        with warnings.catch_warnings():
            # That lengths but the batch's become constants is as it should be.
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            model.export(path, format="onnx", verbose=False, input_signature=signature)
    else:
        program.save(path)
