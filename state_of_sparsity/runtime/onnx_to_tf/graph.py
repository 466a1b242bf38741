"""ONNX graphs, node by node, in TensorFlow."""

import re
from collections.abc import Mapping
from typing import Any

import onnx
import tensorflow as tf

from state_of_sparsity.runtime import graphs
from state_of_sparsity.runtime.onnx_to_tf import (  # noqa: F401
    operators,
    recurrence,
    spatial,
)
from state_of_sparsity.runtime.onnx_to_tf.call import OPERATORS, Call

# Two names of ONNX's own.
_DOMAINS = ("", "ai.onnx")
# Before, operators had other attributes.
_EARLIEST_OPSET = 13
# What has fewer numbers may be a shape or an axis, which has to be a constant.
_SMALL = 256


class Module(tf.Module):
    """A graph that computes in TensorFlow, its weights as variables.

    Attributes:
      serve: a function of the inputs of the graph, by position or by name. Of several
        outputs, it returns a dictionary by name.
    """

    def __init__(self, model: onnx.ModelProto):
        """Reads a graph.

        Raises:
          ValueError: for an operator that is not known here, naming it, or a version of
            the operators that is too old.
        """
        super().__init__()
        graph = model.graph
        check(model)
        self._weights = {tensor.name: _weight(tensor) for tensor in graph.initializer}
        own = {tensor.name for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in own]
        outputs = [_identifier(value.name) for value in graph.output]

        def serve(*values):
            known = dict(zip([each.name for each in inputs], values, strict=True))
            results = computed(graph, {**self._weights, **known})
            if len(results) == 1:
                return results[0]
            return dict(zip(outputs, results, strict=True))

        self.serve = tf.function(
            serve, input_signature=[_spec(value) for value in inputs], autograph=False
        )


def check(model: onnx.ModelProto) -> None:
    """Raises ValueError for what cannot be translated, before anything is."""
    opset = max(each.version for each in model.opset_import if each.domain in _DOMAINS)
    if opset < _EARLIEST_OPSET:
        raise ValueError(
            f"The model has operators of version {opset}: convert it to "
            f"{_EARLIEST_OPSET} or later with onnx.version_converter."
        )
    if model.functions:
        names = ", ".join(function.name for function in model.functions)
        raise ValueError(f"Functions of a model are not translated: inline {names}.")
    if model.graph.sparse_initializer:
        raise ValueError("ONNX's own sparse tensors are not translated.")
    unknown = {
        node.op_type
        for node in _nodes(model.graph)
        if node.op_type not in OPERATORS or node.domain not in _DOMAINS
    }
    if unknown:
        raise ValueError(
            f"Operators without a counterpart here: {', '.join(sorted(unknown))}. "
            "Write ONNX with `to_onnx` instead."
        )


def _nodes(graph):
    for node in graph.node:
        yield node
        for body in graphs.subgraphs(node):
            yield from _nodes(body)


def computed(graph: onnx.GraphProto, known: Mapping[str, Any]) -> list:
    """The outputs of a graph.

    Args:
      graph: the nodes, in an order in which they can be computed.
      known: inputs, and what is known around the graph, by name.
    """

    def body(inner, inputs):
        return computed(inner, {**values, **inputs})

    values: dict[str, Any] = dict(known)
    for tensor in graph.initializer:
        values.setdefault(tensor.name, onnx.numpy_helper.to_array(tensor))
    for node in graph.node:
        inputs = [values[name] if name else None for name in node.input]
        results = OPERATORS[node.op_type](Call(node, body), *inputs)
        results = results if isinstance(results, tuple) else (results,)
        # An operator may give more than the node asks for.
        values.update(zip(node.output, results, strict=False))
    return [values[value.name] for value in graph.output]


def _weight(tensor):
    array = onnx.numpy_helper.to_array(tensor)
    if array.size < _SMALL:
        return array
    return tf.Variable(array, trainable=False, name=_identifier(tensor.name))


def _identifier(name):
    """A name that TensorFlow takes for an argument."""
    name = re.sub(r"\W", "_", name)
    return name if name[:1].isalpha() else f"_{name}"


def _spec(value):
    kind = value.type.tensor_type
    lengths = [
        length.dim_value if length.HasField("dim_value") else None
        for length in kind.shape.dim
    ]
    shape = lengths if kind.HasField("shape") else None
    dtype = tf.as_dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return tf.TensorSpec(shape, dtype, _identifier(value.name))
