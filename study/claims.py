"""The paper's claims, and what the runs of the study say of each."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from scipy import stats

from study.contenders import AT_INITIALIZATION, CONTENDERS
from study.plan import RANDOM_MASKS
from study.results import Outcome, Results

# A model that is less sparse was not made sparse.
DENSE_BELOW = 0.01
# Probability of a verdict on a dataset where there is nothing, from which on there is
# said to be something. Three seeds against three can come no lower at one point.
LEVEL = 0.05
MOST_CHANCE = 0.95


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two experiments at one point.

    Attributes:
      where: the point, in words.
      first: quality of the seeds of one.
      second: quality of the seeds of the other.
    """

    where: str
    first: Sequence[float]
    second: Sequence[float]

    @property
    def difference(self) -> float:
        """Of the medians."""
        return float(np.median(self.first) - np.median(self.second))

    @property
    def is_clear(self) -> bool:
        """Whether all seeds of one are better than all of the other."""
        return min(self.first) > max(self.second) or max(self.first) < min(self.second)

    def turned(self) -> "Comparison":
        return Comparison(self.where, self.second, self.first)

    def chance(self, alternative: str) -> float:
        """The one-sided probability of so large a difference if there is none.

        Args:
          alternative: "greater" if the first is thought to be better, or "less".
        """
        return stats.mannwhitneyu(
            self.first, self.second, alternative=alternative
        ).pvalue


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What a claim came to on a dataset.

    Attributes:
      holds: "yes", "no", "partly", "not seen", or "-" where it was not tried.
      figures: what that rests on, in words.
    """

    holds: str
    figures: str = ""


NOT_TRIED = Judgement("-")


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim of the paper, or what is expected of later techniques.

    Attributes:
      text: the claim.
      judge: gives a judgement of the results of a dataset.
      of: "images", "translation", or both.
    """

    text: str
    judge: Callable[[Results], Judgement]
    of: tuple[str, ...] = ("images", "translation")


def pooled_chance(comparisons: Iterable[Comparison], alternative: str) -> float:
    """The one-sided probability of the differences at all points if there are none.

    That of Mann and Whitney's test at each point, combined by Stouffer's method.

    Args:
      comparisons: at the points.
      alternative: see `Comparison.chance`.
    """
    chances = [comparison.chance(alternative) for comparison in comparisons]
    # A chance of 1 would outweigh all others.
    return stats.combine_pvalues(
        np.clip(chances, 0, MOST_CHANCE), method="stouffer"
    ).pvalue


def is_better(comparisons: Sequence[Comparison]) -> Judgement:
    """Whether the first experiment is better than the second."""
    if not comparisons:
        return NOT_TRIED
    better, worse = (pooled_chance(comparisons, side) for side in ("greater", "less"))
    against = any(c.is_clear and c.difference < 0 for c in comparisons)
    if better <= LEVEL:
        return Judgement("partly" if against else "yes", _figures(comparisons))
    return Judgement("no" if worse <= LEVEL else "not seen", _figures(comparisons))


def is_not_worse(comparisons: Sequence[Comparison]) -> Judgement:
    """Whether the first experiment is as good as the second, or better."""
    if not comparisons:
        return NOT_TRIED
    against = any(c.is_clear and c.difference < 0 for c in comparisons)
    holds = "partly" if against else "yes"
    if pooled_chance(comparisons, "less") <= LEVEL:
        in_favour = any(c.is_clear and c.difference > 0 for c in comparisons)
        holds = "partly" if in_favour else "no"
    return Judgement(holds, _figures(comparisons))


def is_no_different(comparisons: Sequence[Comparison]) -> Judgement:
    """Whether neither experiment is better than the other."""
    if not comparisons:
        return NOT_TRIED
    # Either side may be the better one.
    chance = 2 * min(pooled_chance(comparisons, side) for side in ("greater", "less"))
    return Judgement("no" if chance <= LEVEL else "yes", _figures(comparisons))


def grows(comparisons: Sequence[Comparison]) -> Judgement:
    """Whether the difference grows with sparsity: its rank correlation with it."""
    if len(comparisons) < 3:
        return NOT_TRIED
    differences = [comparison.difference for comparison in comparisons]
    correlation = stats.spearmanr(range(len(differences)), differences).statistic
    holds = "yes" if correlation > 0.5 else "no" if correlation < 0 else "partly"
    return Judgement(holds, f"rank correlation {correlation:.2f}")


def _figures(comparisons):
    """The differences by point; bold where all seeds agree."""
    shown = []
    for comparison in comparisons:
        mark = "**" if comparison.is_clear else ""
        shown.append(f"{comparison.where} {mark}{comparison.difference:+.2f}{mark}")
    return ", ".join(shown)


