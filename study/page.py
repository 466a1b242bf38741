"""Writes docs/study.md, its pictures and its table."""

import pathlib
import textwrap
from collections.abc import Mapping, Sequence

import pandas as pd

from state_of_sparsity.models.analysis.axes import OVER_FLOPS, OVER_SPARSITY
from state_of_sparsity.models.analysis.pictures import draw_layers, draw_quality
from state_of_sparsity.models.analysis.tables import notes, to_csv, to_markdown
from state_of_sparsity.models.training.run_folder import write_text
from study.claims import LEVEL, MOST_CHANCE, Claim, Judgement
from study.contenders import AT_INITIALIZATION, CONTENDERS
from study.plan import EXPERIMENTS, RANDOM_MASKS, Lab
from study.results import Results, Trial

_TECHNIQUES = ("dense", "magnitude", "random", "vd", "l0", "first_dense")
_BUDGETS = ("dense", "vd", "random_vd", "l0", "random_l0", "magnitude", "random")
_ALONE = (
    "dense",
    "magnitude",
    "lottery",
    "scratch_e",
    "scratch_e_augmented",
    "scratch_b",
    "scratch_b_augmented",
    "shuffled",
)
_ONE_THRESHOLD = ("global", "powerpropagation", "feather", "st3", "st3_sigma")
_SOFT = ("dense", "magnitude", *_ONE_THRESHOLD, "acdc", "spartan")
_CRITERIA = ("dense", "magnitude", "returning", "random", "saliency", "movement")
_CRITERIA += ("fisher", "set", "rigl", "granet", "srste", "str")
_CRITERIA += ("vd_steered", "l0_steered")
_SHOWN_RANDOM = ("global", "feather", "st3", "acdc", "rigl")
_RANDOM = (
    "dense",
    *_SHOWN_RANDOM,
    *(RANDOM_MASKS[name] for name in _SHOWN_RANDOM),
)
_INITIAL = (
    *("dense", "global", *AT_INITIALIZATION),
    *(RANDOM_MASKS[name] for name in AT_INITIALIZATION),
)
_CHANNELS = ("dense", "magnitude", "global", "st3", "channels", "lasso")
# By the name of the file: experiments, what over, and title.
_PICTURES = {
    "techniques": (_TECHNIQUES, OVER_SPARSITY, "Techniques"),
    "flops": (_TECHNIQUES, OVER_FLOPS, "Techniques, by operations of inference"),
    "alone": (_ALONE, OVER_SPARSITY, "Networks that were found, trained alone"),
    "budgets": (_BUDGETS, OVER_SPARSITY, "Random pruning with other layer budgets"),
    "thresholds": (_SOFT, OVER_SPARSITY, "One threshold over all layers"),
    "criteria": (_CRITERIA, OVER_SPARSITY, "Layer by layer"),
    "random_masks": (_RANDOM, OVER_SPARSITY, "Random masks with the same layers"),
    "initial": (_INITIAL, OVER_SPARSITY, "Masks at initialization"),
    "channels": (_CHANNELS, OVER_FLOPS, "Whole channels, by operations of inference"),
}
# A picture of these alone is one of the techniques.
_EVERYWHERE = {"dense", "magnitude", "random", "vd", "l0"}
_WIDTH = 88
# What a person said of the figures of the page that is committed.
_REMARKS = pathlib.Path(__file__).with_name("remarks.md")
# Where sparsity by layer is compared.
_LAYERS_AT = 0.9


def write(
    results: Mapping[str, Results],
    labs: Mapping[str, Lab],
    trials: Mapping[str, Sequence[Trial]],
    judgements: Mapping[Claim, Mapping[str, Judgement]],
    how: Mapping[str, str],
    docs: pathlib.Path,
) -> None:
    """Writes the page, and beside it its pictures and its tables.

    Args:
      results: by dataset.
      labs: by dataset.
      trials: of settings, by dataset.
      judgements: what each claim came to on each dataset.
      how: what the study ran on, by what it is.
      docs: folder of the documentation.
    """
    assets = docs / "assets" / "study"
    assets.mkdir(parents=True, exist_ok=True)
    seeds = ", ".join(f"{lab.seeds} on {lab.name}" for lab in labs.values())
    text = [_HEAD.format(seeds=seeds, level=LEVEL, most=MOST_CHANCE)]
    text += _claims(judgements)
    text += [_REMARKS.read_text(encoding="utf-8")]
    for name, of_lab in results.items():
        text += _section(labs[name], of_lab, trials[name], assets)
    text += ["## How it was run", ""]
    text += [_item(f"{name}: {value}") for name, value in how.items()]
    write_text(docs / "study.md", "\n".join([*text, ""]))


