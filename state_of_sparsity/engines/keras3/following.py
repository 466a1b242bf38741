"""The channels of a functional model, followed from layer to layer."""

import dataclasses
import inspect

import keras
import numpy as np

from state_of_sparsity.engines.keras3 import private
from state_of_sparsity.engines.keras3.dependencies import Dependencies

layers = keras.layers
# By kind, the kernel that sums over channels, and its axes of inputs and outputs.
PRODUCTS = {
    layers.Dense: ("kernel", 0, 1),
    private.BaseConv: ("kernel", -2, -1),
    private.BaseConvTranspose: ("kernel", -1, -2),
    private.BaseSeparableConv: ("pointwise_kernel", -2, -1),
}
# And the one that takes each channel alone.
DEPTHWISE = {
    private.BaseDepthwiseConv: "kernel",
    private.BaseSeparableConv: "depthwise_kernel",
}
# Where rounding differs, as a share of the largest value.
_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """Channels of a tensor, constants as of `dependencies.Axis`, and their axis."""

    ids: np.ndarray
    constants: np.ndarray
    axis: int

    def __len__(self):
        return len(self.ids)


class Follower:
    """Follows channels through graphs.

    Layers with kernels make new ones. What has no weights is tried out: it is followed
    if it gives the same for the others when some channels are missing. In layers of
    other libraries, the calls inside are followed. All else pins what it is given.
    """

    def __init__(self):
        self.dependencies = Dependencies()
        self._rng = np.random.default_rng(0)

    def follow(self, graph, given: dict[int, Tensor | None]) -> list[Tensor | None]:
        """What is known of outputs of a graph, if something is of inputs, by `id`."""
        known, nodes = dict(given), private.steps(graph)
        taken = {id(x) for node in nodes for x in node.input_tensors}
        taken |= set(map(id, graph.outputs))
        for node in nodes:
            outputs = self._step(node, [known.get(id(x)) for x in node.input_tensors])
            known |= zip(map(id, node.outputs), outputs, strict=True)
            free = [known[id(x)] for x in node.outputs if id(x) not in taken]
            self.pin(free, "nothing takes them")
        return [known.get(id(x)) for x in graph.outputs]

    def pin(self, tensors, reason: str) -> None:
        """Has the channels of tensors stay."""
        for x in tensors:
            if x is not None:
                self.dependencies.pin(x.ids, reason)

    def _step(self, node, given):
        layer = node.operation
        if node.arguments.kwargs.get("training"):
            # Of which each batch makes something else.
            self.pin(given, f"{type(layer).__name__} is called with training=True")
            return [None] * len(node.outputs)
        inside = private.inside_of(node)
        if inside is not None:
            graph, places = inside
            by_id = dict(zip(map(id, node.input_tensors), given, strict=True))
            return self.follow(graph, {i: by_id.get(j) for i, j in places.items()})
        output, rule = None, _rule_of(layer)
        if rule is not None:
            output = rule(self, node, given)
        elif (
            any(given) and len(node.outputs) == 1 and not getattr(layer, "weights", ())
        ):
            output = self._without_weights(node, given)
        if output is None:
            how = "joins them with what is unknown" if None in given else "mixes them"
            self.pin(given, f"{type(layer).__name__} {how}")
        return [output, *[None] * (len(node.outputs) - 1)]

    def _at(self, x, axis, number):
        """A tensor whose channels lie along an axis: new ones that stay, if not."""
        if x is not None and (x.axis, len(x)) == (axis, number):
            return x
        self.pin([x], "other axes are summed")
        new = Tensor(self.dependencies.new(number), np.full(number, np.nan), axis)
        self.pin([new], "where they are from is not followed")
        return new

    def _linear(self, node, given):
        layer, rank = node.operation, len(node.outputs[0].shape)
        if getattr(layer, "groups", 1) > 1:
            return None
        is_first = getattr(layer, "data_format", None) == "channels_first"
        x, axis = given[0], 1 if is_first else rank - 1
        if each := of_kind(layer, DEPTHWISE):
            x = self._each(layer, x, getattr(layer, each), axis)
        if product := of_kind(layer, PRODUCTS):
            kernel, *places = product
            x = self._product(layer, x, getattr(layer, kernel), *places, axis)
        return self._finished(layer, x, rank)

    def _product(self, layer, x, kernel, rows, columns, axis):
        x = self._at(x, axis, kernel.shape[rows])
        self.dependencies.along(layer, kernel, rows, x.ids, x.constants)
        ids = self.dependencies.along(layer, kernel, columns)
        value = private.to_numpy(kernel)
        others = tuple(i for i in range(value.ndim) if i != columns % value.ndim)
        self.dependencies.note_masked(layer, kernel, ids[~value.any(axis=others)])
        live = np.compress(x.constants != 0, value, rows % value.ndim)
        return Tensor(ids, np.where(live.any(axis=others), np.nan, 0.0), axis)

    def _each(self, layer, x, kernel, axis):
        x = self._at(x, axis, kernel.shape[-2])
        self.dependencies.along(layer, kernel, -2, x.ids)
        value = private.to_numpy(kernel)
        spatial = tuple(range(value.ndim - 2))
        zero = ~value.any(axis=spatial)
        constants = x.constants[:, None] * value.sum(axis=spatial)
        if layer.padding != "valid" and max(layer.kernel_size) > 1:
            # Another value at the borders.
            constants[x.constants != 0] = np.nan
        ids = np.repeat(x.ids, value.shape[-1])
        self.dependencies.note_masked(layer, kernel, ids[zero.reshape(-1)])
        return Tensor(ids, np.where(zero, 0.0, constants).reshape(-1), axis)

    def _finished(self, layer, x, rank):
        """With the bias and the activation of a layer."""
        if layer.bias is not None:
            self.dependencies.along(layer, layer.bias, 0, x.ids)
            x = Tensor(x.ids, x.constants + private.to_numpy(layer.bias), x.axis)
        if layer.activation in (None, keras.activations.linear):
            return x
        shape = [2 if i != x.axis else len(x) for i in range(rank)]
        output = self._alike(layer.activation, [x], [shape])
        if output is None:
            self.pin([x], f"the activation of {layer.name} mixes them")
            output = Tensor(x.ids, np.full(len(x), np.nan), x.axis)
        return output

    def _normalization(self, node, given):
        (x, *_), layer = given, node.operation
        rank = len(node.outputs[0].shape)
        if x is None or layer.axis % rank != x.axis:
            return None
        for name in ("gamma", "beta", "moving_mean", "moving_variance"):
            if (variable := getattr(layer, name, None)) is not None:
                self.dependencies.along(layer, variable, 0, x.ids)
        shape = [1 if i != x.axis else len(x) for i in range(rank)]
        value = private.computed(layer, _spread(x.constants, x.axis, shape))
        known = ~np.isnan(x.constants)
        if layer.scale:
            off = private.to_numpy(layer.gamma) == 0
            self.dependencies.note_masked(layer, layer.gamma, x.ids[off])
            known |= off
        return Tensor(x.ids, np.where(known, value.reshape(-1), np.nan), x.axis)

    def _attention(self, node, given):
        """Heads are channels: of all projections, and summed by the last."""
        layer, rank = node.operation, len(node.outputs[0].shape)
        maps, out = private.projections(layer)
        if len(out.kernel.shape) != 3:
            return None
        by_id = dict(zip(map(id, node.input_tensors), given, strict=True))
        args, kwargs = node.arguments.args, node.arguments.kwargs
        named = inspect.signature(layer.call).bind(*args, **kwargs).arguments
        value, key = named["value"], named.get("key")
        tensors = named["query"], value if key is None else key, value
        heads = self.dependencies.along(layer, maps[0].kernel, 1)
        for symbol, dense in zip(tensors, maps, strict=True):
            size = dense.kernel.shape[0]
            x = self._at(by_id.get(id(symbol)), len(symbol.shape) - 1, size)
            self.dependencies.along(layer, dense.kernel, 0, x.ids, x.constants)
            self.dependencies.along(layer, dense.kernel, 1, heads)
            if dense.bias is not None:
                self.dependencies.along(layer, dense.bias, 0, heads)
        live = private.to_numpy(dense.kernel).any(axis=(0, 2))
        self.dependencies.note_masked(layer, dense.kernel, heads[~live])
        if dense.bias is not None:
            live |= private.to_numpy(dense.bias).any(axis=1)
        x = Tensor(heads, np.where(live, np.nan, 0.0), rank - 1)
        if len(node.outputs) > 1:
            self.pin([x], "the scores of each head are returned")
        x = self._product(out, x, out.kernel, 0, 2, rank - 1)
        return self._finished(out, x, rank)

    def _without_weights(self, node, given):
        def run(*values):
            named = dict(zip(map(id, node.input_tensors), values, strict=True))
            args, kwargs = node.arguments.fill_in(named)
            return node.operation(*args, **kwargs)

        shapes = [private.sizes(x) for x in node.input_tensors]
        # Those of one channel are broadcast.
        several = [x if x and len(x) > 1 else None for x in given]
        is_product = type(node.operation).__name__ == "Multiply"
        output = self._alike(run, several, shapes, is_product)
        if output is None and _moves(node):
            return self._moved(run, given, shapes)
        self.pin([x for x in given if x and len(x) == 1], "it is the only one")
        return output

    def _alike(self, run, given, shapes, is_product=False):
        """Through what does the same for each channel, which all tensors share."""
        known = [x for x in given if x is not None]
        if len({len(x) for x in known}) != 1:
            return None
        kept = self._rng.permutation(len(known[0])) < len(known[0]) / 2
        values = [self._rng.normal(0, 3, shape).astype("float32") for shape in shapes]
        axis = _axis_that_agrees(run, values, given, kept)
        if axis is None:
            return None
        for x in known[1:]:
            self.dependencies.tie(known[0].ids, x.ids)
        values = [
            np.zeros(shape, "float32")
            if x is None
            else _spread(x.constants, x.axis, shape)
            for x, shape in zip(given, shapes, strict=True)
        ]
        rows = _rows(private.computed(run, *values), axis)
        constants = np.stack([x.constants for x in known])
        is_known = ~np.isnan(constants).any(axis=0) & (len(known) == len(given))
        if is_product:
            is_known |= (constants == 0).any(axis=0)
        is_known &= np.ptp(rows, axis=0) <= 1e-6 * (1 + np.abs(rows[0]))
        return Tensor(known[0].ids, np.where(is_known, rows[0], np.nan), axis)

    def _moved(self, run, given, shapes):
        """Through what puts channels elsewhere: their numbers go there."""
        axis = next(x.axis for x in given if x is not None)
        given = [
            x or self._at(None, axis, s[axis])
            for x, s in zip(given, shapes, strict=True)
        ]
        places = np.cumsum([0, *map(len, given)])
        # As integers, which are not rounded to half precision.
        numbers = [
            _spread(np.arange(first, first + len(x)), x.axis, s).astype("int32")
            for first, x, s in zip(places[:-1], given, shapes, strict=True)
        ]
        whole = private.computed(run, *numbers)
        axis = axis if len(given) > 1 else whole.ndim - 1
        rows = _rows(whole, axis).astype(int)
        if np.any(rows != rows[0]):
            return None
        ids = np.concatenate([x.ids for x in given])[rows[0]]
        constants = np.concatenate([x.constants for x in given])[rows[0]]
        return Tensor(ids, constants, axis)


