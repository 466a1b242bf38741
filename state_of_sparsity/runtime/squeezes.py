"""Convolutions of sequences, which TensorFlow computes as those of images of a row."""

from typing import NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper

from state_of_sparsity.runtime.graphs import reads

# What computes place by place.
_BY_PLACE = {"Add", "Div", "Elu", "LeakyRelu", "Mul", "Relu", "Sigmoid", "Sub", "Tanh"}


class _Squeezed(NamedTuple):
    """A value that is computed with its axes of one place: their numbers, and rank."""

    source: str
    axes_name: str
    axes: tuple[int, ...]
    rank: int


def sink(graph: onnx.GraphProto) -> bool:
    """Has axes that a convolution is given stay until something needs them gone.

    `Squeeze, Mul, Add, Relu, Unsqueeze` becomes `Mul, Add, Relu`: normalization and
    activation are then next to the convolution, which takes them over, and nothing is
    between it and the next one.

    Args:
      graph: whose constants are initializers.

    Returns:
      Whether anything has changed.
    """
    sinking = _Sinking(graph)
    for node in list(graph.node):
        sinking.add(node)
    for info in graph.output:
        sinking.squeeze(info.name)
    if sinking.has_moved:
        del graph.node[:]
        graph.node.extend(sinking.nodes)
    return sinking.has_moved


class _Sinking:
    def __init__(self, graph):
        self.nodes, self.has_moved = [], False
        self._graph = graph
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        # By the name of a value.
        self._ranks, self._squeezed = {}, {}

    def add(self, node):
        """The next node, with the inputs that it can have."""
        if node.op_type == "Squeeze" and node.input[0] in self._ranks:
            axes = self._axes_of(node, self._ranks[node.input[0]])
            if axes is not None:
                self._squeezed[node.output[0]] = _Squeezed(*node.input, *axes)
                return
        given = self._squeezed.get(node.input[0]) if node.input else None
        if given is not None and node.op_type == "Unsqueeze":
            if self._axes_of(node, given.rank) == given[2:]:
                node = onnx.helper.make_node("Identity", [given.source], node.output)
                self.has_moved = True
        elif node.op_type in _BY_PLACE:
            node = self._with_axes(node)
        for name in reads(node):
            self.squeeze(name)
        if node.op_type == "Conv" and node.input[1] in self._constants:
            self._ranks[node.output[0]] = len(self._constants[node.input[1]].dims)
        self.nodes.append(node)

    def squeeze(self, name):
        """Has a value lose its axes, if it has not."""
        if name in self._squeezed:
            source, axes_name, *_ = self._squeezed.pop(name)
            inputs = [source, axes_name]
            self.nodes.append(onnx.helper.make_node("Squeeze", inputs, [name]))

    def _axes_of(self, node, rank):
        """The axes of a (un)squeeze, and the rank with them, where they are known."""
        if len(node.input) < 2 or node.input[1] not in self._constants:
            return None
        axes = numpy_helper.to_array(self._constants[node.input[1]]).ravel().tolist()
        return tuple(sorted(axis % rank for axis in axes)), rank

    def _with_axes(self, node):
        """A node that computes place by place, where all that it reads has the axes."""
        found = {self._squeezed[x] for x in node.input if x in self._squeezed}
        if len({x[2:] for x in found}) != 1:
            return node
        given = found.pop()
        inputs = []
        for name in node.input:
            if name in self._squeezed:
                inputs.append(self._squeezed[name].source)
            elif self._is_factor(name, given):
                inputs.append(self._factor(name, given))
            else:
                return node
        (output,) = node.output
        source = f"{output}/unsqueezed"
        moved = onnx.NodeProto()
        moved.CopyFrom(node)
        del moved.input[:]
        moved.input.extend(inputs)
        moved.output[0] = source
        self._squeezed[output] = given._replace(source=source)
        return moved

    def _is_factor(self, name, given):
        rank = given.rank - len(given.axes)
        return name in self._constants and len(self._constants[name].dims) <= rank

    def _factor(self, name, given):
        """The name of a constant with the axes."""
        named = f"{name}/unsqueezed {given.axes}"
        if named not in self._constants:
            value = numpy_helper.to_array(self._constants[name])
            missing = given.rank - len(given.axes) - value.ndim
            value = value.reshape((1,) * missing + value.shape)
            value = np.expand_dims(value, given.axes)
            self._constants[named] = numpy_helper.from_array(value, named)
            self._graph.initializer.append(self._constants[named])
        return named
