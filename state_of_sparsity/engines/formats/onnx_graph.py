"""ONNX, also as what sparse files hold."""

import functools
import os
import tempfile
import textwrap

import keras

from state_of_sparsity.engines import is_of_tf_keras
from state_of_sparsity.engines.formats.base import Format

# The latest that tf2onnx knows without warning, and what Keras 3 writes with it.
_OPSET = 15


class ONNX(Format):
    """A file; of a model above 2 GB, with weights in further ones."""

    name = "onnx"
    suffix = ".onnx"
    # Not from JAX, where jax2onnx 0.17 writes max pooling that ONNX Runtime refuses and
    # no bidirectional layers.
    packages = {  # noqa: RUF012
        "tensorflow": ("onnx", "tf2onnx"),
        "torch": ("onnx", "onnxscript"),
    }

    def write(self, model, path):
        import onnx

        from state_of_sparsity.engines.keras3 import exporting, torch_export

        exporting.check_lengths(model)
        inputs = exporting.signature(model)
        if keras.backend.backend() == "torch":
            with exporting.refusing(self.name):
                torch_export.export_onnx(model, str(path), inputs)
        else:
            _register_erfc()
            exporting.export(model, path, self.name)
        with exporting.refusing(self.name):
            # tf2onnx only logs the operations that it leaves as TensorFlow's.
            onnx.checker.check_model(str(path))


def graph_of(model):
    """The inference of a plain model as an `onnx.ModelProto`.

    Raises:
      ValueError, RuntimeError: as `Format.write`.
    """
    import onnx

    if is_of_tf_keras(model):
        from state_of_sparsity.engines.tf_keras.backend import tf
        from state_of_sparsity.engines.tf_keras.saved_model import served_signature

        serve = tf.function(lambda inputs: model(inputs, training=False))
        return graph_of_function(serve, [served_signature(model)], model.name)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.onnx")
        ONNX().write(model, path)
        return onnx.load(path)


def graph_of_function(serve, signature: list, name: str):
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

    _register_erfc()
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


@functools.cache
def _register_erfc() -> None:
    """Has tf2onnx write erfc, which the exact GELU is made of, as 1 - erf."""
    import numpy as np
    from tf2onnx import utils
    from tf2onnx.handler import tf_op

    @tf_op("Erfc")
    class Erfc:
        @classmethod
        def version_9(cls, ctx, node, **kwargs):
            dtype = utils.map_onnx_to_numpy_type(ctx.get_dtype(node.output[0]))
            one = ctx.make_const(utils.make_name("one"), np.ones((), dtype))
            node.type = "Erf"
            ctx.insert_new_node_on_output(
                "Sub", node.output[0], inputs=[one.output[0], node.output[0]]
            )
