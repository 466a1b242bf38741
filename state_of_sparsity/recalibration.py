"""The statistics of batch normalization, estimated anew from data."""

import contextlib
import functools
import warnings

import numpy as np
from keras import ops

from state_of_sparsity.batches import batches_of
from state_of_sparsity.engines import engine_of
from state_of_sparsity.engines.recording import is_kind, replaced_attributes


def recalibrate(model, data, batch_size: int = 128) -> None:
    """Sets the moving mean and variance of every batch normalization, from batches.

    Weights that are set to zero change what a normalization is given, and its moving
    averages are of the time before. From batches of `n_b` values for a channel, with
    mean `mean_b` and variance `var_b`, it gets those of all `n` values: the mean of the
    means, and the variance by the law of total variance. No moving average:

        mean = sum(n_b * mean_b) / n
        var = sum(n_b * var_b) / n + sum(n_b * (mean_b - mean)**2) / n

    One pass for all layers: as in training, each normalization hands on what it makes
    of a batch with the statistics of that batch, so that those of a later one do not
    depend on what the earlier ones store (Wu & Johnson 2021, arXiv 2105.07576, section
    3). Of batches that are large, they are what inference sees; of a single one,
    exactly. All else is as in inference: weights as deployed, no dropout, no step
    counted. Masked positions do not count; frozen layers get statistics, too.

    Args:
      model: a built model of Keras 3 or `tf_keras`, sparse, stripped or dense. It is
        changed in place.
      data: arrays in the structure of the model's inputs, or a tuple of them and of
        targets, which do not count; or a dataset or a generator of batches of either.
      batch_size: of arrays, how many examples are a batch.

    Raises:
      TypeError, ValueError: for what is no such model, a model without batch
        normalization, no data, or data of another structure. Nothing is changed then.

    Warns:
      UserWarning: naming layers that no batch reaches, which stay as they are.
    """
    engine = engine_of(model)
    layers = {id(x): x for x in engine.layers(model) if is_kind(x, *_KINDS)}.values()
    if not layers:
        raise ValueError(f"Model {model.name!r} has no batch normalization.")
    populations = [_Population() for _ in layers]
    with contextlib.ExitStack() as stack:
        for layer, population in zip(layers, populations, strict=True):
            call = _measured(layer, population)
            stack.enter_context(replaced_attributes(layer, {"call": call}))
        for inputs, _ in batches_of(engine, model, data, batch_size):
            engine.outputs(model, inputs)
    unreached = []
    for layer, population in zip(layers, populations, strict=True):
        if not np.any(population.count):
            unreached.append(layer.name)
            continue
        layer.moving_mean.assign(population.mean.astype("float32"))
        layer.moving_variance.assign(population.variance.astype("float32"))
    if unreached:
        warnings.warn(
            f"No batch reaches {', '.join(unreached)}: their statistics stay.",
            stacklevel=2,
        )


_KINDS = ("BatchNormalization", "BatchNormalizationBase")


def _measured(layer, population):
    """A `call` that normalizes with a batch's own statistics, and takes them down."""
    plain_call = layer.call

    @functools.wraps(plain_call)
    def call(inputs, training=None, mask=None):
        del training
        mean, variance, count = _moments(layer, inputs, mask)
        population.add(*map(ops.convert_to_numpy, (mean, variance, count)))
        own = {"moving_mean": mean, "moving_variance": variance}
        with replaced_attributes(layer, own):
            return plain_call(inputs, training=False)

    return call


def _moments(layer, inputs, mask):
    """Mean, variance and number of the values of each channel in a batch."""
    values = ops.cast(inputs, "float32")
    kept = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    rank = len(values.shape)
    axes = [a for a in range(rank) if a not in kept and a - rank not in kept]
    weights = ops.ones_like(values)
    if mask is not None:
        weights *= ops.cast(mask, "float32")[..., None]
    count = ops.sum(weights, axes, keepdims=True)
    safe = ops.maximum(count, 1.0)
    mean = ops.sum(weights * values, axes, keepdims=True) / safe
    square = ops.square(values - mean)
    variance = ops.sum(weights * square, axes, keepdims=True) / safe
    shape = tuple(layer.moving_mean.shape)
    return (ops.reshape(x, shape) for x in (mean, variance, count))


class _Population:
    """Mean and variance of all values of batches, in float64 (Chan et al. 1983)."""

    def __init__(self):
        self.count = self.mean = self.variance = np.float64(0)

    def add(self, mean, variance, count):
        count = count.astype("float64")
        total = np.maximum(self.count + count, 1.0)
        share = count / total
        apart = mean - self.mean
        self.variance = (
            (1 - share) * self.variance
            + share * variance
            + share * (1 - share) * apart**2
        )
        self.mean = self.mean + share * apart
        self.count = self.count + count
