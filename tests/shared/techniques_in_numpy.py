"""Techniques in NumPy's float64, and a training around them: written for tests.

They are from the papers' formulas, and call nothing of the library; of a technique they
read its hyperparameters. A rule sees the kernels of all layers at once.
"""

import math

import numpy as np

from tests.shared.reference import (
    cubic_sparsity,
    is_renewal,
    random_fractions,
    without_lowest,
    without_lowest_of_all,
)


class Training:
    """Two layers without biases, tanh between them, mean squared error, momentum.

    Another network is a class that says what it gives, and its gradients.

    Args:
      kernels: with which training begins.
      rule: a `Rule`.
      learning_rate: of SGD.
      momentum: of SGD.
    """

    def __init__(self, kernels, rule, learning_rate, momentum):
        self.rule = rule
        self.thetas = rule.initial([np.array(k, "float64") for k in kernels])
        self._parameters = [*self.thetas, *rule.trained]
        self._velocities = [np.zeros_like(p) for p in self._parameters]
        self._learning_rate, self._momentum = learning_rate, momentum
        self._step = 0

    def train(self, x, targets):
        """One step; gives the loss before it."""
        self._step += 1
        self.rule.renew(self.thetas, self._step)
        loss = self.rule.penalty()
        outputs, gradients = self.network(x, *self.rule.weights(self.thetas))
        errors = outputs - targets
        gradients = gradients(2.0 * errors / errors.size)
        slopes = self.rule.slopes(self.thetas, gradients, self._step)
        for parameter, velocity, slope in zip(
            self._parameters, self._velocities, slopes, strict=True
        ):
            velocity *= self._momentum
            velocity -= self._learning_rate * slope
            parameter += velocity
        self.rule.project(self.thetas)
        return loss + np.mean(errors**2)

    @staticmethod
    def network(x, first, second):
        """The outputs, and a function from their gradients to those of the weights."""
        hidden = np.tanh(x @ first)

        def gradients(slope):
            before = (slope @ second.T) * (1.0 - hidden**2)
            return [x.T @ before, hidden.T @ slope]

        return hidden @ second, gradients


class Rule:
    """Weights times masks, which never change: the base of all others.

    Attributes:
      masks: an array of zeros and ones for each layer.
      trained: arrays beside the kernels that the optimizer trains.
      state: by name, what each layer has beside its kernel.
      margin: the least distance of a score that went from one that stayed, relative to
        the mean of the scores.
    """

    def __init__(self, technique, masks):
        self.technique = technique
        self.masks = [mask.astype("float64") for mask in masks]
        self.trained, self.state = [], {}
        self.margin = math.inf

    def initial(self, weights):
        return weights

    def renew(self, thetas, step):
        """Before the forward pass."""

    def weights(self, thetas):
        """As the forward pass has them."""
        return [t * m for t, m in zip(thetas, self.masks, strict=True)]

    def deployed(self, thetas):
        return self.weights(thetas)

    def kept(self, thetas):
        """Of the weight as deployed."""
        return [mask != 0.0 for mask in self.masks]

    def penalty(self):
        return 0.0

    def slopes(self, thetas, gradients, step):
        """By `thetas` and by what is trained, from those by the weights in use."""
        return [g * m for g, m in zip(gradients, self.masks, strict=True)]

    def project(self, thetas):
        """After the optimizer, in place."""

    def zeros(self, sparsity, scores):
        """How many weights go, layer by layer or of the whole model."""
        if self.technique.is_global:
            size = sum(s.size for s in scores)
            return min(round(sparsity * size), size - len(scores))
        return [min(round(sparsity * s.size), s.size - 1) for s in scores]

    def note(self, scores, count):
        """Keeps the margin of a choice of the `count` lowest of a vector."""
        if 0 < count < scores.size:
            ranked = np.sort(scores)
            gap = ranked[count] - ranked[count - 1]
            scale = np.mean(np.abs(ranked[np.isfinite(ranked)]))
            self.margin = min(self.margin, gap / scale)

    def near(self, distances, scale):
        """Keeps the margin of comparisons with a threshold."""
        self.margin = min(self.margin, np.abs(distances).min() / scale)