def at_targets(
    results: Results, first: str, second: str, low: float = 0.0
) -> list[Comparison]:
    """Comparisons of two experiments at the points where both were run.

    Args:
      results: of a dataset.
      first, second: experiments.
      low: only from this point on.
    """
    if first not in results or second not in results:
        return []
    there = {p.at: p for p in results[second]}
    return [
        Comparison(_where(p), p.qualities, there[p.at].qualities)
        for p in results[first]
        if p.at in there and p.at >= low
    ]


def at_sparsities(
    results: Results, pruning: str, learned: str, low: float = 0.0, high: float = 1.0
) -> list[Comparison]:
    """Comparisons of pruning with a learned technique, at the sparsities of the latter.

    What the latter has left dense is not compared.

    Args:
      results: of a dataset.
      pruning: experiment, whose quality there is that between its points.
      learned: experiment.
      low: only from this sparsity on.
      high: only up to this sparsity.
    """
    low, found = max(low, DENSE_BELOW), []
    for point in results[learned]:
        there = results.qualities_at(pruning, point.sparsity)
        if there is not None and low <= point.sparsity <= high:
            found.append(Comparison(_where(point), there, point.qualities))
    return found


def at_flops(results: Results, single: str, structured: str) -> list[Comparison]:
    """Comparisons of single weights with more at a time, at the FLOPs of the latter.

    Args:
      results: of a dataset.
      single: experiment, whose quality there is that between its points.
      structured: experiment, whose FLOPs are those of its smaller models.
    """
    if single not in results or structured not in results:
        return []
    return [
        Comparison(f"FLOPs {_percent(point.flops_share)}", there, point.qualities)
        for point in results[structured]
        if (there := results.qualities_at_flops(single, point.flops_share)) is not None
    ]


def _where(outcome):
    return _percent(outcome.sparsity)


def _percent(share):
    # With a space that no line is broken at.
    return f"{100 * share:.3g}\N{NO-BREAK SPACE}%"


def is_spared(results: Results, experiment: str) -> Judgement:
    """Whether the first and the last layer stay denser than the whole."""
    spared, shown = [], []
    for point in results[experiment]:
        # Where nearly nothing or everything is gone, layers cannot differ.
        if 0.3 <= point.sparsity <= 0.99:
            first, last = first_and_last(point)
            spared += [first < point.sparsity, last < point.sparsity]
            shares = (100 * first, 100 * last)
            shown.append("{}: {:.3g} and {:.3g}".format(_where(point), *shares))
    if not spared:
        return NOT_TRIED
    share = sum(spared) / len(spared)
    holds = "yes" if share > 0.75 else "no" if share < 0.25 else "partly"
    figures = "sparsity of the first and the last layer at " + "; ".join(shown)
    return Judgement(holds, figures)


def first_and_last(outcome: Outcome) -> tuple[float, float]:
    """Sparsity of the first and the last tensor that could be made sparse."""
    values = list(outcome.layers.values())
    return values[0], values[-1]


def _targets(judge, first, second, **limits):
    return lambda results: judge(at_targets(results, first, second, **limits))


def _over_random_masks(experiment):
    return _targets(is_better, experiment, RANDOM_MASKS[experiment])


def _turned(judge, first, second):
    """For what was run at the points of the second."""
    return lambda results: judge(
        [c.turned() for c in at_targets(results, second, first)]
    )


def _learned(judge, learned, **limits):
    return lambda results: judge(at_sparsities(results, "magnitude", learned, **limits))


def _flops(judge, single, structured):
    return lambda results: judge(at_flops(results, single, structured))


def _l0_ahead(results):
    found = at_sparsities(results, "magnitude", "l0", high=0.7)
    return is_better([comparison.turned() for comparison in found])


