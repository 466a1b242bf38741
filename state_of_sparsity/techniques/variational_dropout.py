"""Variational dropout: a learned noise per weight, and weights of pure noise go.

Molchanov, Ashukha & Vetrov 2017 (arXiv 1701.05369), with the local
reparameterization of Kingma, Salimans & Welling 2015 (arXiv 1506.02557). Each weight
has the posterior `N(theta, sigma^2)`, and `log alpha = log sigma^2 - log(theta^2 +
eps)` says how much of it is noise.
"""

import dataclasses
import math

import keras
from keras import ops

from state_of_sparsity.checks import check_boolean, check_number
from state_of_sparsity.fusion import fused
from state_of_sparsity.numerics import at_least_float32, is_half
from state_of_sparsity.techniques.grouped import GroupedTechnique
from state_of_sparsity.techniques.state import OPTIMIZER, State

EPSILON = 1e-8
# Leaves as much for the mean.
LARGEST_FLOAT16_NOISE = 65504.0 / 2
# Of the approximation of the KL divergence, Molchanov et al. 2017, equation 14.
K1, K2, K3 = 0.63576, 1.8732, 1.48695


def log_alpha(theta, log_sigma2):
    """`log sigma^2 - log(theta^2 + eps)`, of the shape of its arguments."""
    return at_least_float32(log_sigma2) - _log_square(theta)


def log_sigma2(theta, log_alpha):
    """The inverse of `log_alpha`: `log alpha + log(theta^2 + eps)`."""
    return at_least_float32(log_alpha) + _log_square(theta)


def _log_square(theta):
    return ops.log(ops.square(at_least_float32(theta)) + EPSILON)


def clipped_log_sigma2(theta, log_sigma2_, limit: float):
    """`log sigma^2` after clipping `log alpha` to `[-limit, limit]`."""
    log_square = _log_square(theta)
    clipped = ops.clip(at_least_float32(log_sigma2_) - log_square, -limit, limit)
    return clipped + log_square


def kl_divergence(log_alpha_):
    """Approximate KL divergence of posterior and log-uniform prior, per weight.

    `-(k1 sigmoid(k2 + k3 log alpha) - 1/2 log(1 + 1 / alpha) - k1)`, which is not
    negative and tends to 0 as alpha grows (Molchanov et al. 2017, equation 14).
    """
    log_alpha_ = at_least_float32(log_alpha_)
    # 1 - sigmoid(t) = sigmoid(-t) and log(1 + 1/alpha) = softplus(-log alpha) neither
    # overflow nor cancel.
    gap = K1 * ops.sigmoid(-(K2 + K3 * log_alpha_))
    return gap + 0.5 * ops.softplus(-log_alpha_)


def _clipped_kl_divergence(theta, log_sigma2_, limit):
    return kl_divergence(ops.clip(log_alpha(theta, log_sigma2_), -limit, limit))


def _variance(theta, log_sigma2_, limit):
    return ops.exp(clipped_log_sigma2(theta, log_sigma2_, limit))


def noisy_output(mean, variance, noise):
    """`mean + sqrt(variance + eps) * noise`: an output, or a looked-up weight.

    Args:
      mean: of what is drawn, such as `x theta`.
      variance: of the same shape, such as `x^2 sigma^2`; not negative.
      noise: standard normal, of the same shape or of length 1 where it is shared.
    """
    mean = ops.convert_to_tensor(mean)
    noise = _scaled_noise(at_least_float32(variance), noise)
    if _is_float16(mean):
        noise = ops.clip(noise, -LARGEST_FLOAT16_NOISE, LARGEST_FLOAT16_NOISE)
    return mean + ops.cast(noise, mean.dtype)


def _scaled_noise(variance, noise):
    # In float16 eps is 0, where sqrt has no finite slope.
    deviation = ops.sqrt(variance + EPSILON)
    return deviation * ops.cast(noise, deviation.dtype)


def _drawn(mean, variance, noise):
    """`noisy_output` with noise for each of its elements."""
    if is_half(mean):
        return noisy_output(mean, variance, noise.normal(ops.shape(mean)))
    return fused(_scaled_noise, drawn="normal")(variance, noise=noise, onto=mean)


def _is_float16(tensor):
    return keras.backend.standardize_dtype(tensor.dtype) == "float16"


def output_variance(linear, inputs, sigma2):
    """`x^2 sigma^2`: the variance of what a linear map gives.

    Args:
      linear: `linear(inputs, weight)` is the map; it computes in the dtype of `inputs`.
      inputs: of the map.
      sigma2: variance of each weight.
    """
    if _is_float16(inputs):
        # It holds neither their squares nor the slope of the root where they are 0.
        inputs = ops.cast(inputs, "float32")
    return linear(fused(ops.square)(inputs), sigma2)