class Pruning(Rule):
    """Zhu & Gupta 2017: masks of the lowest scores, renewed along a cubic ramp."""

    def renew(self, thetas, step):
        t = self.technique
        if not is_renewal(step, t.begin_step, t.end_step, t.frequency):
            return
        sparsity = cubic_sparsity(step, t.sparsity, t.begin_step, t.end_step)
        scores = self.scores(thetas)
        if t.masked_weights == "stay":
            pairs = zip(scores, self.masks, strict=True)
            scores = [np.where(mask != 0.0, s, -np.inf) for s, mask in pairs]
        self.mask(scores, sparsity)

    def mask(self, scores, sparsity):
        zeros = self.zeros(sparsity, scores)
        if self.technique.is_global:
            self.note(np.concatenate([s.ravel() for s in scores]), zeros)
            self.masks = without_lowest_of_all(scores, zeros)
            return
        for tensor, count in zip(scores, zeros, strict=True):
            self.note(tensor.ravel(), count)
        self.masks = [without_lowest(s, n) for s, n in zip(scores, zeros, strict=True)]

    def scores(self, thetas):
        return [np.abs(theta) for theta in thetas]


class Accumulated(Pruning):
    """Scores from a sum over the steps; the base of such criteria."""

    begins_anew = True

    def __init__(self, technique, masks):
        super().__init__(technique, masks)
        self.state["statistic"] = [np.zeros_like(mask) for mask in self.masks]

    def slopes(self, thetas, gradients, step):
        t = self.technique
        if self.begins_anew and is_renewal(step, t.begin_step, t.end_step, t.frequency):
            self.begin_anew()
        used = self.weights(thetas)
        for i, gradient in enumerate(gradients):
            seen = gradient * self.masks[i] if t.masked_weights == "stay" else gradient
            self.state["statistic"][i] += self.added(thetas[i], used[i], seen)
        return super().slopes(thetas, gradients, step)

    def begin_anew(self):
        for statistic in self.state["statistic"]:
            statistic[...] = 0.0

    def scores(self, thetas):
        return self.state["statistic"]


class Saliency(Accumulated):
    """Molchanov et al. 2017: the sum of `|g w|`."""

    def added(self, theta, used, gradient):
        return np.abs(gradient * used)


class Movement(Accumulated):
    """Sanh et al. 2020, equation 4: minus the sum of `g theta`, of all steps."""

    begins_anew = False

    def added(self, theta, used, gradient):
        return -gradient * theta


class DiagonalFisher(Accumulated):
    """Theis et al. 2018: `w^2` times the sum of `g^2`."""

    def added(self, theta, used, gradient):
        return gradient**2

    def scores(self, thetas):
        used = self.weights(thetas)
        return [f * w**2 for f, w in zip(self.state["statistic"], used, strict=True)]


