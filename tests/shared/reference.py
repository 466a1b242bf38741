"""Training with pruning, and random scores, in NumPy: written for tests, in float64.

Nothing here calls the library.
"""

import numpy as np


def cubic_sparsity(step, final, begin, end):
    """Zhu & Gupta 2017, equation 1, from an initial sparsity of 0."""
    done = min(max((step - begin) / (end - begin), 0.0), 1.0)
    return final * (1.0 - (1.0 - done) ** 3)


def is_renewal(step, begin, end, frequency):
    if not begin <= step <= end or step == 0:
        return False
    return (step - begin) % frequency == 0 or step == end


def without_lowest(scores, zeros):
    """A mask without so many of the lowest scores, the first ones among equals."""
    mask = np.ones(scores.size)
    mask[np.argsort(scores.ravel(), kind="stable")[:zeros]] = 0.0
    return mask.reshape(scores.shape)


def without_lowest_of_all(scores, zeros):
    """Masks of tensors without so many of the lowest scores of all of them.

    One by one, in the order of a stable sort; each tensor keeps its last weight.
    """
    masks = [np.ones(tensor.size) for tensor in scores]
    places = [(i, j) for i, mask in enumerate(masks) for j in range(mask.size)]
    order = np.argsort(np.concatenate([s.ravel() for s in scores]), kind="stable")
    for tensor, place in (places[k] for k in order):
        if zeros and masks[tensor].sum() > 1:
            masks[tensor][place] = 0.0
            zeros -= 1
    return [mask.reshape(s.shape) for mask, s in zip(masks, scores, strict=True)]


def random_scores(shape, *stream):
    """Scores in (0, 1) from a hash of each place: two rounds of a 32-bit finalizer."""
    keys = np.random.SeedSequence(stream).generate_state(2)
    return random_fractions(shape, *keys) / 2 + 0.5


def random_fractions(shape, first, second):
    """Numbers in (-1, 1): the upper 24 bits of hashes, between their neighbours."""
    with np.errstate(over="ignore"):
        bits = _hashed(np.arange(np.prod(shape), dtype="uint32") ^ np.uint32(first))
        bits = _hashed(bits + np.uint32(second))
    upper = bits.view("int32") >> 8
    return (upper.reshape(shape) + 0.5) / 2.0**23


def mixed(number):
    """The hash of one number, as an integer from 0."""
    with np.errstate(over="ignore"):
        return int(_hashed(np.array([number % 2**32], "uint32"))[0])


def _hashed(x):
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x7FEB352D)
    x = x ^ (x >> np.uint32(15))
    x = x * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


class Perceptron:
    """Two layers with a rectifier between them, cross-entropy, plain SGD, masks.

    Args:
      weights: kernel and bias of each layer.
      scores: `scores(place, kernel, mask)` are those of a kernel in a renewal.
      schedule: final sparsity, begin, end, frequency.
      learning_rate: of SGD.
    """

    def __init__(self, weights, scores, schedule, learning_rate):
        self.weights = [np.asarray(w, "float64") for w in weights]
        self.masks = [np.ones_like(self.weights[i]) for i in (0, 2)]
        self._scores = scores
        self._final, *self._times = schedule
        self._learning_rate = learning_rate
        self._step = 0

    def logits(self, x):
        (k1, b1, k2, b2), (m1, m2) = self.weights, self.masks
        return np.maximum(x @ (k1 * m1) + b1, 0.0) @ (k2 * m2) + b2

    def train(self, x, labels):
        """One step; gives the loss before it."""
        self._step += 1
        self._renew()
        (k1, b1, k2, b2), (m1, m2) = self.weights, self.masks
        before = x @ (k1 * m1) + b1
        hidden = np.maximum(before, 0.0)
        logits = hidden @ (k2 * m2) + b2
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        rows = np.arange(len(labels))
        loss = -log_p[rows, labels].mean()
        d_logits = np.exp(log_p)
        d_logits[rows, labels] -= 1.0
        d_logits /= len(labels)
        d_before = (d_logits @ (k2 * m2).T) * (before > 0)
        gradients = (
            (x.T @ d_before) * m1,
            d_before.sum(axis=0),
            (hidden.T @ d_logits) * m2,
            d_logits.sum(axis=0),
        )
        for weight, gradient in zip(self.weights, gradients, strict=True):
            weight -= self._learning_rate * gradient
        return loss

    def _renew(self):
        if not is_renewal(self._step, *self._times):
            return
        sparsity = cubic_sparsity(self._step, self._final, *self._times[:2])
        kernels = zip(self.weights[::2], self.masks, strict=True)
        scores = [self._scores(i, *each) for i, each in enumerate(kernels)]
        self.masks = self._without_lowest(scores, sparsity)

    def _without_lowest(self, scores, sparsity):
        return [without_lowest(s, round(sparsity * s.size)) for s in scores]


class OneThreshold(Perceptron):
    """A perceptron whose layers share a threshold."""

    def _without_lowest(self, scores, sparsity):
        size = sum(s.size for s in scores)
        return without_lowest_of_all(scores, round(sparsity * size))


def staying(place, kernel, mask):
    del place
    return np.abs(kernel * mask)


def returning(place, kernel, mask):
    del place, mask
    return np.abs(kernel)


def at_random(seed):
    # Index of the layer, and of the weight within it.
    return lambda place, kernel, mask: random_scores(kernel.shape, seed, place, 0)


def kl_divergence(theta, log_sigma2, clip=8.0):
    """Molchanov et al. 2017, equation 14, summed over the weights."""
    log_alpha = np.clip(log_sigma2 - np.log(theta**2 + 1e-8), -clip, clip)
    k1, k2, k3 = 0.63576, 1.8732, 1.48695
    sigmoid = 1.0 / (1.0 + np.exp(-(k2 + k3 * log_alpha)))
    return -np.sum(k1 * sigmoid - 0.5 * np.log1p(np.exp(-log_alpha)) - k1)


def expected_l0(log_alpha, beta=2 / 3, gamma=-0.1, zeta=1.1):
    """Louizos et al. 2018, equation 12, summed over the weights."""
    return np.sum(1.0 / (1.0 + np.exp(-(log_alpha - beta * np.log(-gamma / zeta)))))
