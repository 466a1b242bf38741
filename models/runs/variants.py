"""What a run tried, in words, from its flags: the lines of a comparison.

The names of the experiments are those of Gale, Elsen & Hooker 2019, and of Liu et al.
2019, "Rethinking the Value of Network Pruning", for training from scratch.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping

from state_of_sparsity.models.training.run_folder import RunFolder

DENSE = "dense"
# The variants of the paper, in the order in which they are listed.
PAPER = (
    "magnitude pruning",
    "variational dropout",
    "L0 regularization",
    "random pruning",
    "lottery ticket",
    "scratch-e",
    "scratch-b",
)
# The techniques that came later, likewise.
LATER = (
    *("feather", "st3", "acdc", "spartan", "rigl", "granet", "set", "str", "srste"),
    *("saliency_pruning", "movement_pruning", "fisher_pruning"),
    *("snip", "grasp", "synflow"),
)
# Those whose names are not what is left of them without underscores.
_WORDS = {
    "acdc": "AC/DC",
    "feather": "Feather",
    "fisher_pruning": "Fisher pruning",
    "granet": "GraNet",
    "grasp": "GraSP",
    "l0_regularization": "L0 regularization",
    "rigl": "RigL",
    "set": "SET",
    "snip": "SNIP",
    "spartan": "Spartan",
    "srste": "SR-STE",
    "st3": "ST-3",
    "str": "STR",
    "synflow": "SynFlow",
}
# Those that have one threshold over all layers unless a budget is given. (To read it
# off their classes, a backend would have to be imported.)
ONE_THRESHOLD = ("acdc", "feather", "spartan", "st3", "snip", "grasp", "synflow")
# Unless their flags say otherwise.
_USUAL_MASKED_WEIGHTS = {"movement_pruning": "return"}
# Of lottery tickets and training from scratch, unless their names say otherwise.
_USUAL_MASKS = PAPER[0]
# Flags in which runs of one setting differ, or that only say where things are.
INCIDENTAL = ("seed", "data_dir", "load_masks_from", "load_weights_from", "budget")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The flags of a run, and of the run on which it builds.

    Attributes:
      flags: text by name.
      source: of the run that its masks or its budget are from; None if it has none, or
        that run is not there any more.
    """

    flags: Mapping[str, str]
    source: "Settings | None" = None


def read_settings(folder: RunFolder) -> Settings:
    """The settings of the run in a folder.

    Raises:
      ValueError: if its flags.txt is damaged.
    """
    flags = folder.read_flags()
    missing = {"technique", "train_steps"} - flags.keys()
    if missing:
        raise ValueError(
            f"{folder.flags} is damaged, it does not say --{min(missing)}: train the "
            "run anew, or leave it out."
        )
    path = flags.get("load_masks_from") or _table(flags)
    if path is None:
        return Settings(flags)
    place = pathlib.Path(path)
    source = RunFolder(place if place.is_dir() else place.parent)
    return Settings(flags, read_settings(source) if source.flags.is_file() else None)


def variant(settings: Settings) -> str:
    """What the run tried: technique or experiment, and what is special about it.

    Runs of one variant differ in sparsity and seed: "magnitude pruning", "magnitude
    pruning, erk", "lottery ticket", "scratch-b, augmented init".
    """
    flags = settings.flags
    if flags["technique"] == "fixed_mask":
        parts = [*_experiment(settings), *_masks(settings)]
    else:
        parts = [in_words(flags["technique"]), *_own(flags), *_rounds(flags)]
        parts += _start(flags)
    if flags.get("init") == "sparse":
        parts.append("augmented init")
    if "budget" in flags:
        parts.append(_budget(settings))
    elif flags["technique"] in ONE_THRESHOLD:
        parts.append("global")
    if "override" in flags:
        parts.append(flags["override"])
    return ", ".join(parts)


