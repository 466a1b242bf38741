"""Networks as ONNX graphs, with random weights and random zeros."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_OPSET, _IR_VERSION = 17, 9


class Builder:
    """Nodes and weights of a graph as they are added.

    Args:
      sparsity: the part of the weights of sparse products that is zero.
      seed: of weights and of zeros.
    """

    def __init__(self, sparsity: float, seed: int = 0):
        self._sparsity = sparsity
        self._random = np.random.default_rng(seed)
        self._nodes, self._weights = [], []

    def weight(self, array) -> str:
        """The name of a new constant."""
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def random(self, shape, inputs: int, sparse: bool = True) -> str:
        """The name of new weights that keep the variance of what they multiply."""
        density = 1.0 - self._sparsity if sparse else 1.0
        scale = np.sqrt(2.0 / (density * inputs))
        weights = scale * self._random.standard_normal(shape)
        weights = np.where(self._random.random(shape) < density, weights, 0.0)
        return self.weight(weights.astype(np.float32))

    def add(self, operator: str, *inputs: str, **attributes) -> str:
        """The name of what a new node computes."""
        name = f"v{len(self._nodes)}"
        node = helper.make_node(operator, list(inputs), [name], **attributes)
        self._nodes.append(node)
        return name

    def bias(self, size: int) -> str:
        """The name of a new small bias."""
        return self.weight(0.1 * self._random.standard_normal(size).astype(np.float32))

    def convolution(
        self, x, inputs, outputs, kernel, stride=1, sparse=True, groups=1
    ) -> str:
        """The name of a convolution's output, padded as if it were all inside."""
        shape = (outputs, inputs // groups, kernel, kernel)
        weights = self.random(shape, inputs // groups * kernel * kernel, sparse)
        pads = [(kernel - 1) // 2] * 4
        return self.add(
            "Conv",
            x,
            weights,
            self.bias(outputs),
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=pads,
            group=groups,
        )

    def model(self, input_shape, output: str, output_shape) -> onnx.ModelProto:
        """The model, of one input "x"."""
        graph = helper.make_graph(
            self._nodes,
            "network",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, input_shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, output_shape)],
            self._weights,
        )
        opsets = [helper.make_opsetid("", _OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)


def resnet50(sparsity: float, size: int = 224) -> onnx.ModelProto:
    """ResNet-50 whose stem and classifier are dense."""
    net = Builder(sparsity)
    x = net.add("Relu", net.convolution("x", 3, 64, 7, 2, sparse=False))
    x = net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            x = _bottleneck(net, x, channels, 64 * 2**stage, block, stage)
            channels = 256 * 2**stage
    x = net.add("Flatten", net.add("GlobalAveragePool", x))
    weights = net.random((channels, 1000), channels, sparse=False)
    x = net.add("Gemm", x, weights, net.bias(1000))
    return net.model(["batch", 3, size, size], x, ["batch", 1000])


def _bottleneck(net, x, channels, width, block, stage) -> str:
    stride = 2 if stage and not block else 1
    shortcut = x
    if not block:
        shortcut = net.convolution(x, channels, 4 * width, 1, stride)
    y = net.add("Relu", net.convolution(x, channels, width, 1))
    y = net.add("Relu", net.convolution(y, width, width, 3, stride))
    y = net.convolution(y, width, 4 * width, 1)
    return net.add("Relu", net.add("Add", y, shortcut))


def mobilenet(sparsity: float, size: int = 224) -> onnx.ModelProto:
    """MobileNetV1 whose stem, depthwise convolutions and classifier are dense."""
    net = Builder(sparsity)

    def relu6(x):
        limits = net.weight(np.float32(0)), net.weight(np.float32(6))
        return net.add("Clip", x, *limits)

    x = relu6(net.convolution("x", 3, 32, 3, 2, sparse=False))
    channels = 32
    wider = [64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
    for number, outputs in enumerate(wider):
        stride = 2 if number in (1, 3, 5, 11) else 1
        x = net.convolution(x, channels, channels, 3, stride, False, channels)
        x = relu6(net.convolution(relu6(x), channels, outputs, 1))
        channels = outputs
    x = net.add("Flatten", net.add("GlobalAveragePool", x))
    weights = net.random((channels, 1000), channels, sparse=False)
    x = net.add("Gemm", x, weights, net.bias(1000))
    return net.model(["batch", 3, size, size], x, ["batch", 1000])


def encoder(sparsity: float, length: int = 64) -> onnx.ModelProto:
    """The encoder of a base Transformer, of embedded tokens."""
    size, inner, heads, layers = 512, 2048, 8, 6
    net = Builder(sparsity)
    split = net.weight(np.array([0, 0, heads, size // heads]))
    joined = net.weight(np.array([0, 0, size]))
    scale = net.weight(np.float32((size // heads) ** -0.5))

    def dense(x, inputs, outputs):
        x = net.add("MatMul", x, net.random((inputs, outputs), inputs))
        return net.add("Add", x, net.bias(outputs))

    def normalized(x):
        ones = net.weight(np.ones(size, np.float32))
        return net.add("LayerNormalization", x, ones, net.bias(size))

    def split_heads(x, order):
        return net.add("Transpose", net.add("Reshape", x, split), perm=order)

    x = "x"
    for _ in range(layers):
        queries = split_heads(dense(x, size, size), [0, 2, 1, 3])
        keys = split_heads(dense(x, size, size), [0, 2, 3, 1])
        values = split_heads(dense(x, size, size), [0, 2, 1, 3])
        scores = net.add("Mul", net.add("MatMul", queries, keys), scale)
        mixed = net.add("MatMul", net.add("Softmax", scores, axis=-1), values)
        mixed = net.add("Transpose", mixed, perm=[0, 2, 1, 3])
        mixed = dense(net.add("Reshape", mixed, joined), size, size)
        x = normalized(net.add("Add", x, mixed))
        y = net.add("Relu", dense(x, size, inner))
        x = normalized(net.add("Add", x, dense(y, inner, size)))
    return net.model(["batch", length, size], x, ["batch", length, size])
