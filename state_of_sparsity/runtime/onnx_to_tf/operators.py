"""ONNX operators on tensors of any layout, in TensorFlow."""

import functools

import numpy as np
import onnx
import tensorflow as tf

from state_of_sparsity.runtime.onnx_to_tf.call import OPERATORS, operator

_LARGEST_INT32 = 2**31 - 1

# Those that take the same tensors as TensorFlow's, and have no attributes that matter.
_SAME = {
    "Abs": tf.abs,
    "Add": tf.add,
    "And": tf.logical_and,
    "Ceil": tf.math.ceil,
    "Cos": tf.cos,
    "Div": lambda x, y: tf.divide(x, y) if _floats(x) else tf.truncatediv(x, y),
    "Equal": tf.equal,
    "Erf": tf.math.erf,
    "Exp": tf.exp,
    "Floor": tf.floor,
    "Greater": tf.greater,
    "GreaterOrEqual": tf.greater_equal,
    "HardSwish": lambda x: x * tf.clip_by_value(x / 6 + 0.5, 0, 1),
    "Identity": tf.identity,
    "IsNaN": tf.math.is_nan,
    "Less": tf.less,
    "LessOrEqual": tf.less_equal,
    "Log": tf.math.log,
    "MatMul": tf.matmul,
    "Max": lambda *xs: functools.reduce(tf.maximum, xs),
    "Min": lambda *xs: functools.reduce(tf.minimum, xs),
    "Mish": lambda x: x * tf.tanh(tf.nn.softplus(x)),
    "Mul": tf.multiply,
    "Neg": tf.negative,
    "Not": tf.logical_not,
    "Or": tf.logical_or,
    "PRelu": lambda x, slope: tf.where(x < 0, slope * x, x),
    "Pow": lambda x, y: tf.pow(x, tf.cast(y, x.dtype)),
    "Range": tf.range,
    "Reciprocal": tf.math.reciprocal,
    "Relu": tf.nn.relu,
    "Round": tf.round,
    "Sigmoid": tf.sigmoid,
    "Sign": tf.sign,
    "Sin": tf.sin,
    "Softplus": tf.nn.softplus,
    "Softsign": tf.nn.softsign,
    "Sqrt": tf.sqrt,
    "Sub": tf.subtract,
    "Sum": lambda *xs: functools.reduce(tf.add, xs),
    "Tanh": tf.tanh,
    "Tile": tf.tile,
    "Where": tf.where,
    "Xor": tf.math.logical_xor,
}
_REDUCTIONS = {
    "ReduceL2": tf.norm,
    "ReduceMax": tf.reduce_max,
    "ReduceMean": tf.reduce_mean,
    "ReduceMin": tf.reduce_min,
    "ReduceProd": tf.reduce_prod,
    "ReduceSum": tf.reduce_sum,
    "ReduceSumSquare": lambda x, **options: tf.reduce_sum(tf.square(x), **options),
}
# Those with attributes, in a line.
_WITH_ATTRIBUTES = {
    "Cast": lambda call, x: tf.cast(x, _dtype(call.get("to"))),
    "Celu": lambda call, x: _celu(x, call.get("alpha", 1.0)),
    "Concat": lambda call, *xs: tf.concat(xs, call.get("axis")),
    "Einsum": lambda call, *xs: tf.einsum(call.get("equation"), *xs),
    "Elu": lambda call, x: _elu(x, call.get("alpha", 1.0)),
    "LeakyRelu": lambda call, x: tf.nn.leaky_relu(x, call.get("alpha", 0.01)),
    "LogSoftmax": lambda call, x: tf.nn.log_softmax(x, call.get("axis", -1)),
    "Selu": lambda call, x: tf.nn.selu(x),
    "Softmax": lambda call, x: tf.nn.softmax(x, call.get("axis", -1)),
    "Transpose": lambda call, x: tf.transpose(x, call.get("perm")),
}


def _ignoring_the_call(function):
    return lambda call, *inputs: function(*inputs)


def _reduction(function):
    def reduce(call, x, axes=None):
        axes, keep = call.axes(axes), bool(call.get("keepdims", 1))
        if not axes and call.get("noop_with_empty_axes", 0):
            return x
        return function(x, axis=axes or None, keepdims=keep)

    return reduce


