"""One-shot pruning: a trained model becomes sparse without training."""

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from state_of_sparsity import masks
from state_of_sparsity.budgets import OWL, Budget
from state_of_sparsity.calibration import batches_of, visit
from state_of_sparsity.engines import engine_of
from state_of_sparsity.engines.matrices import LinearMap
from state_of_sparsity.layer_budgets import pruned
from state_of_sparsity.least_squares import damped, refitted
from state_of_sparsity.planning import planned
from state_of_sparsity.techniques import FixedMask, Technique, Wanda
from state_of_sparsity.techniques.calibrated import CalibratedTechnique
from state_of_sparsity.techniques.pruning import ScoringTechnique

_DAMPING = 0.01


def one_shot(
    model,
    technique: Technique,
    data=None,
    budget: Budget | None = None,
    overrides: dict[str, Technique | float | None] | None = None,
    *,
    refit: bool = True,
    sequential: bool = True,
    batch_size: int = 32,
):
    """A sparse copy of a trained model, with masks that stay as they are.

    It can be fine-tuned, in which its zeros stay, stripped and exported. Weights go by
    the magnitude or at random (`sos.MagnitudePruning`, `sos.RandomPruning`, whose
    schedule does not count), or by what the layers are given for some data: `sos.Wanda`
    and `sos.SparseGPT`, of Dense and EinsumDense layers and of convolutions by what
    they see at each position. Embeddings, recurrent layers and whatever else computes
    in its own way go by magnitude.

    Layers are pruned one after the other, each by inputs that come from what is pruned
    already. A functional model is run once, layer by layer, and holds the activations
    of one of its layers at a time; a subclassed one is run anew for each.

    Examples:
      >>> sparse = sos.one_shot(model, sos.SparseGPT(0.5), data=token_batches)
      >>> sparse = sos.one_shot(model, sos.Wanda(0.5, sparsity_m_by_n=(2, 4)), x)

    Args:
      model: a built, trained model.
      technique: by which weights go, and its sparsity.
      data: examples of inputs: arrays, or an iterable of batches. A few hundred do; of
        text, whole sequences without padding.
      budget: as of `sos.sparsify`; also `sos.OWL`.
      overrides: as of `sos.sparsify`.
      refit: with data, whether weights that stay are solved for anew, so that the
        outputs of each layer are closest to those of its dense weights.
      sequential: whether layers are given what pruned ones before them give, or what
        dense ones do.
      batch_size: of `data` that is arrays.

    Raises:
      TypeError, ValueError: as `sos.sparsify`, for data that is missing or not finite.

    Warns:
      UserWarning: as `sos.sparsify`; naming layers that go by magnitude instead, those
        that had fewer inputs than it takes, and those whose damping had to be raised.
    """
    engine = engine_of(model)
    measured = dataclasses.replace(budget, outliers={}) if _is_open(budget) else budget
    plan = planned(engine, model, technique, overrides, measured)
    _check(plan, data, budget)
    fixed = {key: (index, FixedMask()) for key, (index, _) in plan.items()}
    sparse = engine.sparsify(model, fixed)
    batches = [] if data is None else batches_of(data, batch_size)
    pruner = _Pruner(engine, sparse, batches)

    def weights():
        chosen = {
            site.path: plan[id(site.layer)][1]
            for site in engine.sites(model)
            if id(site.layer) in plan
        }
        return list(_weights(engine, sparse, chosen))

    if _is_open(budget):
        outliers = pruner.outliers(budget, weights())
        budget = dataclasses.replace(budget, outliers=outliers)
        plan = planned(engine, model, technique, overrides, budget)
    pruner.prune(weights(), refit and data is not None, sequential)
    return sparse


def _is_open(budget):
    return isinstance(budget, OWL) and budget.outliers is None


def _check(plan, data, budget):
    for _, technique in plan.values():
        if isinstance(technique, CalibratedTechnique) or isinstance(budget, OWL):
            if data is None:
                what = technique if not isinstance(budget, OWL) else budget
                raise ValueError(
                    f"{type(what).__name__} needs examples of inputs: pass data=, "
                    "arrays or batches of what the model is called on."
                )
        elif not isinstance(technique, ScoringTechnique) or technique.has_own(
            "backward"
        ):
            raise ValueError(
                f"{type(technique).__name__} cannot prune in one shot, since it takes "
                "training: call sos.sparsify. Received: "
                f"technique={technique!r}"
            )


