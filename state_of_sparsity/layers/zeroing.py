"""Layers that set activations to zero, or weights while they are trained."""

import math

import keras
from keras import ops

from state_of_sparsity.checks import check_integer, check_number
from state_of_sparsity.engines.keras3.maps import view_of

_register = keras.saving.register_keras_serializable("state_of_sparsity")


@_register
class KWinners(keras.layers.Layer):
    """Keeps the largest of the units that compete, and sets the others to zero.

        y = x * [x is among the k largest],  k = max(1, round(density * units))

    (Ahmad & Scheinkman 2019, arXiv 1903.11257), in training and in inference. Exactly
    `k` win, of equal ones the first; the gradient passes to them alone. Of the paper,
    the boosting of units that seldom win is left out.

    Args:
      density: share of the units that win, above 0 and below 1.
      axis: along which units compete, such as that of channels at each position; None
        for all units of an example.
    """

    def __init__(self, density, axis=-1, **kwargs):
        check_number("density", density, above=0, below=1)
        if axis == 0 or not isinstance(axis, int | None):
            raise ValueError(f"axis must be None or one of units. Received: {axis!r}")
        super().__init__(**kwargs)
        self.density, self.axis = density, axis
        self.supports_masking = True

    def build(self, input_shape):
        rank = len(input_shape)
        axes = range(1, rank) if self.axis is None else [self.axis]
        sizes = [input_shape[axis] for axis in axes if -rank < axis < rank]
        if not sizes or None in sizes:
            raise ValueError(
                f"KWinners needs a fixed number of units along axis={self.axis}. "
                f"Received: input_shape={input_shape}"
            )
        self.winners = max(1, round(self.density * math.prod(sizes)))

    def call(self, inputs):
        units, axis = ops.cast(inputs, "float32"), self.axis
        if axis is None:
            units, axis = ops.reshape(units, (ops.shape(units)[0], -1)), -1
        wins = ops.moveaxis(self._wins(ops.moveaxis(units, axis, -1)), -1, axis)
        wins = ops.reshape(wins, ops.shape(inputs))
        return inputs * ops.cast(wins, inputs.dtype)

    def _wins(self, units):
        """1 for those that are among the largest along the last axis, else 0."""
        lowest = ops.top_k(units, self.winners)[0][..., -1:]
        above = ops.cast(units > lowest, "int32")
        tied = ops.cast(units == lowest, "int32")
        room = self.winners - ops.sum(above, axis=-1, keepdims=True)
        return above + tied * ops.cast(ops.cumsum(tied, axis=-1) <= room, "int32")

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "density": self.density, "axis": self.axis}


class _DropConnect:
    """Put before a layer with a kernel, drops weights of it in training."""

    def __init__(self, *args, rate, seed=None, **kwargs):
        check_number("rate", rate, minimum=0, below=1)
        super().__init__(*args, **kwargs)
        self.rate, self.seed = rate, seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    @property
    def kernel(self):
        dropped = vars(self).get("dropped_kernel")
        return super().kernel if dropped is None else dropped

    def call(self, inputs, training=None):
        if not training:
            return super().call(inputs)
        kernel = ops.cast(self.kernel, self.compute_dtype)
        kernel = keras.random.dropout(kernel, self.rate, seed=self.seed_generator)
        view = view_of(self, {("dropped_kernel",): kernel})
        return super(_DropConnect, view).call(inputs)

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


@_register
class DropConnectDense(_DropConnect, keras.layers.Dense):
    """`Dense` that drops weights in training.

        y = activation(x · (W * M / (1 - rate)) + b),  M ~ Bernoulli(1 - rate)

    (Wan et al. 2013, "Regularization of Neural Networks using DropConnect"). `M` is
    drawn for each call; in the paper for each example, and for biases as well.
    Inference uses `W`, the mean, where the paper draws from a normal distribution.

    Args:
      rate: share of weights that are dropped, at least 0 and below 1.
      seed: of the random numbers.
    """


@_register
class DropConnectConv2D(_DropConnect, keras.layers.Conv2D):
    """`Conv2D` that drops weights in training, as `DropConnectDense` does."""


@_register
class DropBlock2D(keras.layers.SpatialDropout2D):
    """Drops square blocks of images in training, in each channel by itself.

        gamma = rate / b² * h * w / ((h - b + 1) * (w - b + 1))
        y = x * M * size(M) / sum(M)

    In `M`, each block of `b` by `b` is 0 with probability `gamma`, and all else is 1
    (Ghiasi et al. 2018, arXiv 1810.12890, equation 1). As in the paper, blocks lie
    within the image and may overlap; `rate` is constant, where the paper raises it.

    Args:
      rate: about which share is dropped, at least 0 and below 1.
      block_size: `b`; where an image is smaller, its height or width.
      data_format: as of `Conv2D`.
      seed: of the random numbers.
    """

    def __init__(self, rate, block_size, data_format=None, seed=None, **kwargs):
        check_number("rate", rate, minimum=0, below=1)
        check_integer("block_size", block_size, minimum=1)
        super().__init__(rate, data_format, seed, **kwargs)
        self.block_size = block_size

    def call(self, inputs, training=False):
        if not training or self.rate == 0:
            return inputs
        is_channels_first = self.data_format == "channels_first"
        shape = list(ops.shape(inputs))
        if is_channels_first:
            shape.append(shape.pop(1))
        examples, *sizes, channels = shape
        if not all(isinstance(size, int) for size in sizes):
            raise ValueError(
                "DropBlock2D needs images of fixed size. "
                f"Received: inputs.shape={tuple(inputs.shape)}"
            )
        blocks = tuple(min(self.block_size, size) for size in sizes)
        places = [n - b + 1 for n, b in zip(sizes, blocks, strict=True)]
        gamma = self.rate / math.prod(blocks) * math.prod(sizes) / math.prod(places)
        draws = keras.random.uniform(
            (examples, *places, channels), seed=self.seed_generator
        )
        margins = [(0, 0), *((b - 1, b - 1) for b in blocks), (0, 0)]
        corners = ops.pad(ops.cast(draws < gamma, "float32"), margins)
        kept = 1 - ops.max_pool(corners, blocks, 1, data_format="channels_last")
        # Nothing is scaled if nothing is kept.
        kept /= ops.maximum(ops.mean(kept), keras.config.epsilon())
        if is_channels_first:
            kept = ops.moveaxis(kept, -1, 1)
        return inputs * ops.cast(kept, inputs.dtype)

    def get_config(self):
        # Keras notes the dtype of variables alone.
        own = {"block_size": self.block_size, "dtype": self.dtype_policy.name}
        return {**super().get_config(), **own}
