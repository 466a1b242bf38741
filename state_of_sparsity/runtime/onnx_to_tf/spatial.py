"""ONNX operators on images: convolutions, pooling, padding, batch normalization.

ONNX has channels before positions. TensorFlow's kernels for processors need them last:
tensors are turned round, and back.
"""

import numpy as np
import tensorflow as tf

from state_of_sparsity.runtime.onnx_to_tf.call import operator


def _channels_last(x):
    return tf.transpose(x, [0, *range(2, len(x.shape)), 1])


def _channels_first(x):
    return tf.transpose(x, [0, len(x.shape) - 1, *range(1, len(x.shape) - 1)])


def _window(call, rank):
    """Strides, dilations, and zeros before and after, of each spatial axis."""
    strides = call.get("strides") or [1] * rank
    dilations = call.get("dilations") or [1] * rank
    pads = call.get("pads") or [0] * 2 * rank
    return strides, dilations, list(zip(pads[:rank], pads[rank:], strict=True))


def _padded(call, x, kernel, value=0.0):
    """Inputs with channels last and their padding, so that windows fit inside."""
    rank = len(x.shape) - 2
    strides, dilations, pads = _window(call, rank)
    match call.get("auto_pad", "NOTSET"):
        case "NOTSET":
            pass
        case "VALID":
            pads = [(0, 0)] * rank
        case mode:
            lengths = tf.unstack(tf.shape(x)[1:-1])
            reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
            sums = [
                tf.maximum((-(-n // s) - 1) * s + r - n, 0)
                for n, s, r in zip(lengths, strides, reach, strict=True)
            ]
            pads = [(total // 2, total - total // 2) for total in sums]
            if mode == "SAME_LOWER":
                pads = [(after, before) for before, after in pads]
    if any(isinstance(n, tf.Tensor) or n for pad in pads for n in pad):
        x = tf.pad(x, [(0, 0), *pads, (0, 0)], constant_values=value)
    return x


@operator("Conv")
def _conv(call, x, kernel, bias=None):
    sizes, groups = kernel.shape[2:], call.get("group", 1)
    x = _padded(call, _channels_last(x), sizes)
    strides, dilations, _ = _window(call, len(sizes))
    # [outputs, inputs, *sizes] as [*sizes, inputs, outputs].
    kernel = tf.transpose(kernel, [*range(2, len(sizes) + 2), 1, 0])
    if groups == 1:
        y = _convolved(x, kernel, strides, dilations)
    elif groups == x.shape[-1] and len(sizes) <= 2:
        y = _depthwise(x, kernel, strides, dilations)
    else:
        pairs = zip(tf.split(x, groups, -1), tf.split(kernel, groups, -1), strict=True)
        y = tf.concat([_convolved(a, k, strides, dilations) for a, k in pairs], -1)
    y = y if bias is None else y + bias
    return _channels_first(y)


def _convolved(x, kernel, strides, dilations):
    # TensorFlow does not do both at once.
    both = max(strides) > 1 and max(dilations) > 1
    y = tf.nn.convolution(
        x, kernel, None if both else strides, "VALID", dilations=dilations
    )
    return _every(y, strides) if both else y


def _every(y, strides):
    return y[(slice(None), *(slice(None, None, stride) for stride in strides))]


def _depthwise(x, kernel, strides, dilations):
    """Of one input channel for each output: in one or two dimensions."""
    channels, flat = x.shape[-1], len(strides) == 1
    kernel = tf.reshape(kernel, [*kernel.shape[:-2], channels, -1])
    if flat:
        x, kernel = x[:, None], kernel[None]
        strides, dilations = [1, *strides], [1, *dilations]
    # Its strides have to be the same, and one where it is dilated.
    whole = len(set(strides)) == 1 and (strides[0] == 1 or max(dilations) == 1)
    y = tf.nn.depthwise_conv2d(
        x, kernel, [1, *(strides if whole else [1, 1]), 1], "VALID", dilations=dilations
    )
    y = y if whole else _every(y, strides)
    return y[:, 0] if flat else y


@operator("ConvTranspose")
def _conv_transpose(call, x, kernel, bias=None):
    sizes = kernel.shape[2:]
    rank, groups = len(sizes), call.get("group", 1)
    call.only(auto_pad="NOTSET", dilations=[1] * rank, output_shape=None)
    strides, _, pads = _window(call, rank)
    more = call.get("output_padding") or [0] * rank
    x = _channels_last(x)
    # [inputs, outputs, *sizes] as [*sizes, outputs, inputs].
    kernel = tf.transpose(kernel, [*range(2, rank + 2), 1, 0])
    lengths = [
        (n - 1) * s + k + m
        for n, s, k, m in zip(
            tf.unstack(tf.shape(x)[1:-1]), strides, sizes, more, strict=True
        )
    ]
    shape = [tf.shape(x)[0], *lengths, kernel.shape[-2]]
    pairs = zip(tf.split(x, groups, -1), tf.split(kernel, groups, -1), strict=True)
    parts = [tf.nn.conv_transpose(a, k, shape, strides, "VALID") for a, k in pairs]
    y = tf.concat(parts, -1)
    cut = [slice(a, n - b) for (a, b), n in zip(pads, lengths, strict=True)]
    y = y[(slice(None), *cut)]
    y = y if bias is None else y + bias
    return _channels_first(y)


@operator("MaxPool")
def _max_pool(call, x):
    call.only(ceil_mode=0, storage_order=0)
    size = call.get("kernel_shape")
    x = _padded(call, _channels_last(x), size, x.dtype.min)
    return _channels_first(_pooled(call, x, "MAX"))


@operator("AveragePool")
def _average_pool(call, x):
    call.only(ceil_mode=0)
    size = call.get("kernel_shape")
    x = _channels_last(x)
    y = _pooled(call, _padded(call, x, size), "AVG")
    if not call.get("count_include_pad", 0):
        # The mean is over the positions that are there.
        ones = tf.ones_like(x[..., :1])
        y /= _pooled(call, _padded(call, ones, size), "AVG")
    return _channels_first(y)


def _pooled(call, x, kind):
    size = call.get("kernel_shape")
    strides, dilations, _ = _window(call, len(size))
    return tf.nn.pool(x, size, kind, strides, "VALID", dilations=dilations)


@operator("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(call, x):
    is_mean = call.node.op_type == "GlobalAveragePool"
    reduce = tf.reduce_mean if is_mean else tf.reduce_max
    return reduce(x, axis=list(range(2, len(x.shape))), keepdims=True)


@operator("BatchNormalization")
def _batch_normalization(call, x, scale, offset, mean, variance):
    call.only(training_mode=0)
    per_channel = [-1] + [1] * (len(x.shape) - 2)
    scale, offset, mean, variance = (
        tf.reshape(each, per_channel) for each in (scale, offset, mean, variance)
    )
    epsilon = call.get("epsilon", 1e-5)
    return tf.nn.batch_normalization(x, mean, variance, offset, scale, epsilon)


@operator("InstanceNormalization")
def _instance_normalization(call, x, scale, offset):
    per_channel = [-1] + [1] * (len(x.shape) - 2)
    mean, variance = tf.nn.moments(x, list(range(2, len(x.shape))), keepdims=True)
    return tf.nn.batch_normalization(
        x,
        mean,
        variance,
        tf.reshape(offset, per_channel),
        tf.reshape(scale, per_channel),
        call.get("epsilon", 1e-5),
    )


@operator("Pad")
def _pad(call, x, pads=None, value=None, axes=None):
    modes = {"constant": "CONSTANT", "reflect": "REFLECT"}
    mode = call.get("mode", "constant")
    if mode not in modes:
        call.refuse(f"mode={mode!r}")
    rank = len(x.shape)
    axes = call.axes(axes) or range(rank)
    pads = call.axes(pads, "pads")
    both = [(0, 0)] * rank
    for axis, before, after in zip(
        axes, pads[: len(pads) // 2], pads[len(pads) // 2 :], strict=True
    ):
        both[axis % rank] = (before, after)
    # What is below zero is cut off.
    x = x[tuple(slice(max(-a, 0), -max(-b, 0) or None) for a, b in both)]
    both = [(max(a, 0), max(b, 0)) for a, b in both]
    fill = 0 if value is None else tf.cast(tf.reshape(value, ()), x.dtype)
    return tf.pad(x, both, modes[mode], fill)


@operator("Resize")
def _resize(call, x, roi=None, scales=None, sizes=None):
    """Repeats positions: a whole number of times, the same places as `repeat`."""
    del roi
    if sizes is not None or scales is None:
        call.refuse("sizes")
    call.only(mode="nearest")
    if call.get("coordinate_transformation_mode", "half_pixel") not in (
        "asymmetric",
        "half_pixel",
    ):
        call.refuse(call.get("coordinate_transformation_mode"))
    factors = call.static(scales, "scales")
    if (factors < 1).any() or (factors != np.round(factors)).any():
        call.refuse(f"scales={factors.tolist()}")
    for axis, factor in enumerate(factors):
        if factor > 1:
            x = tf.repeat(x, int(factor), axis)
    return x
