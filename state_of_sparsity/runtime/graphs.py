"""The tensors of an ONNX model, wherever they are, and what multiplies with them."""

from collections.abc import Iterator

import onnx
from onnx import AttributeProto, NodeProto, TensorProto

# Bytes of a number, of the types that have whole ones.
ITEM_SIZES = {
    TensorProto.FLOAT: 4,
    TensorProto.DOUBLE: 8,
    TensorProto.FLOAT16: 2,
    TensorProto.BFLOAT16: 2,
    TensorProto.BOOL: 1,
    TensorProto.INT8: 1,
    TensorProto.INT16: 2,
    TensorProto.INT32: 4,
    TensorProto.INT64: 8,
    TensorProto.UINT8: 1,
    TensorProto.UINT16: 2,
    TensorProto.UINT32: 4,
    TensorProto.UINT64: 8,
}


def tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """All constant tensors of a model, in a fixed order.

    Initializers and attributes of nodes, also within the bodies of loops and of local
    functions, and the parts of ONNX's own sparse tensors.
    """
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_nodes(function.node)
    for training in model.training_info:
        yield from _of_graph(training.initialization)
        yield from _of_graph(training.algorithm)


def _of_graph(graph):
    yield from graph.initializer
    yield from _of_sparse(graph.sparse_initializer)
    yield from _of_nodes(graph.node)


def _of_sparse(tensors):
    for tensor in tensors:
        yield tensor.values
        yield tensor.indices


def _of_nodes(nodes):
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t
            elif attribute.type == AttributeProto.SPARSE_TENSOR:
                yield from _of_sparse([attribute.sparse_tensor])
            yield from attribute.tensors
            yield from _of_sparse(attribute.sparse_tensors)
        for graph in subgraphs(node):
            yield from _of_graph(graph)


def subgraphs(node: NodeProto) -> Iterator[onnx.GraphProto]:
    """The bodies of a loop or a branch."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def reads(node: NodeProto) -> list[str]:
    """Names of the values that a node reads, also inside of its branches and loops."""
    names = [name for name in node.input if name]
    for graph in subgraphs(node):
        for inner in graph.node:
            names += reads(inner)
    return names


def attribute(node: NodeProto, name: str, default=None):
    """The value of an attribute of a node, or the default."""
    for each in node.attribute:
        if each.name == name:
            return onnx.helper.get_attribute_value(each)
    return default


# A weight, and the axes of its output channels.
Weight = tuple[TensorProto, tuple[int, ...]]


def weights(model: onnx.ModelProto) -> dict[int, Weight]:
    """The weights that products multiply with, and the axes of output channels.

    Returns:
      By the `id` of a float32 tensor of `tensors(model)`, of at least two dimensions,
      that a convolution, a product of matrices, a recurrence or a lookup takes. As long
      as the result is kept, the tensor has this `id`.
    """
    found: dict[int, Weight] = {}
    _note_axes(model.graph, {}, found)
    return found


def _note_axes(graph, outer, found):
    known = outer | {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            known[node.output[0]] = node.attribute[0].t
        elif node.op_type == "Identity" and node.input[0] in known:
            known[node.output[0]] = known[node.input[0]]
        for index, name in enumerate(node.input):
            weight = known.get(name)
            if weight is None or len(weight.dims) < 2:
                continue
            axes = _axes(node, index, len(weight.dims))
            if axes and weight.data_type == TensorProto.FLOAT:
                found.setdefault(id(weight), (weight, axes))
        for body in subgraphs(node):
            _note_axes(body, known, found)


def _axes(node, index, rank):
    """Axes of output channels of an input of a node; None if it is no weight."""
    match node.op_type, index:
        case "Conv", 1:
            return (0,)
        case "ConvTranspose", 1:
            return (1,)
        case "Gemm", 0 | 1:
            transposed = bool(attribute(node, "transA" if index == 0 else "transB", 0))
            return (index ^ transposed,)
        case "MatMul", 0 | 1:
            summed = rank - 1 - index
            return tuple(axis for axis in range(rank) if axis != summed)
        case "Gather", 0:
            return (attribute(node, "axis", 0) % rank,)
        case (("LSTM" | "GRU" | "RNN"), (1 | 2)):
            return (0, 1)
        case "Einsum", _:
            return _einsum_axes(attribute(node, "equation").decode(), index)
    return None


def _einsum_axes(equation, index):
    inputs, _, output = equation.replace(" ", "").partition("->")
    letters = inputs.split(",")[index]
    if "." in letters:
        return None
    return tuple(axis for axis, letter in enumerate(letters) if letter in output)