class BlockFisher(Pruning):
    """Singh & Alistarh 2020: the damped Fisher information itself, block by block.

    What stays is corrected so that the quadratic form of the change is least: with
    blocks of `F` by what stays and what goes, `F_ss^-1 F_sg w_g`.
    """

    def __init__(self, technique, masks):
        super().__init__(technique, masks)
        self.offsets = [np.zeros_like(mask) for mask in self.masks]

    def _begin_anew(self, gradients):
        size, share = self.technique.block_size, self.technique.damping
        self._fishers = [
            np.tile(
                (share * np.mean(g**2) + 1e-12) * np.eye(size),
                (-(-g.size // size), 1, 1),
            )
            for g in gradients
        ]

    def _blocks(self, tensor, filling=0.0):
        size = self.technique.block_size
        flat = np.append(tensor.ravel(), np.full(-tensor.size % size, filling))
        return flat.reshape(-1, size)

    def weights(self, thetas):
        return [
            (theta + offset) * mask
            for theta, offset, mask in zip(
                thetas, self.offsets, self.masks, strict=True
            )
        ]

    def scores(self, thetas):
        scores = []
        for fisher, used in zip(self._fishers, self.weights(thetas), strict=True):
            diagonals = np.diagonal(np.linalg.inv(fisher), axis1=1, axis2=2)
            score = self._blocks(used) ** 2 / (2.0 * diagonals)
            scores.append(score.ravel()[: used.size].reshape(used.shape))
        return scores

    def renew(self, thetas, step):
        before, used = self.masks, self.weights(thetas)
        super().renew(thetas, step)
        if self.masks is before:
            return
        for i, fisher in enumerate(self._fishers):
            blocks = zip(
                fisher,
                self._blocks(used[i]),
                self._blocks(self.masks[i]) != 0.0,
                strict=True,
            )
            change = np.concatenate([self._change(*block) for block in blocks])
            self.offsets[i] += change[: used[i].size].reshape(used[i].shape)

    @staticmethod
    def _change(fisher, weight, stays):
        change = np.where(stays, 0.0, -weight)
        if stays.any():
            within, between = fisher[stays][:, stays], fisher[stays][:, ~stays]
            change[stays] = np.linalg.solve(within, between @ weight[~stays])
        return change

    def slopes(self, thetas, gradients, step):
        t = self.technique
        seen = [g * mask for g, mask in zip(gradients, self.masks, strict=True)]
        if step == 1 or is_renewal(step, t.begin_step, t.end_step, t.frequency):
            self._begin_anew(seen)
        for fisher, gradient in zip(self._fishers, seen, strict=True):
            rows = self._blocks(gradient)
            fisher += rows[:, :, None] * rows[:, None, :] / t.frequency
        self.state["statistic"] = [np.linalg.inv(f) for f in self._fishers]
        return super().slopes(thetas, gradients, step)


class RigL(Rule):
    """Evci et al. 2020, algorithm 1: as many are grown as are dropped."""

    def grown(self, place, gradient, step):
        return np.abs(gradient)

    def sparsity(self, step):
        return self.technique.sparsity

    def slopes(self, thetas, gradients, step):
        slopes = super().slopes(thetas, gradients, step)
        t = self.technique
        if step > 1 and step % t.frequency == 0 and step <= t.end_step:
            self.masks = [
                self._updated(i, theta, gradient, step)
                for i, (theta, gradient) in enumerate(
                    zip(thetas, gradients, strict=True)
                )
            ]
        return slopes

    def _updated(self, place, theta, gradient, step):
        active = self.masks[place] != 0.0
        stay = active.size - round(self.sparsity(step) * active.size)
        share = self.technique.drop_fraction / 2.0
        share *= 1.0 + math.cos(math.pi * step / self.technique.end_step)
        exact = share * stay
        grow = round(exact) if abs(exact - round(exact)) < 1e-9 else math.floor(exact)
        worth = np.where(active, np.abs(theta), np.inf)
        keep = stay - grow
        self.note(worth[active], active.sum() - keep)
        kept = active & (without_lowest(worth, active.sum() - keep) != 0.0)
        wanted = np.where(kept, -np.inf, self.grown(place, gradient, step))
        self.note(-wanted[~kept], grow)
        grown = without_lowest(-wanted, grow) == 0.0
        return (kept | grown).astype("float64")

    def project(self, thetas):
        for theta, mask in zip(thetas, self.masks, strict=True):
            theta *= mask


class SET(RigL):
    """Mocanu et al. 2018: what grows is drawn."""

    def grown(self, place, gradient, step):
        # Index of the layer, and of the weight within it.
        stream = np.random.SeedSequence((self.technique.seed, place, 0))
        return random_fractions(gradient.shape, stream.generate_state(2)[0], step)


class GraNet(RigL):
    """Liu et al. 2021: RigL on a cubic ramp."""

    def sparsity(self, step):
        t = self.technique
        left = 1.0 - step / t.end_step
        return t.sparsity + (t.initial_sparsity - t.sparsity) * left**3


class Threshold(Rule):
    """The base of those with the quantile of all scores at the sparsity of a step."""

    def __init__(self, technique, masks):
        super().__init__(technique, masks)
        self.state["threshold"] = [-1.0] * len(masks)

    def scales(self, thetas):
        return [1.0 for _ in thetas]

    def scores(self, thetas):
        scales = self.scales(thetas)
        return [c * np.abs(theta) for c, theta in zip(scales, thetas, strict=True)]

    def renew(self, thetas, step):
        t = self.technique
        if step < t.begin_step:
            return
        scores = np.concatenate([s.ravel() for s in self.scores(thetas)])
        sparsity = cubic_sparsity(step, t.sparsity, t.begin_step, t.end_step)
        zeros = min(round(sparsity * scores.size), scores.size - len(thetas))
        self.note(scores, zeros)
        threshold = np.sort(scores)[zeros - 1] if zeros else -1.0
        self.state["threshold"] = [threshold] * len(thetas)

    def kept(self, thetas):
        threshold = self.state["threshold"][0]
        return [score > threshold for score in self.scores(thetas)]

    def slopes(self, thetas, gradients, step):
        return gradients

    def project(self, thetas):
        # After the update, a weight may be as close to the threshold as it likes.
        scores = np.concatenate([s.ravel() for s in self.scores(thetas)])
        self.near(scores - self.state["threshold"][0], scores.mean())


class Feather(Threshold):
    """Glentis Georgoulakis et al. 2023: `sign(w) (|w|^3 - t^3)^(1/3)`."""

    def weights(self, thetas):
        cube = max(self.state["threshold"][0], 0.0) ** 3
        return [
            np.where(kept, np.sign(w) * np.cbrt(np.abs(w) ** 3 - cube), 0.0)
            for w, kept in zip(thetas, self.kept(thetas), strict=True)
        ]

    def deployed(self, thetas):
        return [w * kept for w, kept in zip(thetas, self.kept(thetas), strict=True)]

    def slopes(self, thetas, gradients, step):
        scale = self.technique.masked_gradient
        return [
            np.where(kept, g, scale * g)
            for g, kept in zip(gradients, self.kept(thetas), strict=True)
        ]


class ST3(Threshold):
    """Vanderschueren & De Vleeschouwer 2023: soft, and scaled back by channel."""

    def scales(self, thetas):
        by_fan = self.technique.by_fan
        return [math.sqrt(sum(w.shape)) if by_fan else 1.0 for w in thetas]

    def weights(self, thetas):
        used = []
        for w, kept, scale in zip(
            thetas, self.kept(thetas), self.scales(thetas), strict=True
        ):
            threshold = max(self.state["threshold"][0], 0.0) / scale
            mean = np.mean(np.abs(w), axis=0) + 1e-6
            share = (np.mean(np.abs(w) * kept, axis=0) + 1e-6) / mean
            soft = np.sign(w) * np.maximum(np.abs(w) - threshold, 0.0)
            used.append(soft * kept * 1.01 / (share + 0.01))
        return used


class STR(Rule):
    """Kusupati et al. 2020: `sign(w) max(|w| - sigmoid(s), 0)`, s trained by layer."""

    def __init__(self, technique, masks):
        super().__init__(technique, masks)
        self.trained = [np.array(technique.threshold_init) for _ in masks]
        self.state["s"] = self.trained

    def _thresholds(self):
        return [1.0 / (1.0 + np.exp(-s)) for s in self.trained]

    def kept(self, thetas):
        return [np.abs(w) > t for w, t in zip(thetas, self._thresholds(), strict=True)]

    def weights(self, thetas):
        return [
            np.sign(w) * np.maximum(np.abs(w) - t, 0.0)
            for w, t in zip(thetas, self._thresholds(), strict=True)
        ]

    def penalty(self):
        return sum(self.technique.weight_decay * s**2 / 2.0 for s in self.trained)

    def slopes(self, thetas, gradients, step):
        passed = [g * k for g, k in zip(gradients, self.kept(thetas), strict=True)]
        by_s = []
        for g, w, t, s in zip(
            passed, thetas, self._thresholds(), self.trained, strict=True
        ):
            self.near(np.abs(w) - t, np.abs(w).mean())
            by_s.append(
                -np.sum(g * np.sign(w)) * t * (1.0 - t)
                + self.technique.weight_decay * s
            )
        return [*passed, *by_s]


class ACDC(Pruning):
    """Peste et al. 2021: the largest of the model, and then all of them, by turns."""

    def renew(self, thetas, step):
        steps = (self.technique.dense_steps, *self.technique.phases)
        if step in steps[::2]:
            self.mask(self.scores(thetas), self.technique.sparsity)
        elif step in steps:
            self.masks = [np.ones_like(mask) for mask in self.masks]

    def project(self, thetas):
        for theta, mask in zip(thetas, self.masks, strict=True):
            theta *= mask


class Spartan(Rule):
    """Tai et al. 2022, algorithm 1: soft masks that sum up to what is to stay."""

    def __init__(self, technique, masks):
        super().__init__(technique, masks)
        self.state["mu"] = [0.0] * len(masks)

    def _beta(self, step):
        t = self.technique
        share = min(step / t.fixed_step, 1.0)
        return t.initial_beta + (t.final_beta - t.initial_beta) * share

    def renew(self, thetas, step):
        t = self.technique
        if step > t.fixed_step:
            return
        sizes = [np.abs(theta) for theta in thetas]
        values = np.concatenate([size.ravel() for size in sizes])
        zeros = round(t.sparsity * min(step / t.end_step, 1.0) * values.size)
        self.note(values, zeros)
        mu = self._mu(values, self._beta(step), values.size - zeros)
        hard = without_lowest_of_all(sizes, zeros)
        soft = self._soft(sizes, mu, self._beta(step))
        self.masks = [h * s for h, s in zip(hard, soft, strict=True)]
        self.state["mu"] = [mu] * len(thetas)

    @staticmethod
    def _soft(sizes, mu, beta):
        return [1.0 / (1.0 + np.exp(-beta * (size - mu))) for size in sizes]

    def _mu(self, values, beta, total):
        low, high = -20.0, 20.0
        for _ in range(200):
            mu = (low + high) / 2.0
            above = sum(self._soft(values, mu, beta)) > total
            low, high = (mu, high) if above else (low, mu)
        return mu

    def slopes(self, thetas, gradients, step):
        if step > self.technique.fixed_step:
            return super().slopes(thetas, gradients, step)
        beta, sizes = self._beta(step), [np.abs(theta) for theta in thetas]
        return [
            g * (m + beta * size * m * (1.0 - m))
            for g, size, m in zip(
                gradients,
                sizes,
                self._soft(sizes, self.state["mu"][0], beta),
                strict=True,
            )
        ]


class SRSTE(Rule):
    """Zhou et al. 2021, equation 9, in groups down each column of a matrix."""

    def kept(self, thetas):
        m, n = self.technique.sparsity_m_by_n
        kept = []
        for theta in thetas:
            groups = np.abs(theta).T.reshape(-1, n)
            for group in groups:
                self.note(group, m)
            masks = np.array([without_lowest(group, m) for group in groups])
            kept.append(masks.reshape(theta.T.shape).T != 0.0)
        return kept

    def weights(self, thetas):
        return [w * kept for w, kept in zip(thetas, self.kept(thetas), strict=True)]

    def slopes(self, thetas, gradients, step):
        decay = self.technique.decay
        return [
            g + decay * np.where(kept, 0.0, w)
            for g, w, kept in zip(gradients, thetas, self.kept(thetas), strict=True)
        ]


class Powered:
    """Schwarz et al. 2021: another rule, of weights `theta |theta|^(alpha - 1)`."""

    def __init__(self, technique, masks):
        self._alpha = technique.alpha
        rules = {"MagnitudePruning": Pruning, "ST3": ST3}
        self._rule = rules[type(technique.base).__name__](technique.base, masks)

    def __getattr__(self, name):
        return getattr(self._rule, name)

    def initial(self, weights):
        return [np.sign(w) * np.abs(w) ** (1.0 / self._alpha) for w in weights]

    def _powers(self, thetas):
        return [np.sign(t) * np.abs(t) ** self._alpha for t in thetas]

    def renew(self, thetas, step):
        self._rule.renew(self._powers(thetas), step)

    def weights(self, thetas):
        return self._rule.weights(self._powers(thetas))

    def deployed(self, thetas):
        return self._rule.deployed(self._powers(thetas))

    def kept(self, thetas):
        return self._rule.kept(self._powers(thetas))

    def project(self, thetas):
        self._rule.project(self._powers(thetas))

    def slopes(self, thetas, gradients, step):
        slopes = self._rule.slopes(self._powers(thetas), gradients, step)
        return [
            s * self._alpha * np.abs(t) ** (self._alpha - 1.0)
            for s, t in zip(slopes, thetas, strict=True)
        ]