@dataclasses.dataclass(frozen=True)
class VariationalDropout(GroupedTechnique):
    """Weights whose learned noise drowns them are zero (Molchanov et al. 2017).

    In training a linear map gives `x theta + sqrt(x^2 sigma^2 + eps) * n`, with
    `n ~ N(0, 1)` drawn per output. Deployed, a weight is
    `theta [log alpha < log_alpha_threshold]`.

    Along a sequence, a dense map `(batch, length, inputs)` to `(batch, length, units)`
    shares `n` among the positions, as the published runs did (Gale et al. 2019, arXiv
    1902.09574). Mean and variance of each output stay what they are. But the outputs of
    an example's unit then deviate in one direction at all positions, by their own
    deviations, and do not average out over a long sequence: its gradient has more
    noise. `shared_positions=False` draws for each position by itself.

    With a structure, all weights of an input, a channel or a head have one alpha, as
    Kingma et al. 2015 learn one for each neuron, and go together. Then `sigma^2 = alpha
    (theta^2 + eps)`, and `log alpha = log_sigma2 - log(mean(theta^2) + eps)`, so that
    `log_sigma2` is that of their mean variance. The penalty counts each weight.

    Attributes:
      kl_weight: of the KL divergence, summed over all weights, in the loss.
      log_alpha_threshold: from which log alpha on a weight is zero.
      clip_log_alpha: log alpha is clipped to plus or minus this in training; with a
        sparsity, for the noise alone.
      initial_log_sigma2: log variance of the noise of each weight at the beginning.
      shared_positions: whether all positions of a sequence share the noise of a dense
        map, which is one number per example and unit.

    Raises:
      TypeError, ValueError: for a bad value, naming it.
    """

    penalty_weight = "kl_weight"

    kl_weight: float | None = None
    ramp: str = "linear"
    ramp_begin: int = 0
    ramp_length: int = 1
    log_alpha_threshold: float = 3.0
    clip_log_alpha: float = 8.0
    initial_log_sigma2: float = -10.0
    shared_positions: bool = True

    def __post_init__(self):
        super().__post_init__()
        check_number("log_alpha_threshold", self.log_alpha_threshold)
        check_number("clip_log_alpha", self.clip_log_alpha, above=0.0)
        check_number("initial_log_sigma2", self.initial_log_sigma2)
        check_boolean("shared_positions", self.shared_positions)

    def parameter(self):
        return {"log_sigma2": State(self.initial_log_sigma2, changed_by=OPTIMIZER)}

    def sigma2(self, theta, state):
        """The variance of each weight in training."""
        limit = self.clip_log_alpha
        if self.is_grouped:
            alpha = ops.exp(ops.clip(self._log_alpha(theta, state), -limit, limit))
            return alpha * (ops.square(theta) + EPSILON)
        return fused(_variance, (limit,))(theta, state["log_sigma2"])

    def _log_alpha(self, theta, state):
        """Of each weight, or group."""
        if not self.is_grouped:
            return log_alpha(theta, state["log_sigma2"])
        square = self.pattern.unit_scores(ops.square(theta))
        return at_least_float32(state["log_sigma2"]) - ops.log(square + EPSILON)

    def training_weight(self, theta, state, step, noise):
        del step
        return _drawn(theta, self.sigma2(theta, state), noise)

    def training_output(self, linear, inputs, theta, state, step, noise):
        del step
        mean = linear(inputs, theta)
        variance = output_variance(linear, inputs, self.sigma2(theta, state))
        shared = noise.sequence_axes if self.shared_positions else ()
        if not shared:
            return _drawn(mean, variance, noise)
        shape = [1 if a in shared else n for a, n in enumerate(ops.shape(mean))]
        return noisy_output(mean, variance, noise.normal(tuple(shape)))

    def margin(self, theta, state):
        return self.log_alpha_threshold - self._log_alpha(theta, state)

    def keeps(self, theta, state):
        # So turned, what is NaN is no zero.
        is_noise = self._log_alpha(theta, state) >= self.log_alpha_threshold
        return self.of_weights(ops.logical_not(is_noise), theta)

    def deployed_weight(self, theta, state):
        return ops.where(self.keeps(theta, state), theta, 0.0)

    def penalty(self, theta, state):
        # Beyond the clip is no slope to steer weights by.
        limit = math.inf if self.is_steered else self.clip_log_alpha
        if self.is_grouped:
            clipped = ops.clip(self._log_alpha(theta, state), -limit, limit)
            size = self.pattern.price(tuple(theta.shape))
            return size * ops.sum(kl_divergence(clipped))
        # XLA would sum them up one by one, in float32.
        divergence = fused(_clipped_kl_divergence, (limit,))
        return ops.sum(divergence(theta, state["log_sigma2"]))