def group(settings: Settings, sparsity: float) -> str:
    """What the runs of one point of a variant have in common.

    It is the target sparsity, their own or that of the runs that they build on. Runs
    of techniques without one have all flags in common but for the seed and places.

    Args:
      settings: of the run.
      sparsity: that it came to.
    """
    flags = settings.flags
    if flags["technique"] == DENSE:
        return f"{flags.get('train_steps')} steps"
    if flags["technique"] == "fixed_mask" or _table(flags):
        if settings.source is None:
            # Masks of one target are equally sparse, to the weight.
            return f"sparsity {sparsity:.3f}"
        return group(settings.source, sparsity)
    if "sparsity" in flags:
        return target(float(flags["sparsity"]))
    if "sparsity_m_by_n" in flags:
        m, n = map(int, flags["sparsity_m_by_n"].split(","))
        return target(m / n)
    return " ".join(
        f"{name}={value}"
        for name, value in sorted(flags.items())
        if name not in INCIDENTAL
    )


def target(sparsity: float) -> str:
    """The group of what has a target sparsity."""
    return f"target {sparsity:g}"


def order(variant: str) -> tuple:
    """What variants are sorted by: the paper's, then later ones, each with its own."""
    base = variant.partition(",")[0]
    return _KNOWN.index(base) if base in _KNOWN else len(_KNOWN), variant


def in_words(technique: str) -> str:
    """The name of a technique as it is written in text: "L0 regularization"."""
    return _WORDS.get(technique) or technique.replace("_", " ")


_KNOWN = (*PAPER, *map(in_words, LATER))


def _table(flags):
    """The path of the budget, if it is that of a table."""
    budget = flags.get("budget", "")
    return budget if "." in budget else None


def _budget(settings):
    if _table(settings.flags) is None:
        return settings.flags["budget"]
    if settings.source is None:
        return "table"
    return f"layers of {variant(settings.source)}"


def _own(flags):
    """What is special about the technique itself."""
    if flags.get("end_step") == "0":
        yield "at initialization"
    if flags.get("by_fan") == "True":
        yield "sigma"
    usual = _USUAL_MASKED_WEIGHTS.get(flags["technique"], "stay")
    if flags.get("masked_weights", usual) != usual:
        yield f"masked weights {flags['masked_weights']}"
    if flags.get("structure", "weights") != "weights":
        yield flags["structure"]
    if "powerpropagation_alpha" in flags:
        yield f"powerpropagation {float(flags['powerpropagation_alpha']):g}"


def _rounds(flags):
    """Of iterative pruning, what is set back after each round."""
    if "rounds" in flags:
        yield "iterative"
        step = int(flags.get("rewind_to_step", 0))
        back = f" to step {step}" if step else ""
        yield f"{flags.get('rewind', 'weights').replace('_', ' ')} rewound{back}"


def _start(flags):
    if "load_weights_from" in flags:
        yield f"from step {flags.get('weights_at_step', 0)} of another run"


def _experiment(settings) -> Iterator[str]:
    """A lottery ticket, or training from scratch, for how long."""
    flags, source = settings.flags, settings.source
    if "load_weights_from" in flags:
        yield "lottery ticket"
        if int(flags.get("weights_at_step", 0)):
            yield f"weights of step {flags['weights_at_step']}"
        return
    if source is None:
        yield f"scratch, {int(flags['train_steps']):,} steps"
        return
    multiplier = int(flags["train_steps"]) / int(source.flags["train_steps"])
    if multiplier == 1:
        yield "scratch-e"
        return
    yield "scratch-b" if multiplier > 1 else "scratch"
    if multiplier != 2:
        yield f"{multiplier:.3g}x steps"
    boundaries = [f.get("decay_epochs") for f in (flags, source.flags)]
    if boundaries[0] is not None and boundaries[0] == boundaries[1]:
        yield "constant final rate"


def _masks(settings):
    if settings.source is not None and variant(settings.source) != _USUAL_MASKS:
        yield f"masks of {variant(settings.source)}"
    if "shuffle_masks" in settings.flags:
        yield "shuffled masks"
