"""Products of a graph that have constant factors, with what follows them.

A product is `y[row] = limited(sum_c weights[row, c] * x[c] + bias[row] + residual)` for
each position: of a convolution for each tap `c`, with a column for each channel and
place of the kernel; of a matrix product with a constant factor for each other row or
column.
"""

import dataclasses
import math

import numpy as np

from state_of_sparsity.runtime.graph import Graph
from state_of_sparsity.runtime.graphs import attribute

# Which axis of a plain tensor has the channels: the second, as of convolutions, or the
# last, as of layers of Transformers, or of a matrix from the left the one before.
SECOND, LAST, BEFORE_LAST = "second", "last", "before last"


@dataclasses.dataclass(frozen=True, eq=False)
class Product:
    """A product with a constant factor.

    Args:
      nodes: numbers of the nodes that it stands for, the product itself first.
      name: of its output in the graph, by which it is known.
      kind: the operator of the node.
      axis: where its input and output have their channels.
      source, target: names of the values that it reads and computes.
      residual: name of a value that is added, or None.
      weights: (groups, rows of a group, channels of a group, *kernel).
      bias: (rows,).
      low, high: limits of the output; infinite where there are none.
      strides, dilations, pads_before, pads_after: of a convolution, for each axis of
        the kernel.
    """

    nodes: tuple[int, ...]
    name: str
    kind: str
    axis: str
    source: str
    target: str
    residual: str | None
    weights: np.ndarray
    bias: np.ndarray
    low: float = -math.inf
    high: float = math.inf
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads_before: tuple[int, ...] = ()
    pads_after: tuple[int, ...] = ()

    @property
    def reads(self) -> list[str]:
        """Names of the values that it reads."""
        return [self.source, *([self.residual] if self.residual else [])]

    @property
    def rows(self) -> int:
        return self.weights.shape[0] * self.weights.shape[1]

    @property
    def channels(self) -> int:
        return self.weights.shape[0] * self.weights.shape[2]

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.weights.shape[3:]

    @property
    def density(self) -> float:
        """The part of the weights that is not zero."""
        return np.count_nonzero(self.weights) / max(1, self.weights.size)


def sources(graph: Graph) -> list[str]:
    """Values whose shapes `find` has to know: what products and sums read and compute.

    Shapes of weights are known.
    """
    names = {}
    for node in graph.nodes:
        if node.op_type in _READERS:
            names.update(dict.fromkeys([*node.input, *node.output]))
        elif node.op_type == "Add":
            names.update(dict.fromkeys(node.input))
    return [name for name in names if name and name not in graph.weights]


def find(graph: Graph, shapes: dict[str, tuple[int, ...]]) -> list[Product]:
    """All products of float32 with a constant factor, in the order of the graph.

    Args:
      graph: the graph.
      shapes: of the values that `sources` names.
    """
    found, taken = [], set()
    outputs = {info.name for info in graph.outputs}
    for number, node in enumerate(graph.nodes):
        if node.domain not in ("", "ai.onnx") or node.op_type not in _READERS:
            continue
        if graph.types.get(node.output[0]) != "tensor(float)":
            continue
        product = _READERS[node.op_type](graph, number, node, shapes)
        if product is None or 0 in product.weights.shape:
            continue
        product = _with_followers(graph, product, shapes, outputs, taken)
        taken.update(product.nodes)
        found.append(product)
    return found


