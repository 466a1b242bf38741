"""Weights in whole numbers, which an ONNX graph multiplies with their scales."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

# Numbers of a weight, below which floats take no more than what computes them.
_SMALL = 256


class ScaledWeight(NamedTuple):
    """A weight that has been quantized, `steps * take(scales, groups) / divisors`.

    Args:
      steps: whole numbers, which for zeros are 0.
      scales: float32, with a place for each group along an axis.
      groups: int32, that of each place of the steps along the axis, or one for all.
      divisors: float32.
      axis: of groups.
    """

    steps: np.ndarray
    scales: np.ndarray
    groups: np.ndarray
    divisors: np.ndarray
    axis: int = 0

    def value(self) -> np.ndarray:
        """The weight in float32, to the bit what ONNX Runtime makes of it."""
        scales = np.take(self.scales, self.groups, self.axis)
        return self.steps.astype(np.float32) * scales / self.divisors


def put_in(model: onnx.ModelProto, weights: Sequence[ScaledWeight]) -> None:
    """Has a graph compute weights from their steps, where it holds them as floats.

    A runtime does that once, when it loads the graph. A weight is found by its numbers,
    in their order; others, and small ones, stay.
    """
    values = [(weight, weight.value().ravel()) for weight in weights]
    nodes: list[onnx.NodeProto] = []
    for tensor in list(model.graph.initializer):
        if tensor.data_type != TensorProto.FLOAT:
            continue
        array = numpy_helper.to_array(tensor).ravel()
        same = [weight for weight, value in values if np.array_equal(value, array)]
        if same and array.size >= _SMALL:
            nodes += _nodes(tensor.name, same[0].axis)
            first, *further = _tensors(tensor.name, same[0], list(tensor.dims))
            tensor.CopyFrom(first)
            model.graph.initializer.extend(further)
    nodes += model.graph.node
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _tensors(name, weight, shape):
    # Between two unsigned bytes, there may be more steps than a signed one has.
    is_byte = weight.steps.min() >= -128 and weight.steps.max() <= 127
    steps = weight.steps.astype(np.int8 if is_byte else np.int16)
    arrays = (steps, *weight[1:4], np.array(shape, np.int64))
    fields = ("steps", "scales", "groups", "divisors", "shape")
    for field, array in zip(fields, arrays, strict=True):
        yield numpy_helper.from_array(array, f"{name}/{field}")


def _nodes(name, axis):
    """Of a weight of some name, what computes it from its tensors."""
    steps = (
        ("Cast", ("steps",), "/whole", {"to": TensorProto.FLOAT}),
        ("Gather", ("scales", "groups"), "/scale", {"axis": axis}),
        ("Mul", ("whole", "scale"), "/scaled", {}),
        ("Div", ("scaled", "divisors"), "/divided", {}),
        ("Reshape", ("divided", "shape"), "", {}),
    )
    for kind, inputs, output, attributes in steps:
        names = [f"{name}/{part}" for part in inputs]
        yield onnx.helper.make_node(kind, names, [name + output], **attributes)
