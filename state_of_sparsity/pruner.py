"""Pruning of trained weights, layer after layer, by what the layers are given."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence

import keras
import numpy as np

from state_of_sparsity.budgets import OWL
from state_of_sparsity.calibration import visit
from state_of_sparsity.least_squares import damped, refitted
from state_of_sparsity.techniques import Wanda
from state_of_sparsity.techniques.calibrated import CalibratedTechnique
from state_of_sparsity.weights_to_prune import Weight, going_by_name

# Of those that refit after a technique which has none of its own.
_DAMPING = 0.01


class Pruner:
    """Prunes the weights of a sparse copy, whose masks are all true before.

    Args:
      engine: of the model.
      sparse: the copy.
      batches: of inputs; none to go by the weights alone.
    """

    def __init__(self, engine, sparse, batches: Sequence):
        self._engine, self._sparse = engine, sparse
        self._calls = [((batch,), {}) for batch in batches]
        self._said = _Said()

    def outliers(self, budget: OWL, weights: Sequence[Weight]) -> dict[str, float]:
        """The share of outliers of each layer whose map is known."""
        found = {}

        def measure(weight, gram, count):
            del count
            scores = _scores(Wanda(0.5), weight, gram)
            found[weight.site.path] = (scores > budget.multiple * scores.mean()).mean()

        self._visit(weights, False, measure)
        return found

    def prune(self, weights: Sequence[Weight], refit: bool, sequential: bool) -> None:
        """Gives each weight its mask, and what is left of it.

        Args:
          weights: to prune.
          refit: whether to solve for those that stay anew.
          sequential: whether layers see what pruned ones before them give.

        Warns:
          UserWarning: as `sos.one_shot`.
        """
        sharing = [w for w in weights if w.technique.companions is not None]
        going = going_by_name(weights, self._shared_scores(sharing))
        by_data = {
            weight.name: weight
            for weight in weights
            if weight.map is not None and (refit or _is_calibrated(weight))
        }
        for weight in weights:
            if weight.name not in by_data:
                self._by_itself(weight, going[weight.name])
        later: list[Callable[[], None]] = []

        def prune(weight, gram, count):
            del by_data[weight.name]
            inputs = self._inputs(weight, gram, count)
            pruned = _pruned(weight, inputs, going[weight.name], refit)
            later.append(functools.partial(weight.assign, *pruned))
            if sequential:
                later.pop()()

        needs_gram = refit or any(w.technique.needs_gram for w in by_data.values())
        self._visit(list(by_data.values()), needs_gram, prune)
        for assign in later:
            assign()
        # What no batch has reached.
        for weight in by_data.values():
            self._by_itself(weight, going[weight.name])
        self._said.warn()

    def _visit(self, weights, needs_gram, use):
        """Has `use` see each weight, the Gram matrices of its inputs, their number."""
        waiting = {id(w.site.layer): w for w in weights if w.map is not None}

        def waits(part):
            return any(id(layer) in waiting for layer in self._engine.layers(part))

        def see(part, calls):
            inside = {id(layer) for layer in self._engine.layers(part)}
            here = {key: waiting.pop(key) for key in inside & waiting.keys()}
            maps = {key: (w.site.layer, w.map) for key, w in here.items()}
            visit(
                part, calls, maps, needs_gram, lambda x, *gram: use(here[id(x)], *gram)
            )

        if waiting:
            self._engine.run_in_parts(self._sparse, self._calls, waits, see)

    def _inputs(self, weight, gram, count):
        """What is known of the inputs of a weight, group by group."""
        if not np.isfinite(gram).all():
            raise ValueError(
                f"Layer {weight.site.path!r} is given what is not finite: "
                "check the model and the data."
            )
        if gram.ndim == 2:
            return [_Inputs(strengths) for strengths in gram]
        if count < gram.shape[1]:
            self._said.short.append(f"{weight.site.path} ({count} of {gram.shape[1]})")
        damping = getattr(weight.technique, "damping", _DAMPING)
        found = [damped(each, damping) for each in gram]
        if any(used > damping for *_, used in found):
            self._said.damped.append(weight.site.path)
        return [
            _Inputs(np.diag(each), *matrices)
            for each, (*matrices, _) in zip(gram, found, strict=True)
        ]

    def _by_itself(self, weight, going):
        if _is_calibrated(weight):
            self._said.by_magnitude.append(weight.name)
        mask = weight.mask(_own_scores(weight), going)
        weight.assign(weight.value() * mask, mask)

    def _shared_scores(self, weights):
        """What is compared between weights, or is one score of several, by weight."""
        found = {w.name: _own_scores(w) for w in weights if not _is_calibrated(w)}

        def measure(weight, gram, count):
            inputs = self._inputs(weight, gram, count)
            given = [each.of(weight.technique) for each in inputs]
            found[weight.name] = _scores(weight.technique, weight, given)

        calibrated = [w for w in weights if _is_calibrated(w)]
        needs_gram = any(w.technique.needs_gram for w in calibrated)
        self._visit(calibrated, needs_gram, measure)
        self._said = _Said()
        missing = [w for w in weights if w.name not in found]
        names = [w.name for w in missing if w.technique.shared_threshold is not None]
        if names:
            raise ValueError(
                "One threshold compares scores of one kind, and these weights have "
                f"none by what their layers are given: {names}. Give another "
                "budget, or leave them dense with an override of None."
            )
        # Nor has one score of tied channels several kinds.
        patterns = {w.technique.pattern for w in missing}
        for weight in weights:
            if weight.technique.pattern in patterns:
                found[weight.name] = _own_scores(weight)
                self._said.by_magnitude.append(weight.name)
        return found


@dataclasses.dataclass(frozen=True)
class _Inputs:
    """Of the inputs of a map, the mean squares; maybe what `damped` gives for them."""

    strengths: np.ndarray
    gram: np.ndarray | None = None
    factor: np.ndarray | None = None

    def of(self, technique):
        return self.factor if technique.needs_gram else self.strengths


@dataclasses.dataclass
class _Said:
    """The names of layers of which there is something to say once all are pruned."""

    by_magnitude: list[str] = dataclasses.field(default_factory=list)
    short: list[str] = dataclasses.field(default_factory=list)
    damped: list[str] = dataclasses.field(default_factory=list)

    def warn(self):
        texts = {
            "These weights go by magnitude, since nothing says what they are "
            "multiplied with, or no batch reaches them": self.by_magnitude,
            "These layers had fewer inputs than an input has values, and the damping "
            "makes up the rest: give more data": self.short,
            "The damping of these layers was raised until their Gram matrix was "
            "positive definite": self.damped,
        }
        for text, names in texts.items():
            if names:
                warnings.warn(
                    f"{text}: {', '.join(dict.fromkeys(names))}", stacklevel=4
                )


def _is_calibrated(weight):
    return isinstance(weight.technique, CalibratedTechnique)


def _own_scores(weight):
    """By what the weight itself says."""
    value = keras.ops.convert_to_tensor(weight.value(), "float32")
    if _is_calibrated(weight):
        return keras.ops.abs(value)
    return weight.technique.score(value, {}, weight.stream)


def _scores(technique, weight, inputs):
    value = weight.value()
    pairs = zip(weight.map.matrices(value), inputs, strict=True)
    scores = np.stack([technique.scores(*pair) for pair in pairs])
    return weight.map.kernel(scores, value.shape)


def _seen(weight, inputs):
    """Scores of the weights of a map whose inputs are known."""
    if not _is_calibrated(weight):
        return _own_scores(weight)
    technique = weight.technique
    return _scores(technique, weight, [each.of(technique) for each in inputs])


def _pruned(weight, inputs, going, refit):
    """The value of a weight after it was pruned, and its mask."""
    dense = weight.value()
    matrices = weight.map.matrices(dense)
    if _is_calibrated(weight) and not weight.technique.goes_by_units:
        values, kept = _by_inputs(weight.technique, matrices, inputs, going)
    else:
        values = matrices
        kept = weight.map.matrices(weight.mask(_seen(weight, inputs), going)) > 0
    if refit:
        groups = zip(matrices, values, kept, (x.gram for x in inputs), strict=True)
        values = np.stack([refitted(*group) for group in groups])
    value = weight.map.kernel(values * kept, dense.shape).astype(dense.dtype)
    return value, weight.map.kernel(kept, dense.shape)


def _by_inputs(technique, matrices, inputs, zeros):
    results, number = [], len(matrices)
    for place, (matrix, given) in enumerate(zip(matrices, inputs, strict=True)):
        share = round(zeros * (place + 1) / number) - round(zeros * place / number)
        # Of inputs that are always 0, no weight counts.
        matrix = np.where(given.strengths[:, None] > 0, matrix, 0.0)
        results.append(technique.pruned(matrix, given.of(technique), share))
    return map(np.stack, zip(*results, strict=True))