OPERATORS.update({name: _ignoring_the_call(f) for name, f in _SAME.items()})
OPERATORS.update({name: _reduction(f) for name, f in _REDUCTIONS.items()})
OPERATORS.update(_WITH_ATTRIBUTES)


def _floats(x):
    return tf.as_dtype(x.dtype).is_floating


def _dtype(number):
    return tf.as_dtype(onnx.helper.tensor_dtype_to_np_dtype(number))


def _elu(x, alpha):
    return tf.where(x < 0, alpha * tf.math.expm1(tf.minimum(x, 0)), x)


def _celu(x, alpha):
    return tf.where(x < 0, alpha * tf.math.expm1(tf.minimum(x, 0) / alpha), x)


@operator("HardSigmoid")
def _hard_sigmoid(call, x):
    slope, offset = call.get("alpha", 0.2), call.get("beta", 0.5)
    return tf.clip_by_value(slope * x + offset, 0, 1)


@operator("Gelu")
def _gelu(call, x):
    return tf.nn.gelu(x, approximate=call.get("approximate", "none") == "tanh")


@operator("Clip")
def _clip(call, x, low=None, high=None):
    del call
    x = x if low is None else tf.maximum(x, low)
    return x if high is None else tf.minimum(x, high)


@operator("Dropout")
def _dropout(call, x, ratio=None, training=None):
    del ratio
    if training is not None and call.static(training, "training_mode"):
        call.refuse("training_mode")
    return x


@operator("Gemm")
def _gemm(call, a, b, c=None):
    product = tf.matmul(
        a,
        b,
        transpose_a=bool(call.get("transA", 0)),
        transpose_b=bool(call.get("transB", 0)),
    )
    product *= call.get("alpha", 1.0)
    return product if c is None else product + call.get("beta", 1.0) * c


@operator("Constant")
def _constant(call):
    (attribute,) = call.node.attribute
    if attribute.name == "value":
        return onnx.numpy_helper.to_array(attribute.t)
    dtypes = {"value_float": "float32", "value_floats": "float32"}
    value = onnx.helper.get_attribute_value(attribute)
    return np.asarray(value, dtypes.get(attribute.name, "int64"))


@operator("ConstantOfShape")
def _constant_of_shape(call, shape):
    value = call.get("value")
    value = np.float32(0) if value is None else onnx.numpy_helper.to_array(value)
    return tf.fill(shape, tf.reshape(value, ()))


@operator("Shape")
def _shape(call, x):
    return tf.shape(x, tf.int64)[call.get("start", 0) : call.get("end")]


@operator("Reshape")
def _reshape(call, x, shape):
    if call.get("allowzero", 0):
        return tf.reshape(x, shape)
    known = tf.get_static_value(shape)
    if known is None:
        own = tf.shape(x, tf.int64)[: tf.shape(shape)[0]]
        # Of more lengths than the input has, none is copied.
        own = tf.pad(own, [[0, tf.shape(shape)[0] - tf.shape(own)[0]]])
        return tf.reshape(x, tf.where(shape == 0, own, shape))
    own = tf.shape(x, tf.int64)
    return tf.reshape(x, [own[i] if n == 0 else n for i, n in enumerate(known)])


@operator("Flatten")
def _flatten(call, x):
    shape = tf.shape(x)
    axis = call.get("axis", 1)
    first = tf.reduce_prod(shape[:axis])
    return tf.reshape(x, [first, tf.reduce_prod(shape[axis:])])


@operator("Expand")
def _expand(call, x, shape):
    del call
    return tf.broadcast_to(x, tf.broadcast_dynamic_shape(tf.shape(x, tf.int64), shape))


@operator("Squeeze")
def _squeeze(call, x, axes=None):
    return tf.squeeze(x, call.axes(axes))


@operator("Unsqueeze")
def _unsqueeze(call, x, axes=None):
    axes = call.axes(axes)
    rank = len(x.shape) + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = tf.expand_dims(x, axis)
    return x


