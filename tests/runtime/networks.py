"""Tiny ONNX models, and what they compute in float64 NumPy."""

import itertools

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


def numbers(*shape: int, seed: int = 0, density: float = 1.0) -> np.ndarray:
    """float32 numbers, of which a part is not zero."""
    random = np.random.default_rng(seed)
    values = random.standard_normal(shape).astype(np.float32)
    return np.where(random.random(shape) < density, values, np.float32(0))


def model(nodes, weights, inputs, outputs, **arguments):
    """An ONNX model.

    Args:
      nodes: list of nodes, or of (operator, inputs, outputs, attributes).
      weights: by name, arrays.
      inputs, outputs: by name, shapes of float32, or pairs of a type and a shape.
      **arguments: of `make_model`.
    """

    def info(name, given):
        kind, shape = given if isinstance(given, tuple) else (TensorProto.FLOAT, given)
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        [
            helper.make_node(*node[:3], **node[3]) if isinstance(node, tuple) else node
            for node in nodes
        ],
        "network",
        [info(*item) for item in inputs.items()],
        [info(*item) for item in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    arguments.setdefault("opset_imports", [helper.make_opsetid("", 17)])
    return helper.make_model(graph, ir_version=9, **arguments)


def expected(model, inputs):
    """What ONNX Runtime computes, by the names of outputs."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


def convolution(x, weights, bias, strides, dilations, before, after, groups):
    """A convolution of any number of axes, in float64.

    Args:
      x: (images, channels, *sizes).
      weights: (rows, channels of a group, *kernel).
      bias: (rows,).
      strides, dilations, before, after: for each axis.
      groups: how many.
    """
    axes = range(x.ndim - 2)
    x = x.astype(np.float64)
    x = np.pad(x, [(0, 0), (0, 0), *zip(before, after, strict=True)])
    kernel = weights.shape[2:]
    sizes = [
        (x.shape[2 + a] - (kernel[a] - 1) * dilations[a] - 1) // strides[a] + 1
        for a in axes
    ]
    rows, channels = weights.shape[0] // groups, weights.shape[1]
    y = np.zeros((len(x), groups, rows, *sizes))
    for tap in itertools.product(*[range(size) for size in kernel]):
        places = []
        for axis in axes:
            begin = tap[axis] * dilations[axis]
            end = begin + strides[axis] * (sizes[axis] - 1) + 1
            places.append(slice(begin, end, strides[axis]))
        part = x[(slice(None), slice(None), *places)]
        part = part.reshape(len(x), groups, channels, *sizes)
        factor = weights[(slice(None), slice(None), *tap)].astype(np.float64)
        factor = factor.reshape(groups, rows, channels)
        y += np.einsum("grc,ngc...->ngr...", factor, part)
    y = y.reshape(len(x), -1, *sizes)
    return y + bias.astype(np.float64).reshape(-1, *[1 for _ in axes])