def _convolution(graph, number, node, shapes) -> Product | None:
    weights = graph.weights.get(node.input[1])
    bias = node.input[2] if len(node.input) > 2 else ""
    if weights is None or (bias and bias not in graph.weights):
        return None
    kernel = weights.shape[2:]
    if len(kernel) > 3:
        return None
    ones, groups = (1,) * len(kernel), attribute(node, "group", 1)
    strides = tuple(attribute(node, "strides", ones))
    dilations = tuple(attribute(node, "dilations", ones))
    sizes = shapes[node.input[0]][2:]
    before, after = _pads(node, sizes, kernel, strides, dilations)
    rows = weights.shape[0]
    weights = weights.reshape(groups, rows // groups, *weights.shape[1:])
    return Product(
        (number,),
        node.output[0],
        "Conv",
        SECOND,
        node.input[0],
        node.output[0],
        None,
        weights,
        graph.weights[bias] if bias else np.zeros(rows, np.float32),
        strides=strides,
        dilations=dilations,
        pads_before=before,
        pads_after=after,
    )


def _pads(node, sizes, kernel, strides, dilations):
    """Zeros before and after each axis, as `auto_pad` or `pads` say."""
    auto = attribute(node, "auto_pad", b"NOTSET").decode()
    if auto in ("NOTSET", "VALID"):
        pads = attribute(node, "pads") if auto == "NOTSET" else None
        pads = tuple(pads or (0,) * (2 * len(kernel)))
        return pads[: len(kernel)], pads[len(kernel) :]
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    total = [
        max(0, (-(-size // s) - 1) * s + span - size)
        for size, s, span in zip(sizes, strides, spans, strict=True)
    ]
    small = tuple(pad // 2 for pad in total)
    large = tuple(pad - pad // 2 for pad in total)
    return (small, large) if auto == "SAME_UPPER" else (large, small)


def _matrix(graph, number, node, axis, source, weights, bias) -> Product:
    """A product whose weights are (rows, channels)."""
    return Product(
        (number,),
        node.output[0],
        node.op_type,
        axis,
        source,
        node.output[0],
        None,
        np.ascontiguousarray(weights)[None],
        np.ascontiguousarray(bias, np.float32),
    )


def _gemm(graph, number, node, shapes) -> Product | None:
    weights = graph.weights.get(node.input[1])
    bias = node.input[2] if len(node.input) > 2 else ""
    if (
        weights is None
        or attribute(node, "transA", 0)
        or (bias and bias not in graph.weights)
    ):
        return None
    weights = weights if attribute(node, "transB", 0) else weights.T
    rows = len(weights)
    added = graph.weights[bias] if bias else np.zeros(1, np.float32)
    # One for each row of the input, too, is no bias.
    if added.ndim > 1 and math.prod(added.shape[:-1]) != 1:
        return None
    added = np.broadcast_to(added.reshape(-1), (rows,))
    weights = weights * np.float32(attribute(node, "alpha", 1.0))
    added = added * np.float32(attribute(node, "beta", 1.0))
    return _matrix(graph, number, node, LAST, node.input[0], weights, added)


def _matmul(graph, number, node, shapes) -> Product | None:
    left, right = (graph.weights.get(name) for name in node.input)
    if right is not None and right.ndim == 2 and len(shapes[node.input[0]]) > 1:
        zeros = np.zeros(right.shape[1], np.float32)
        return _matrix(graph, number, node, LAST, node.input[0], right.T, zeros)
    if left is not None and left.ndim == 2 and len(shapes[node.input[1]]) > 1:
        zeros = np.zeros(left.shape[0], np.float32)
        return _matrix(graph, number, node, BEFORE_LAST, node.input[1], left, zeros)
    return None


def _einsum(graph, number, node, shapes) -> Product | None:
    """`...k, ko -> ...o`, where k and o are any number of axes."""
    if len(node.input) != 2 or node.input[1] not in graph.weights:
        return None
    equation = attribute(node, "equation").decode().replace(" ", "")
    source, _, rest = equation.partition(",")
    factor, _, result = rest.partition("->")
    summed = "".join(letter for letter in factor if letter not in result)
    kept = factor[len(summed) :]
    positions = source[: len(source) - len(summed)]
    is_product = (
        equation.replace(",", "").replace("->", "").isalpha()
        and len(set(source)) == len(source)
        and len(set(factor)) == len(factor)
        and summed
        and kept
        and positions
        and source == positions + summed
        and factor == summed + kept
        and result == positions + kept
    )
    if not is_product:
        return None
    weights = graph.weights[node.input[1]]
    rows = math.prod(weights.shape[len(summed) :])
    weights = weights.reshape(-1, rows).T
    zeros = np.zeros(rows, np.float32)
    return _matrix(graph, number, node, LAST, node.input[0], weights, zeros)


_READERS = {
    "Conv": _convolution,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "MatMul": _matmul,
}


def _with_followers(graph, product, shapes, outputs, taken) -> Product:
    """Takes over the sums and limits that follow a product and alone use its output."""
    while product.target not in outputs:
        users = graph.users.get(product.target, [])
        if len(users) != 1 or users[0] in taken:
            break
        node = graph.nodes[users[0]]
        follower = _FOLLOWERS.get(node.op_type)
        more = follower and follower(graph, product, node, shapes)
        if not more:
            break
        product = dataclasses.replace(
            product, nodes=(*product.nodes, users[0]), target=node.output[0], **more
        )
    return product


def _is_linear(product) -> bool:
    """Whether nothing limits the product yet."""
    return product.low == -math.inf and product.high == math.inf


def _other(product, node) -> str:
    return node.input[0] if node.input[1] == product.target else node.input[1]


def _add(graph, product, node, shapes) -> dict | None:
    if not _is_linear(product):
        return None
    other, shape = _other(product, node), shapes[product.name]
    if other in graph.weights:
        bias = _of_rows(graph.weights[other], product, shape)
        return None if bias is None else {"bias": product.bias + bias}
    # The product waits for it, wherever that is in the order of the graph.
    if product.residual is None and shapes[other] == shape:
        return {"residual": other}
    return None


def _subtract(graph, product, node, shapes) -> dict | None:
    if node.input[0] != product.target or not _is_linear(product):
        return None
    constant = graph.weights.get(node.input[1])
    if constant is None:
        return None
    bias = _of_rows(constant, product, shapes[product.name])
    return None if bias is None else {"bias": product.bias - bias}


def _scale(graph, product, node, shapes) -> dict | None:
    """Normalization that nobody has folded into the weights."""
    constant = graph.weights.get(_other(product, node))
    if constant is None or not _is_linear(product) or product.residual:
        return None
    scales = _of_rows(constant, product, shapes[product.name])
    if scales is None or not np.isfinite(scales).all():
        return None
    by_row = scales.reshape(*product.weights.shape[:2], 1, *[1 for _ in product.kernel])
    return {"weights": product.weights * by_row, "bias": product.bias * scales}


def _of_rows(constant: np.ndarray, product: Product, shape) -> np.ndarray | None:
    """A constant as one number for each row, or None if it differs in positions."""
    rank = len(shape)
    if constant.ndim > rank or constant.dtype != np.float32:
        return None
    first = {SECOND: 1, LAST: rank - 1, BEFORE_LAST: rank - 2}[product.axis]
    end = first + 1
    # The rows of an Einsum may be several axes.
    while product.axis == LAST and math.prod(shape[first:]) < product.rows:
        first -= 1
    sizes = (1,) * (rank - constant.ndim) + constant.shape
    if any(size != 1 for size in (*sizes[:first], *sizes[end:])):
        return None
    constant = constant.reshape(sizes[first:end])
    return np.broadcast_to(constant, shape[first:end]).reshape(-1)


def _relu(graph, product, node, shapes) -> dict | None:
    if product.high <= 0:
        return None
    return {"low": max(0.0, product.low)}


def _clip(graph, product, node, shapes) -> dict | None:
    limits = [-math.inf, math.inf]
    for place, key in enumerate(("min", "max")):
        name = node.input[place + 1] if len(node.input) > place + 1 else ""
        if name and name not in graph.weights:
            return None
        if name:
            limits[place] = float(graph.weights[name])
        limits[place] = attribute(node, key, limits[place])
    low, high = limits
    if low > high or product.high < math.inf or product.low > -math.inf:
        return None
    return {"low": low, "high": high}


_FOLLOWERS = {
    "Add": _add,
    "Clip": _clip,
    "Mul": _scale,
    "Relu": _relu,
    "Sub": _subtract,
}