_HEAD = """# Study

What the claims of *The State of Sparsity in Deep Neural Networks* come to on small
datasets, in runs that anyone can repeat: `make study` trains them, draws the pictures
and writes this page. It goes on where it was interrupted.

Each point is the median of some seeds ({seeds}); bars
are their range. Quality is that of the deployed network on the test split. Sparsity is
the share of zeros in all weights that could be made sparse; the axis is that of the
logarithm of the density. Settings and weights of penalties were chosen on the
validation split, with the number of configurations that is given. Where later
techniques are compared, each had as many trials, of one seed at one sparsity; they are
listed. The best of those that come within a point of that sparsity is chosen, or the
nearest to it. STR has no target sparsity: its points are weight decays; those of group
lasso are weights of its penalty. Steered are learned techniques that are given a
sparsity. Masks at initialization have nothing to choose, and had no trials; shuffled
within each layer they are random masks with the same layers, and are trained from other
values. Whole channels are taken out once training is over: their FLOPs are those of the
smaller model.

## Claims

"Yes" and "no" are differences that would come about by chance with a probability of
{level} at most on a dataset: Mann and Whitney's test of the seeds at each point,
combined over the points by Stouffer's method, in which a chance above {most} counts as
{most}. "Partly" is one with a point at which all
seeds say the opposite. "Not seen" is no such difference, "-" not tried. That a
technique is comparable, or that something does not help, is a "yes" unless there is
such a difference; with so few seeds, small ones are not seen. Learned techniques are
compared with pruning at their own sparsity, between its points, of which the first is
the dense model; what they have left dense is not compared.
"""


def _claims(judgements):
    labs = list(next(iter(judgements.values())))
    yield f"| claim | {' | '.join(labs)} |"
    yield "|---|" + "---|" * len(labs)
    for claim, by_lab in judgements.items():
        cells = " | ".join(judgement.holds for judgement in by_lab.values())
        yield f"| {claim.text} | {cells} |"
    yield ""
    yield _wrapped(
        "These are the figures behind them: differences of the medians by sparsity, or "
        "by the share of the dense model's FLOPs, in points of accuracy or BLEU, in "
        "bold where all seeds of one side are better than all of the other."
    )
    yield ""
    for claim, by_lab in judgements.items():
        figures = [
            f"{lab}: {judgement.figures}"
            for lab, judgement in by_lab.items()
            if judgement.figures
        ]
        if figures:
            yield _item(f"*{claim.text}*: {'. '.join(figures)}.")
    yield ""


def _section(lab, results, trials, assets):
    yield f"## {lab.name}"
    yield ""
    yield _settings(lab, results)
    yield ""
    for name, (experiments, axis, title) in _PICTURES.items():
        shown = [e for e in experiments if e in results]
        if set(shown) - _EVERYWHERE or experiments is _TECHNIQUES:
            figure = draw_quality(results.points(shown), axis, f"{title}: {lab.name}")
            _save(figure, assets / f"{lab.name}_{name}.png")
            yield f"![{title}](assets/study/{lab.name}_{name}.png)"
            yield ""
    techniques = [t for t in ("magnitude", "vd", "l0") if t in results]
    runs = pd.concat(results.nearest(name, _LAYERS_AT) for name in techniques)
    title = f"Sparsity by layer near {_LAYERS_AT:.0%}: {lab.name}"
    figure = draw_layers(runs, results.points(techniques), title)
    _save(figure, assets / f"{lab.name}_layers.png")
    yield f"![{title}](assets/study/{lab.name}_layers.png)"
    yield ""
    points = results.points(EXPERIMENTS)
    write_text(assets / f"{lab.name}.csv", to_csv(points))
    yield "<details markdown><summary>Table</summary>"
    yield ""
    # Its notes follow, in short lines.
    yield to_markdown(points).partition("\n\n")[0]
    yield ""
    yield "</details>"
    yield ""
    yield from _trials(trials)
    for note in notes(points):
        yield _item(note)
    yield _item(f"The same as CSV: [{lab.name}.csv](assets/study/{lab.name}.csv).")
    yield ""


def _trials(trials):
    """The log of the settings that were tried."""
    if not trials:
        return
    yield "<details markdown><summary>Settings that were tried</summary>"
    yield ""
    yield "| technique | settings | sparsity | in validation |"
    yield "|---|---|---|---|"
    for trial in trials:
        mark = "**" if trial.is_chosen else ""
        title = CONTENDERS[trial.experiment].title
        quality = f"{mark}{trial.quality:.4g}{mark}"
        yield f"| {title} | {trial.settings} | {trial.sparsity:.1%} | {quality} |"
    yield ""
    yield "</details>"
    yield ""


def _save(figure, path):
    # Without the version of Matplotlib: the same figures are the same file.
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _wrapped(text, indent=""):
    return textwrap.fill(
        text,
        _WIDTH,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _item(text):
    return _wrapped(f"- {text}", "  ")


def _settings(lab, results):
    run = results["dense"][0].runs.iloc[0]
    flags = " ".join(f"--{name}={value}" for name, value in lab.settings.items())
    tried = (
        f"{lab.tried} configurations were tried on the validation split"
        f"{', and those below' if lab.contenders else ''}. {lab.chosen}"
    )
    return _wrapped(
        f"`{lab.binary} {flags}`, everything else by default: {run.model} of "
        f"{run.parameters:,.0f} parameters, {run.steps:,.0f} steps. {tried}".rstrip()
    )