@dataclasses.dataclass(frozen=True)
class _Weight:
    """A weight of the sparse copy to prune.

    Attributes:
      site: that it is of.
      attribute: its name within the layer.
      technique: by which it goes.
      stream: as of `Place`, for random scores.
      map: what the layer multiplies with it; None where that is not known.
    """

    site: Any
    attribute: str
    technique: Technique
    stream: tuple[int, int]
    map: LinearMap | None

    @property
    def name(self):
        return f"{self.site.path}/{self.attribute}"


def _weights(engine, sparse, chosen):
    """The weights to prune, of layers that have a technique by their path."""
    for index, site in enumerate(engine.sites(sparse)):
        if site.path not in chosen:
            continue
        maps, technique = engine.linear_maps(site.layer), chosen[site.path]
        for position, name in enumerate(pruned(technique, site)):
            stream = index, position
            yield _Weight(site, name, technique, stream, maps.get(name))


class _Pruner:
    """Prunes the weights of a sparse copy, whose masks are all true before.

    Args:
      engine: of the model.
      sparse: the copy.
      batches: of inputs; none to go by the weights alone.
    """

    def __init__(self, engine, sparse, batches):
        self._engine, self._sparse = engine, sparse
        self._calls = [((batch,), {}) for batch in batches]

    def outliers(self, budget: OWL, weights) -> dict[str, float]:
        """The share of outliers of each layer whose map is known."""
        found = {}

        def measure(weight, gram, count):
            del count
            matrices = weight.map.matrices(self._value(weight))
            scores = _scores(Wanda(0.5), matrices, gram)
            found[weight.site.path] = (scores > budget.multiple * scores.mean()).mean()

        self._visit(weights, False, measure)
        return found

    def prune(self, weights, refit: bool, sequential: bool) -> None:
        zeros, done = self._zeros(weights), set()
        warned = _Warnings()
        later: list[Callable[[], None]] = []

        def prune(weight, gram, count):
            done.add(weight.name)
            value, mask = self._pruned(
                weight, gram, count, zeros[weight.name], refit, warned
            )
            assign = functools.partial(self._assign, weight, value, mask)
            assign() if sequential else later.append(assign)

        by_data = [
            weight
            for weight in weights
            if weight.map is not None and (refit or _is_calibrated(weight))
        ]
        for weight in weights:
            if weight not in by_data:
                self._by_itself(weight, zeros[weight.name], warned)
        if by_data:
            needs_gram = refit or any(w.technique.needs_gram for w in by_data)
            self._visit(by_data, needs_gram, prune)
        for assign in later:
            assign()
        for weight in by_data:
            if weight.name not in done:
                self._by_itself(weight, zeros[weight.name], warned)
        warned.give()

    def _visit(self, weights, needs_gram, use):
        """Has `use` see each weight, the Gram matrix of its inputs, their number."""
        waiting = {id(w.site.layer): w for w in weights if w.map is not None}

        def waits(part):
            return any(id(layer) in waiting for layer in self._engine.layers(part))

        def see(part, calls):
            inside = {id(layer) for layer in self._engine.layers(part)}
            here = {key: waiting[key] for key in inside & waiting.keys()}
            maps = {key: (w.site.layer, w.map) for key, w in here.items()}
            visit(
                part,
                calls,
                maps,
                needs_gram,
                lambda layer, gram, count: use(here[id(layer)], gram, count),
            )
            for key in here:
                del waiting[key]

        self._engine.run_in_parts(self._sparse, self._calls, waits, see)

    def _zeros(self, weights) -> dict[str, int]:
        """How many units of each weight go."""
        shapes = {w.name: self._value(w).shape for w in weights}
        zeros = {
            w.name: masks.zero_count(w.technique.sparsity, *units)
            for w in weights
            for units in w.technique.units([shapes[w.name]])
        }
        sharing = [w for w in weights if w.technique.shared_threshold is not None]
        if sharing:
            scores = self._all_scores(sharing)
            sizes = [w.technique.units_of(shapes[w.name]) for w in sharing]
            count = masks.zero_count(
                sharing[0].technique.sparsity, sum(sizes), len(sizes)
            )
            units = [
                w.technique.pattern.unit_scores(
                    keras.ops.convert_to_tensor(scores[w.name])
                )
                for w in sharing
            ]
            counts = masks.lowest_by_tensor(units, count)
            counts = keras.ops.convert_to_numpy(counts)
            zeros |= dict(zip([w.name for w in sharing], map(int, counts), strict=True))
        return zeros

    def _all_scores(self, weights):
        """What one threshold compares, by weight."""
        found = {w.name: self._own_scores(w) for w in weights if not _is_calibrated(w)}
        calibrated = [w for w in weights if _is_calibrated(w)]

        def measure(weight, gram, count):
            del count
            if weight.technique.needs_gram:
                gram = np.stack([damped(g, weight.technique.damping)[0] for g in gram])
            matrices = weight.map.matrices(self._value(weight))
            scores = _scores(weight.technique, matrices, gram)
            found[weight.name] = scores.astype("float32")

        if calibrated:
            needs_gram = any(w.technique.needs_gram for w in calibrated)
            self._visit(calibrated, needs_gram, measure)
        missing = [w.name for w in weights if w.name not in found]
        if missing:
            raise ValueError(
                "One threshold compares scores of one kind, and these weights have "
                f"none by what their layers are given: {missing}. Give another "
                "budget, or leave them dense with an override of None."
            )
        return found

    def _pruned(self, weight, gram, count, zeros, refit, warned):
        """The value of a weight after it was pruned, and its mask."""
        dense = self._value(weight)
        if not np.isfinite(gram).all():
            raise ValueError(
                f"Layer {weight.site.path!r} is given what is not finite: "
                "check the model and the data."
            )
        if gram.ndim == 3 and count < gram.shape[1]:
            warned.short.append(f"{weight.site.path} ({count} of {gram.shape[1]})")
        matrices = weight.map.matrices(dense)
        grams, diagonals = gram, gram
        if gram.ndim == 3:
            damping = getattr(weight.technique, "damping", _DAMPING)
            pairs = [damped(each, damping) for each in gram]
            grams = [each for each, _ in pairs]
            diagonals = [np.diag(each) for each in gram]
            if max(used for _, used in pairs) > damping:
                warned.raised.append(weight.site.path)
        if _is_calibrated(weight):
            given = grams if weight.technique.needs_gram else diagonals
            results = []
            for place, matrix in enumerate(matrices):
                share = _share(zeros, place, len(matrices))
                # Of inputs that are always 0, no weight counts.
                matrix = np.where(diagonals[place][:, None] > 0, matrix, 0.0)
                results.append(weight.technique.pruned(matrix, given[place], share))
            values, kept = map(np.stack, zip(*results, strict=True))
        else:
            mask = self._own_mask(weight, zeros)
            values, kept = matrices, weight.map.matrices(mask) > 0
        if refit:
            groups = zip(matrices, values, kept, grams, strict=True)
            values = np.stack([refitted(*group) for group in groups])
        values = weight.map.kernel(values * kept, dense.shape)
        return values.astype(dense.dtype), weight.map.kernel(kept, dense.shape)

    def _by_itself(self, weight, zeros, warned):
        if _is_calibrated(weight):
            warned.by_magnitude.append(weight.name)
        mask = self._own_mask(weight, zeros)
        self._assign(weight, self._value(weight) * mask, mask)

    def _own_mask(self, weight, zeros):
        """The mask by what the weight itself says."""
        mask = weight.technique.pattern.mask(self._own_scores(weight), zeros)
        return keras.ops.convert_to_numpy(mask)

    def _own_scores(self, weight):
        value = keras.ops.convert_to_tensor(self._value(weight), "float32")
        if _is_calibrated(weight):
            return keras.ops.abs(value)
        return weight.technique.score(value, {}, weight.stream)

    def _value(self, weight):
        return self._engine.to_numpy(weight.site.weights[weight.attribute])

    def _assign(self, weight, value, mask):
        self._engine.set_masked(weight.site.layer, weight.attribute, value, mask)


@dataclasses.dataclass
class _Warnings:
    """What there is to say of layers, once all are pruned."""

    by_magnitude: list[str] = dataclasses.field(default_factory=list)
    short: list[str] = dataclasses.field(default_factory=list)
    raised: list[str] = dataclasses.field(default_factory=list)

    def give(self):
        texts = {
            "These weights go by magnitude, since nothing says what they are "
            "multiplied with, or no batch reaches them": self.by_magnitude,
            "These layers had fewer inputs than an input has values, and the damping "
            "makes up the rest: give more data": self.short,
            "The damping of these layers was raised until their Gram matrix was "
            "positive definite": self.raised,
        }
        for text, names in texts.items():
            if names:
                warnings.warn(f"{text}: {', '.join(names)}", stacklevel=4)


def _is_calibrated(weight):
    return isinstance(weight.technique, CalibratedTechnique)


def _scores(technique, matrices, gram):
    pairs = zip(matrices, gram, strict=True)
    return np.stack([technique.scores(matrix, each) for matrix, each in pairs])


def _share(total, place, number):
    """Of a total, what the group at a place gets."""
    return round(total * (place + 1) / number) - round(total * place / number)