@operator("Split")
def _split(call, x, sizes=None):
    axis = call.get("axis", 0)
    sizes = call.axes(sizes, "split")
    count, length = len(call.node.output), x.shape[axis]
    if sizes is None and length is not None:
        # The last part takes what is left, which may be less.
        each = -(-length // count)
        sizes = [each] * (count - 1) + [length - each * (count - 1)]
    return tuple(tf.split(x, sizes or count, axis))


@operator("Slice")
def _slice(call, x, starts=None, ends=None, axes=None, steps=None):
    rank = len(x.shape)
    starts, ends = _bounds(call, starts, "starts"), _bounds(call, ends, "ends")
    axes = call.axes(axes) or range(len(starts))
    steps = call.axes(steps, "steps") or [1] * len(starts)
    parts = [slice(None)] * rank
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        # Backwards, the end before the first place has no number.
        if step < 0 and isinstance(end, int) and end < -_LARGEST_INT32:
            end = None
        parts[axis % rank] = slice(_int32(start), _int32(end), step)
    return x[tuple(parts)]


def _bounds(call, given, name):
    """The bounds of a slice, one for each axis: integers as far as they are known."""
    if given is None:
        return call.get(name)
    known = tf.get_static_value(given)
    if known is not None:
        return [int(bound) for bound in known]
    return tf.unstack(tf.convert_to_tensor(given))


def _int32(bound):
    if bound is None or isinstance(bound, int):
        return bound and max(min(bound, _LARGEST_INT32), -_LARGEST_INT32)
    limit = tf.constant(_LARGEST_INT32, bound.dtype)
    return tf.cast(tf.clip_by_value(bound, -limit, limit), tf.int32)


@operator("Gather")
def _gather(call, x, indices):
    axis = call.get("axis", 0)
    return tf.gather(x, _counted_from_0(x, indices, axis), axis=axis)


def _counted_from_0(x, indices, axis):
    length = tf.cast(tf.shape(x)[axis], indices.dtype)
    return tf.where(indices < 0, indices + length, indices)


@operator("GatherElements")
def _gather_elements(call, x, indices):
    axis = call.get("axis", 0) % len(x.shape)
    indices = _counted_from_0(x, indices, axis)
    places = tf.meshgrid(
        *[tf.range(n) for n in tf.unstack(tf.shape(indices))], indexing="ij"
    )
    places[axis] = tf.cast(indices, tf.int32)
    return tf.gather_nd(x, tf.stack(places, -1))


@operator("GatherND")
def _gather_nd(call, x, indices):
    return tf.gather_nd(x, indices, batch_dims=call.get("batch_dims", 0))


@operator("ArgMax", "ArgMin")
def _arg_max(call, x):
    call.only(select_last_index=0)
    axis = call.get("axis", 0)
    find = tf.argmax if call.node.op_type == "ArgMax" else tf.argmin
    found = find(x, axis)
    return tf.expand_dims(found, axis) if call.get("keepdims", 1) else found


@operator("CumSum")
def _cum_sum(call, x, axis):
    return tf.cumsum(
        x,
        int(call.static(axis, "axis")),
        exclusive=bool(call.get("exclusive", 0)),
        reverse=bool(call.get("reverse", 0)),
    )


@operator("Trilu")
def _trilu(call, x, k=None):
    k = 0 if k is None else int(call.static(k, "k"))
    rows, columns = tf.shape(x)[-2], tf.shape(x)[-1]
    beyond = tf.range(columns)[None, :] - tf.range(rows)[:, None]
    kept = beyond >= k if call.get("upper", 1) else beyond <= k
    return tf.where(kept, x, tf.zeros((), x.dtype))


@operator("ReverseSequence")
def _reverse_sequence(call, x, lengths):
    return tf.reverse_sequence(
        x,
        lengths,
        seq_axis=call.get("time_axis", 0),
        batch_axis=call.get("batch_axis", 1),
    )


@operator("LayerNormalization")
def _layer_normalization(call, x, scale, offset=None):
    axes = list(range(call.get("axis", -1) % len(x.shape), len(x.shape)))
    mean, variance = tf.nn.moments(x, axes, keepdims=True)
    epsilon = call.get("epsilon", 1e-5)
    return tf.nn.batch_normalization(x, mean, variance, offset, scale, epsilon)
