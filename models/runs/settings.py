"""The settings of a run by name, from the fields of dataclasses, and as text.

A hyperparameter is written down once, as a field with a line in the docstring. The flag
gets its name, type, default and help from there.
"""

import dataclasses
import types
import typing
from collections.abc import Iterator

from state_of_sparsity.models.training.options import Options
from state_of_sparsity.models.training.rewinding.kept_weights import Start
from state_of_sparsity.models.training.rewinding.rounds import Rounds
from state_of_sparsity.models.usage import UsageError
from state_of_sparsity.techniques import (
    SNIP,
    TECHNIQUES,
    FixedMask,
    GraSP,
    GroupLasso,
    SynFlow,
)
from state_of_sparsity.techniques.base import field_help

DENSE = "dense"
FIXED_MASK = FixedMask.technique_name()
POWER = "powerpropagation_alpha"
# Those that prune once, before the first step of a run.
INITIAL = {cls.technique_name(): cls for cls in (SNIP, GraSP, SynFlow)}
# Those that --technique names, apart from dense and fixed_mask.
NAMED = TECHNIQUES | {GroupLasso.technique_name(): GroupLasso} | INITIAL
# Hyperparameters that the laboratory leaves at their defaults.
WITHOUT_FLAG = {
    "axis",
    "beta",
    "block_pooling_type",
    "clip_log_alpha",
    "damping",
    "final_beta",
    "gamma",
    "initial_beta",
    "initial_sparsity",
    "masked_gradient",
    "shared_positions",
    "zeta",
}
_SCALARS = (bool, float, int, str)


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting of a run.

    Attributes:
      name: of its flag.
      kind: bool, float, int, str, or a tuple of one of these.
      default: None for none.
      help: what it is.
      choices: the values that it may have, if they are few.
      is_repeated: whether it may be given several times.
    """

    name: str
    kind: type
    default: object
    help: str
    choices: tuple[str, ...] = ()
    is_repeated: bool = False

    def parse(self, text: str) -> object:
        """The value that a text stands for.

        Raises:
          UsageError: for a text that will not do.
        """
        if self.choices and text not in self.choices:
            raise UsageError(
                f"--{self.name} must be one of {', '.join(self.choices)}. "
                f"Received: {text!r}"
            )
        if typing.get_origin(self.kind) is tuple:
            return self.parse_list(text.split(",") if text else [])
        try:
            return (
                {"True": True, "False": False}[text]
                if self.kind is bool
                else (self.kind(text))
            )
        except (KeyError, ValueError) as error:
            raise UsageError(
                f"--{self.name} must be {self.kind.__name__}. Received: {text!r}"
            ) from error

    def parse_list(self, texts: list[str]) -> tuple:
        """The values that texts stand for; raises as `parse` does."""
        try:
            return tuple(map(typing.get_args(self.kind)[0], texts))
        except ValueError as error:
            raise UsageError(
                f"--{self.name} must be numbers with commas between them. "
                f"Received: {','.join(texts)}"
            ) from error


def settings_of(options: type[Options]) -> dict[str, Setting]:
    """The settings of runs, by name.

    Args:
      options: of the task. A hyperparameter that several techniques have is one
        setting. So is one that has the name of an option, such as `seed`.
    """
    found = [*of_fields(options), *of_fields(Start), *_OTHERS, *_of_techniques()]
    found += of_fields(Rounds)
    # The first of a name counts.
    return {setting.name: setting for setting in reversed(found)}


def of_fields(cls: type) -> list[Setting]:
    """A setting for each field of a dataclass."""
    texts = field_help(cls)
    return [
        Setting(field.name, kind, field.default, texts[field.name])
        for field, kind in _fields(cls)
    ]


def _fields(cls) -> Iterator[tuple[dataclasses.Field, type]]:
    """The fields that a text can spell out, and their types."""
    for field in dataclasses.fields(cls):
        kind = field.type
        if isinstance(kind, types.UnionType):
            kinds = [k for k in typing.get_args(kind) if k is not type(None)]
            # Of what also may be an object, the name of one.
            kind = kinds[0] if len(kinds) == 1 else str if str in kinds else None
        if kind in _SCALARS or typing.get_origin(kind) is tuple:
            yield field, kind


def owners() -> dict[str, list[str]]:
    """Which techniques have a hyperparameter that is a setting, by its name."""
    found: dict[str, list[str]] = {}
    for technique, cls in NAMED.items():
        for field, _ in _fields(cls):
            if field.name not in WITHOUT_FLAG:
                found.setdefault(field.name, []).append(technique)
    return found


def _of_techniques():
    for name, techniques in owners().items():
        # The first one's, which does for all.
        kind = dict((f.name, k) for f, k in _fields(NAMED[techniques[0]]))[name]
        yield Setting(name, kind, None, " ".join(_help(name, techniques)))


def _help(name, techniques):
    """What a hyperparameter means: each meaning once, with its techniques."""
    meanings: dict[str, list[str]] = {}
    for technique in techniques:
        meaning = field_help(NAMED[technique])[name]
        meanings.setdefault(meaning, []).append(technique)
    for meaning, of in meanings.items():
        yield f"{meaning} ({', '.join(of)})"


_OTHERS = (
    Setting(
        "train_steps_multiplier",
        float,
        None,
        "Trains for so many times the steps, as in training from scratch with twice "
        "the budget.",
    ),
    Setting(
        "stretch_schedule",
        str,
        None,
        "With --train_steps_multiplier: whether the learning-rate schedule is "
        "stretched as well, or its last rate holds for longer, which is the default.",
        choices=("scaled", "constant_final"),
    ),
    Setting(
        "technique",
        str,
        "magnitude_pruning",
        "How the model is made sparse.",
        choices=(DENSE, *NAMED, FIXED_MASK),
    ),
    Setting(
        POWER,
        float,
        None,
        "Trains weights that are powers of what is stored, of this exponent, so that "
        "small ones learn slowly: 1.5 to 4. It goes with techniques that prune.",
    ),
    Setting(
        "override",
        str,
        (),
        "REGEX=SPARSITY or REGEX=dense: another sparsity for the layers whose name "
        "matches, or none. Can be repeated; the first that matches counts.",
        is_repeated=True,
    ),
    Setting(
        "budget",
        str,
        None,
        "Over which the sparsity of pruning is distributed, so that it is that of the "
        "whole model: uniform, first_dense_last_capped, erk, global (one threshold "
        "over all layers), or the layers.csv of another run, whose sparsities each "
        "layer then has. Without it, each layer gets --sparsity, but for those that "
        "--override names; techniques whose papers have one threshold have that.",
    ),
    Setting(
        "load_masks_from",
        str,
        None,
        "Of --technique=fixed_mask: the folder of a finished run, a file of masks "
        "(.npz), such as sos.save_masks writes, or a sparse model that tf_keras saved "
        "(.keras, .h5), such as one that TF-MOT pruned.",
    ),
    Setting(
        "shuffle_masks",
        str,
        None,
        "Of --technique=fixed_mask: keep as many weights of each tensor, at places "
        "that the seed draws.",
        choices=("within_layer",),
    ),
    Setting(
        "checkpoint_every_steps",
        int,
        None,
        "Steps from one checkpoint to the next between evaluations; by default there "
        "are none.",
    ),
)


def as_text(*dataclass_instances) -> dict[str, str]:
    """The values of dataclasses as settings, as text by name; None is left out."""
    return {
        field.name: _text(value)
        for instance in dataclass_instances
        for field, _ in _fields(type(instance))
        if field.name not in WITHOUT_FLAG
        and (value := getattr(instance, field.name)) is not None
    }


def _text(value):
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
