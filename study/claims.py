"""The paper's claims, and what the runs of the study say of each.

A difference at a point is called one only where the seeds' ranges do not overlap: with
three seeds on each side and no difference, that happens one time in ten by chance
(2 of the 20 orders of six numbers). So a claim is judged over all of its points.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from study.results import Outcome, Results

# With three seeds a side; see above.
CHANCE = "one time in ten"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two experiments at one point.

    Attributes:
      where: dataset and point, in words.
      first: quality of the seeds of one.
      second: quality of the seeds of the other.
    """

    where: str
    first: Sequence[float]
    second: Sequence[float]

    @property
    def difference(self) -> float:
        """Of the medians."""
        return _median(self.first) - _median(self.second)

    @property
    def sign(self) -> int:
        """1 or -1 if all seeds of one are better than all of the other, else 0."""
        if min(self.first) > max(self.second):
            return 1
        return -1 if max(self.first) < min(self.second) else 0


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a claim came to.

    Attributes:
      claim: of the paper.
      holds: "yes", "no", "partly" or "not seen".
      figures: what it rests on, in words.
    """

    claim: str
    holds: str
    figures: str


def _median(values):
    ordered = sorted(values)
    middle = len(ordered) // 2
    return (ordered[middle] + ordered[~middle]) / 2


def tally(comparisons: Iterable[Comparison], expected: int) -> tuple[str, str]:
    """Whether comparisons go as expected, and the figures.

    Args:
      comparisons: at different points.
      expected: 1 if the first should be better, 0 if there should be no difference.

    Returns:
      "yes" if most of them do and none goes the other way, "no" if none does,
      "not seen" if most of them show no difference where one is expected, and "partly"
      otherwise; and the differences, with those in bold that are clear.
    """
    comparisons = list(comparisons)
    if not comparisons:
        return "not seen", "no points to compare"
    signs = [c.sign for c in comparisons]
    as_expected = sum(sign == expected for sign in signs)
    against = (
        sum(sign == -1 for sign in signs) if expected else len(signs) - as_expected
    )
    if 2 * as_expected > len(signs) and not (expected and against):
        holds = "yes"
    elif expected and not against and 2 * signs.count(0) >= len(signs):
        holds = "not seen" if not as_expected else "partly"
    elif not as_expected:
        holds = "no"
    else:
        holds = "partly"
    shown = ", ".join(
        f"{c.where} {'**' * abs(c.sign)}{c.difference:+.2f}{'**' * abs(c.sign)}"
        for c in comparisons
    )
    return holds, shown


def at_targets(
    lab: str, results: Results, first: str, second: str, targets: Iterable[float] = ()
) -> list[Comparison]:
    """Comparisons of two experiments where both were run.

    Args:
      lab: name of the dataset.
      results: of it.
      first: experiment.
      second: experiment.
      targets: only at these target sparsities; all by default.
    """
    if first not in results or second not in results:
        return []
    there = {p.at: p for p in results[second]}
    targets = set(targets)
    return [
        Comparison(
            f"{lab} {100 * p.sparsity:.3g} %", p.qualities, there[p.at].qualities
        )
        for p in results[first]
        if p.at in there and (not targets or p.at in targets)
    ]


def at_sparsities(
    lab: str,
    results: Results,
    pruning: str,
    learned: str,
    wanted: Callable[[float], bool] = lambda sparsity: True,
) -> list[Comparison]:
    """Comparisons of pruning with a learned technique, at the sparsities of the latter.

    Args:
      lab: name of the dataset.
      results: of it.
      pruning: experiment, whose quality there is that between its points.
      learned: experiment.
      wanted: whether a sparsity counts.
    """
    found = []
    for point in results[learned]:
        there = results.qualities_at(pruning, point.sparsity)
        if there is not None and wanted(point.sparsity):
            where = f"{lab} {100 * point.sparsity:.3g} %"
            found.append(Comparison(where, there, point.qualities))
    return found


def judge(results: dict[str, Results]) -> list[Verdict]:
    """What each claim of the paper came to.

    Args:
      results: by dataset: mnist1d and digits of images, numbers of translation.
    """
    everywhere = results.items()
    images = [(lab, r) for lab, r in everywhere if r.metric != "bleu"]
    translation = [(lab, r) for lab, r in everywhere if r.metric == "bleu"]

    def verdict(claim, comparisons, expected=1):
        return Verdict(claim, *tally(comparisons, expected))

    def pruned(labs, first, second):
        return [c for lab, r in labs for c in at_targets(lab, r, first, second)]

    def learned(labs, first, second, wanted=lambda sparsity: True):
        return [
            c for lab, r in labs for c in at_sparsities(lab, r, first, second, wanted)
        ]

    return [
        _not_behind(
            "Magnitude pruning is comparable to or better than variational dropout",
            learned(everywhere, "magnitude", "vd"),
        ),
        _not_behind(
            "Magnitude pruning is comparable to or better than L0 regularization",
            learned(everywhere, "magnitude", "l0"),
        ),
        verdict(
            "On the Transformer, L0 regularization is ahead at low sparsity (to 70 %)",
            _turned(learned(translation, "magnitude", "l0", lambda s: s <= 0.7)),
        ),
        verdict(
            "On the Transformer, magnitude pruning is ahead of L0 at high sparsity",
            learned(translation, "magnitude", "l0", lambda s: s > 0.7),
        ),
        verdict(
            "Random pruning is worse than magnitude pruning",
            pruned(everywhere, "magnitude", "random"),
        ),
        _growing(pruned(everywhere, "magnitude", "random")),
        verdict(
            "Random pruning is worse with variational dropout's own layers, too",
            _turned(pruned(images, "random_vd", "vd")),
        ),
        verdict(
            "Random pruning is worse with L0's own layers, too",
            _turned(pruned(images, "random_l0", "l0")),
        ),
        verdict(
            "Leaving the first layer dense helps magnitude pruning",
            pruned(images, "first_dense", "magnitude"),
        ),
        _spared("variational dropout", "vd", images),
        _spared("L0 regularization", "l0", images),
        verdict(
            "The network that was found does not train to the pruned one's quality "
            "alone (scratch-e)",
            pruned(everywhere, "magnitude", "scratch_e"),
        ),
        verdict(
            "nor with twice the steps (scratch-b)",
            pruned(everywhere, "magnitude", "scratch_b"),
        ),
        verdict(
            "nor from the values that it began with (lottery ticket)",
            pruned(everywhere, "magnitude", "lottery"),
        ),
        verdict(
            "On images, a lottery ticket is no better than scratch-e",
            pruned(images, "lottery", "scratch_e"),
            expected=0,
        ),
        verdict(
            "On the Transformer, a lottery ticket is ahead of scratch-e",
            pruned(translation, "lottery", "scratch_e"),
        ),
        verdict(
            "Augmented initial values make no difference (scratch-e)",
            pruned(images, "scratch_e_augmented", "scratch_e"),
            expected=0,
        ),
        verdict(
            "Augmented initial values make no difference (scratch-b)",
            pruned(images, "scratch_b_augmented", "scratch_b"),
            expected=0,
        ),
        verdict(
            "The mask matters, not only how much of each layer it keeps (beyond the "
            "paper: shuffled masks, scratch-e)",
            pruned(images, "scratch_e", "shuffled"),
        ),
    ]


def _turned(comparisons):
    """The second seen from the first becomes the first seen from the second."""
    return [Comparison(c.where, c.second, c.first) for c in comparisons]


def _not_behind(claim, comparisons):
    """A claim that the first is no worse: behind at a quarter of the points at most."""
    _, figures = tally(comparisons, 1)
    behind = sum(c.sign < 0 for c in comparisons)
    if not comparisons:
        return Verdict(claim, "not seen", figures)
    holds = "yes" if 4 * behind <= len(comparisons) else "partly"
    return Verdict(claim, "no" if behind == len(comparisons) else holds, figures)


def _growing(comparisons):
    """Whether the difference grows from the lowest to the highest sparsity."""
    by_lab: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        by_lab.setdefault(comparison.where.split()[0], []).append(comparison)
    grown = [c[-1].difference > c[0].difference for c in by_lab.values()]
    figures = ", ".join(
        f"{lab} from {c[0].difference:+.2f} to {c[-1].difference:+.2f}"
        for lab, c in by_lab.items()
    )
    holds = "yes" if all(grown) else "partly" if any(grown) else "no"
    return Verdict("and the gap grows with sparsity", holds, figures)


def _spared(technique, experiment, labs):
    """Whether the first and last layers stay denser than the whole."""
    claim = f"{technique} spares the first and the last layer"
    spared, shown = [], []
    for lab, results in labs:
        for point in results[experiment]:
            # Where nearly nothing or everything is gone, layers cannot differ.
            if 0.3 <= point.sparsity <= 0.99:
                first, last = first_and_last(point)
                spared.append((first < point.sparsity) + (last < point.sparsity))
                shares = (100 * x for x in (point.sparsity, first, last))
                shown.append("{} {:.3g} %: {:.3g} %, {:.3g} %".format(lab, *shares))
    if not spared:
        return Verdict(claim, "not seen", "no points to compare")
    mean = sum(spared) / (2 * len(spared))
    holds = "yes" if mean > 0.75 else "no" if mean < 0.25 else "partly"
    return Verdict(claim, holds, "sparsity of all, first, last: " + "; ".join(shown))


def first_and_last(point: Outcome) -> tuple[float, float]:
    """Sparsity of the first and the last tensor that could be made sparse."""
    values = list(point.layers.values())
    return values[0], values[-1]
