"""ONNX, also as what sparse files hold."""

import functools
import os
import tempfile
import textwrap

import keras

from state_of_sparsity.engines import is_of_tf_keras
from state_of_sparsity.engines.formats.base import Format, fed

# The latest that tf2onnx knows without warning, and what Keras 3 writes with it.
_OPSET = 15


class ONNX(Format):
    """A file; of a model above 2 GB, with weights in further ones."""

    name = "onnx"
    suffix = ".onnx"
    # Not from JAX, where jax2onnx 0.17.1 writes max pooling that ONNX Runtime refuses
    # and no bidirectional layers.
    packages = {  # noqa: RUF012
        "tensorflow": ("onnx", "tf2onnx"),
        "torch": ("onnx", "onnxscript"),
    }

    def write(self, model, path):
        import onnx

        from state_of_sparsity.engines.keras3 import exporting, torch_export

        exporting.check_lengths(model)
        inputs = exporting.signature(model)
        with exporting.refusing(self.name):
            if keras.backend.backend() == "torch":
                torch_export.export_onnx(model, str(path), inputs)
                onnx.checker.check_model(str(path))
                return
            import tensorflow as tf  # The backend, which has imported it.

            specs = keras.tree.map_structure(
                lambda spec: tf.TensorSpec(spec.shape, spec.dtype, spec.name), inputs
            )
            onnx.save(_converted(_inference_of(model), specs), path)

    def run(self, path, inputs, names):
        return run(os.fspath(path), inputs, names)


def run(model: str | bytes, inputs, names) -> list:
    """The outputs of an ONNX model, by its path or contents; see `Format.run`."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model)
    given = [place.name for place in session.get_inputs()]
    return session.run(None, fed(given, inputs, names))


def graph_of(model):
    """The inference of a plain model as an `onnx.ModelProto`.

    Raises:
      ValueError, RuntimeError: as `Format.write`.
    """
    import onnx

    if is_of_tf_keras(model):
        from state_of_sparsity.engines.tf_keras.saved_model import served_signature

        signature = [served_signature(model)]
        return graph_of_function(_inference_of(model), signature, model.name)
    from state_of_sparsity.engines.keras3.dequantization import dequantized
    from state_of_sparsity.runtime import scaled_weights

    with tempfile.TemporaryDirectory() as folder, dequantized(model) as weights:
        path = os.path.join(folder, "model.onnx")
        ONNX().write(model, path)
        graph = onnx.load(path)
    scaled_weights.put_in(graph, weights)
    return graph


def graph_of_function(serve, signature: list, name: str):
    """A function of tensors as an `onnx.ModelProto`.

    Args:
      serve: a `tf.function`.
      signature: specifications of its arguments.
      name: of the model, for messages.

    Raises:
      RuntimeError: if tf2onnx cannot express it.
    """
    try:
        return _converted(serve, signature)
    except Exception as error:
        raise RuntimeError(
            f"tf2onnx cannot write model {name!r} as sparse. Recurrent layers may need "
            "`unroll=True`; or export it as tf_saved_model. Received: "
            f"{textwrap.shorten(str(error), 400)}"
        ) from error


def _inference_of(model):
    import tensorflow as tf

    return tf.function(lambda inputs: model(inputs, training=False))


def _converted(serve, signature):
    import onnx
    import tensorflow as tf
    import tf2onnx

    _register_erfc()
    flat = tf.nest.flatten(signature)
    closed = _closed(serve.get_concrete_function(*signature))
    converted, _ = tf2onnx.convert.from_function(closed, flat, opset=_OPSET)
    # tf2onnx only logs the operations that it leaves as TensorFlow's.
    onnx.checker.check_model(converted)
    return converted


def _closed(traced):
    """A function of single tensors with what a traced one has captured as constants.

    tf2onnx does that for variables, and would make inputs of the tensors.
    """
    import tensorflow as tf

    @tf.function(autograph=False)
    def closed(*inputs):
        graph = tf.compat.v1.get_default_graph()
        for variable in traced.graph.variables:
            graph.watch_variable(variable)
        held = {
            inner.name: graph.capture(outer)
            if outer.dtype == tf.resource
            else tf.constant(outer.numpy())
            for outer, inner in traced.graph.captures
        }
        names = [tensor.name for tensor in traced.inputs]
        outputs = tf.graph_util.import_graph_def(
            traced.graph.as_graph_def(),
            input_map=dict(zip(names, inputs, strict=False)) | held,
            return_elements=[tensor.name for tensor in traced.outputs],
        )
        return tf.nest.pack_sequence_as(traced.structured_outputs, outputs)

    return closed


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