_IMAGES, _TRANSLATION = ("images",), ("translation",)
_BEST, _GLOBAL = ("feather", "st3"), "global"
# Single weights, and whole channels.
_AT_EQUAL_FLOPS = (
    *(("magnitude", "channels"), (_GLOBAL, "channels"), ("st3", "channels")),
    (_GLOBAL, "lasso"),
)
CLAIMS = (
    Claim(
        "Magnitude pruning is comparable to variational dropout, or better",
        _learned(is_not_worse, "vd"),
    ),
    Claim(
        "Magnitude pruning is comparable to L0 regularization, or better",
        _learned(is_not_worse, "l0"),
    ),
    Claim(
        "On the Transformer, L0 regularization is ahead at low sparsity (to 70 %)",
        _l0_ahead,
        _TRANSLATION,
    ),
    Claim(
        "On the Transformer, magnitude pruning is ahead of L0 at high sparsity",
        _learned(is_better, "l0", low=0.7),
        _TRANSLATION,
    ),
    Claim(
        "Random pruning is worse than magnitude pruning",
        _targets(is_better, "magnitude", "random"),
    ),
    Claim("and the gap grows with sparsity", _targets(grows, "magnitude", "random")),
    Claim(
        "Random pruning with variational dropout's layers is worse than that",
        _turned(is_better, "vd", "random_vd"),
    ),
    Claim(
        "Random pruning with L0's layers is worse than that",
        _turned(is_better, "l0", "random_l0"),
    ),
    Claim(
        "Leaving the first layer dense helps magnitude pruning",
        _targets(is_better, "first_dense", "magnitude"),
    ),
    Claim(
        "Variational dropout spares the first and the last layer",
        functools.partial(is_spared, experiment="vd"),
        _IMAGES,
    ),
    Claim(
        "L0 regularization spares the first and the last layer",
        functools.partial(is_spared, experiment="l0"),
        _IMAGES,
    ),
    Claim(
        "A network that was found, trained alone from fresh values, stays below the "
        "pruned one (scratch-e)",
        _targets(is_better, "magnitude", "scratch_e"),
    ),
    Claim(
        "and does so with twice the steps (scratch-b)",
        _targets(is_better, "magnitude", "scratch_b"),
    ),
    Claim(
        "and from the values that it began with (lottery ticket)",
        _targets(is_better, "magnitude", "lottery"),
    ),
    Claim(
        "On images, a lottery ticket is about as good as scratch-e",
        _targets(is_no_different, "lottery", "scratch_e"),
        _IMAGES,
    ),
    Claim(
        "On the Transformer, a lottery ticket is ahead of scratch-e",
        _targets(is_better, "lottery", "scratch_e"),
        _TRANSLATION,
    ),
    Claim(
        "Augmented initial values do not help (scratch-e)",
        _targets(is_not_worse, "scratch_e", "scratch_e_augmented"),
    ),
    Claim(
        "Augmented initial values do not help (scratch-b)",
        _targets(is_not_worse, "scratch_b", "scratch_b_augmented"),
    ),
    Claim(
        "Beyond the paper: the mask matters, not only how much of each layer it keeps "
        "(scratch-e against shuffled masks)",
        _targets(is_better, "scratch_e", "shuffled"),
    ),
    *(
        Claim(
            "Beyond the paper: at equal FLOPs, single weights are ahead of whole "
            f"channels ({CONTENDERS[single].title}; {CONTENDERS[structured].title})",
            _flops(is_better, single, structured),
        )
        for single, structured in _AT_EQUAL_FLOPS
    ),
    *(
        Claim(
            f"Later: {CONTENDERS[name].title} is better than magnitude pruning with "
            "one threshold",
            _targets(is_better, name, _GLOBAL),
        )
        for name in _BEST
    ),
    Claim(
        "Later: AC/DC is comparable to magnitude pruning with one threshold from 95 % "
        "on, or better",
        _targets(is_not_worse, "acdc", _GLOBAL, low=0.95),
    ),
    Claim(
        "Later: RigL is comparable to magnitude pruning, layer by layer",
        _targets(is_no_different, "rigl", "magnitude"),
    ),
    *(
        Claim(
            f"Later: {CONTENDERS[name].title} is better than random masks with as many "
            "weights in each layer",
            _over_random_masks(name),
        )
        for name in (*_BEST, "acdc", "rigl", "set")
    ),
    *(
        Claim(
            "Later: magnitude pruning with one threshold is better than "
            f"{CONTENDERS[name].title}",
            _targets(is_better, _GLOBAL, name),
        )
        for name in AT_INITIALIZATION
    ),
    *(
        Claim(
            f"Later: {CONTENDERS[name].title} is no worse with masks that are shuffled "
            "within each layer",
            _targets(is_not_worse, RANDOM_MASKS[name], name),
        )
        for name in AT_INITIALIZATION
    ),
)


def judge(results: Mapping[str, Results]) -> dict[Claim, dict[str, Judgement]]:
    """What each claim came to on each dataset.

    Args:
      results: by dataset.
    """
    return {
        claim: {
            lab: claim.judge(r) if _kind(r) in claim.of else NOT_TRIED
            for lab, r in results.items()
        }
        for claim in CLAIMS
    }


def _kind(results):
    return "translation" if results.metric == "bleu" else "images"
