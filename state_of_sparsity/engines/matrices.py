"""The linear maps of layers as matrices of inputs x outputs, in groups."""

import dataclasses
import math
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from keras import ops

from state_of_sparsity.engines.equations import Equation
from state_of_sparsity.engines.recording import is_kind


@dataclasses.dataclass(frozen=True)
class LinearMap:
    """What a layer multiplies its inputs with.

    Attributes:
      axes: those of the kernel, after `parts`, that are groups, inputs and outputs of
        the matrices.
      rows: of the inputs of a call, the rows that are multiplied, as a float32 tensor
        of groups x rows x inputs.
      kind: equal for layers that make the same rows of the same inputs.
      parts: how many of them the last axis of the kernel is split into; then it is two.
    """

    axes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    rows: Callable[[Any], Any]
    kind: Hashable
    parts: int | None = None

    def matrices(self, kernel: np.ndarray) -> np.ndarray:
        """The kernel as groups x inputs x outputs, in float64."""
        kernel = kernel.reshape(self._split(kernel.shape))
        shape = [math.prod(kernel.shape[i] for i in axes) for axes in self.axes]
        ordered = kernel.transpose(sum(self.axes, ()))
        return ordered.reshape(shape).astype("float64")

    def kernel(self, matrices: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """What `matrices` were made of, of that shape."""
        order, split = sum(self.axes, ()), self._split(shape)
        ordered = matrices.reshape([split[axis] for axis in order])
        return ordered.transpose(np.argsort(order)).reshape(shape)

    def _split(self, shape):
        parts = self.parts
        return (*shape[:-1], parts, shape[-1] // parts) if parts else shape


def linear_map(layer) -> LinearMap | None:
    """The map of a layer that computes as its kind does; None where it is not known."""
    if is_kind(layer, "EinsumDense"):
        return _einsum(layer.equation)
    if is_kind(layer, "Dense"):
        return _einsum("...a,ab->...b")
    if is_kind(layer, "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"):
        # The products of each input channel, of which an output sums up several.
        last = len(layer.kernel_size) + 1
        axes = (), (last,), tuple(range(last))
        rows = _channels_last(layer, lambda x: ops.reshape(x, (1, -1, x.shape[-1])))
        return LinearMap(axes, rows, ("channels", layer.data_format))
    is_depthwise = is_kind(layer, "DepthwiseConv1D", "DepthwiseConv2D")
    if is_depthwise or is_kind(layer, "Conv1D", "Conv2D", "Conv3D"):
        return _convolution(layer, is_depthwise)
    return None


def _einsum(equation):
    parts = Equation.of(equation)
    axes = tuple(map(tuple, (parts.groups, parts.summed, parts.free)))
    if sum(map(len, axes)) < len(parts.kernel):
        return None
    groups, summed = ([parts.kernel[i] for i in part] for part in axes[:2])
    # Summed before anything is multiplied.
    alone = sorted(set(parts.inputs) - set(parts.kernel + parts.outputs))

    def rows(values):
        letters = parts.of_rank(len(values.shape)).inputs
        values = ops.cast(values, "float32")
        for letter in alone:
            values = ops.sum(values, letters.index(letter))
            letters = letters.replace(letter, "")
        rest = [x for x in letters if x not in groups and x not in summed]
        order = [letters.index(x) for x in (*groups, *rest, *summed)]
        sizes = [
            math.prod(values.shape[letters.index(x)] for x in part)
            for part in (groups, summed)
        ]
        return ops.reshape(ops.transpose(values, order), (sizes[0], -1, sizes[1]))

    kind = parts.inputs, tuple(groups), tuple(summed), tuple(alone)
    return LinearMap(axes, rows, kind)


def _convolution(layer, is_depthwise):
    spatial = tuple(range(len(layer.kernel_size)))
    inputs, outputs = len(spatial), len(spatial) + 1

    def rows(values):
        patches = _patches(layer, values)
        taps, channels = patches.shape[1:]
        groups = channels if is_depthwise else layer.groups
        patches = ops.reshape(patches, (-1, taps, groups, channels // groups))
        patches = ops.transpose(patches, (2, 0, 1, 3))
        return ops.reshape(patches, (groups, -1, taps * (channels // groups)))

    if is_depthwise:
        axes, parts = ((inputs,), spatial, (outputs,)), None
    else:
        # Each group has outputs of its own, one group after the other.
        axes, parts = ((outputs,), (*spatial, inputs), (outputs + 1,)), layer.groups
    given = layer.kernel_size, layer.strides, layer.padding, layer.dilation_rate
    kind = ("patches", parts, *map(str, given))
    return LinearMap(axes, _channels_last(layer, rows), kind, parts)


def _channels_last(layer, rows):
    def of_call(values):
        values = ops.cast(values, "float32")
        if layer.data_format == "channels_first":
            values = ops.moveaxis(values, 1, -1)
        return rows(values)

    return of_call


def _patches(layer, values):
    """What a convolution sees at each position: positions x taps x channels."""
    size, channels = tuple(layer.kernel_size), values.shape[-1]
    taps, padding = math.prod(size), layer.padding
    if padding == "causal":
        before = layer.dilation_rate[0] * (size[0] - 1)
        values = ops.pad(values, ((0, 0), (before, 0), (0, 0)))
        padding = "valid"
    # Each channel by itself, by a convolution that hands on each tap.
    values = ops.moveaxis(values, -1, 1)
    patches = ops.conv(
        ops.reshape(values, (-1, *values.shape[2:], 1)),
        ops.convert_to_tensor(np.eye(taps, dtype="float32").reshape(*size, 1, taps)),
        strides=layer.strides,
        padding=padding,
        data_format="channels_last",
        dilation_rate=layer.dilation_rate,
    )
    positions = math.prod(patches.shape[1:-1])
    patches = ops.reshape(patches, (-1, channels, positions, taps))
    patches = ops.transpose(patches, (0, 2, 3, 1))
    return ops.reshape(patches, (-1, taps, channels))