def _axis_that_agrees(run, values, given, kept):
    """The axis along which less comes out if less is given, and the same else."""
    part = [
        value if x is None else np.compress(kept, value, x.axis)
        for value, x in zip(values, given, strict=True)
    ]
    try:
        whole, less = (private.computed(run, *x) for x in (values, part))
    except Exception:
        # An operation may take the sizes alone that it was made for.
        return None
    if whole.ndim != less.ndim:
        return None
    axes = np.flatnonzero(np.array(whole.shape) != np.array(less.shape))
    if len(axes) != 1 or whole.shape[axes[0]] != len(kept):
        return None
    expected = np.compress(kept, whole, axes[0])
    close = _TOLERANCE * np.abs(expected).max(initial=1e-6)
    agrees = expected.shape == less.shape and np.abs(expected - less).max() <= close
    return int(axes[0]) if agrees else None


def _spread(vector, axis, shape):
    """An array of a shape with an entry of a vector, or 0, at each place of an axis."""
    places = [-1 if i == axis else 1 for i in range(len(shape))]
    vector = np.nan_to_num(vector).astype("float32")
    return np.broadcast_to(vector.reshape(places), shape)


def _rows(array, axis):
    return np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])


def _moves(node):
    """Whether an operation moves channels, to where the sizes that it is given tell."""
    layer = node.operation
    if isinstance(layer, layers.Reshape):
        # The last size is changed with the channels.
        return not {None, -1} & {*layer.target_shape, *node.input_tensors[0].shape[1:]}
    return type(layer).__name__ in ("Concatenate", "Flatten")


_RULES = {
    **dict.fromkeys([*PRODUCTS, *DEPTHWISE], Follower._linear),
    layers.BatchNormalization: Follower._normalization,
    layers.MultiHeadAttention: Follower._attention,
}


def of_kind(layer, table: dict):
    """What a table by class has for a layer, or None."""
    return next((x for cls, x in table.items() if isinstance(layer, cls)), None)


def _rule_of(layer):
    """That of a layer which computes as Keras's, or KerasHub's, of its kind do."""
    if not isinstance(layer, layers.Layer) or private.is_changed(layer):
        return None
    if not type(layer).call.__module__.startswith(("keras.", "keras_hub.")):
        return None
    return of_kind(layer, _RULES)
