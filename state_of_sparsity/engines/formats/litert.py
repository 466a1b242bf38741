"""LiteRT files, with sparse tensors where those are smaller."""

import functools
import pathlib
import tempfile
import textwrap
import warnings
from collections.abc import Callable

from state_of_sparsity.engines import is_of_tf_keras
from state_of_sparsity.engines.formats.base import Format, fed


class LiteRT(Format):
    """A file.

    Its option `quantize` is "int8" for weights of 8 bits with a scale per tensor or
    channel, and activations that are quantized as they are computed.
    """

    name = "litert"
    suffix = ".tflite"
    # Not from torch, of which litert-torch 0.10.0 fixes the size of the batch.
    packages = {"tf_keras": (), "tensorflow": ()}  # noqa: RUF012

    def check(self, quantize=None):
        if quantize not in (None, "int8"):
            raise ValueError(f"quantize must be 'int8' or None. Received: {quantize!r}")

    def write(self, model, path, quantize=None):
        if is_of_tf_keras(model):
            contents = _contents_of_tf_keras(model, quantize)
        else:
            contents = _smallest(functools.partial(_of_keras3, model), quantize)
        path.write_bytes(contents)

    def run(self, path, inputs, names):
        program = _interpreter(path.read_bytes()).get_signature_runner()
        outputs = program(**fed(list(program.get_input_details()), inputs, names))
        return list(outputs.values())


def _of_keras3(model, optimizations):
    import tensorflow as tf  # The backend, which has imported it.

    from state_of_sparsity.engines.keras3.exporting import export

    # Keras also allows operations that no runtime on the package index has.
    target = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    options = {"target_spec": target, "optimizations": optimizations}
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "model.tflite")
        export(model, file, "litert", **options)
        return file.read_bytes()


def _contents_of_tf_keras(model, quantize):
    from state_of_sparsity.engines.tf_keras.saved_model import write_served

    with tempfile.TemporaryDirectory() as folder:
        write_served(model, folder)
        try:
            return _smallest(functools.partial(_converted, folder), quantize)
        except Exception as error:
            message = textwrap.shorten(str(error), 400)
            raise RuntimeError(
                f"TensorFlow cannot write model {model.name!r} as litert. Recurrent "
                "layers may need `unroll=True`; or export it as tf_saved_model. "
                f"Received: {message}"
            ) from error


def _converted(folder, optimizations):
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(
        folder, signature_keys=["serving_default"]
    )
    # Others need a runtime that no package index has.
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    converter.optimizations = optimizations
    return converter.convert()


def _smallest(convert: Callable[[list], bytes], quantize: str | None) -> bytes:
    """The contents of a file, dense or with sparse tensors.

    LiteRT can encode a tensor by the places of what is not zero, which is smaller from
    some sparsity on, and larger below. So both are made, and the smaller one is kept.

    Args:
      convert: function of TensorFlow's list of optimizations that gives the contents.
      quantize: "int8", or None for weights as they are.
    """
    import tensorflow as tf

    if quantize == "int8":
        # The runtime refuses operations on tensors that are quantized and sparse.
        return convert([tf.lite.Optimize.DEFAULT])
    dense = convert([])
    encoded = convert([tf.lite.Optimize.EXPERIMENTAL_SPARSITY])
    return encoded if len(encoded) < len(dense) and _runs(encoded) else dense


def _runs(contents):
    """Whether the runtime takes a file: it may lack an operation on sparse tensors."""
    try:
        _interpreter(contents).allocate_tensors()
    except RuntimeError:
        return False
    return True


def _interpreter(contents):
    import tensorflow as tf

    with warnings.catch_warnings():
        # TensorFlow's copy of the runtime tells of the package that it is in, too.
        warnings.simplefilter("ignore")
        return tf.lite.Interpreter(model_content=contents)
