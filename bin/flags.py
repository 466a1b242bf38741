"""Command-line flags from the fields of dataclasses, and back.

A hyperparameter is written down once, as a field with a line in the docstring. The flag
gets its name, type, default and help from there.
"""

import dataclasses
import pathlib
import types
import typing
from collections.abc import Mapping

from absl import flags

from state_of_sparsity.mask_files import load_masks, shuffle_masks
from state_of_sparsity.models.training.run_folder import RunFolder
from state_of_sparsity.models.training.saved_models import (
    is_saved_model,
    load_saved_model,
)
from state_of_sparsity.report import weight_masks
from state_of_sparsity.techniques import TECHNIQUES, FixedMask, Technique
from state_of_sparsity.techniques.base import field_help

DENSE = "dense"
FIXED_MASK = FixedMask.technique_name()
_DEFINE = {
    bool: flags.DEFINE_bool,
    float: flags.DEFINE_float,
    int: flags.DEFINE_integer,
    str: flags.DEFINE_string,
}


class UsageError(Exception):
    """The flags do not go together; the message says why."""


def define_options(cls: type, values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines a flag for each field of a dataclass of options."""
    help_texts = field_help(cls)
    for field in dataclasses.fields(cls):
        _define(
            field.name, _flag_type(field), field.default, help_texts[field.name], values
        )


def options_from_flags(cls: type, values: flags.FlagValues = flags.FLAGS):
    """The dataclass of options with the values of the flags."""
    fields = dataclasses.fields(cls)
    return cls(**{f.name: _value(f, values[f.name].value) for f in fields})


def define_technique(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines --technique, --override, and a flag per hyperparameter of each technique.

    A hyperparameter that several techniques have is one flag. So is one that has the
    name of a flag that is there already: `seed`.
    """
    flags.DEFINE_enum(
        "technique",
        "magnitude_pruning",
        [DENSE, *TECHNIQUES, FIXED_MASK],
        "How the model is made sparse.",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "override",
        [],
        "REGEX=SPARSITY or REGEX=dense: another sparsity for the layers whose name "
        "matches, or none. Can be repeated; the first that matches counts.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "budget",
        None,
        "Over which the sparsity of pruning is distributed, so that it is that of the "
        "whole model: uniform, first_dense_last_capped, erk, global (one threshold "
        "over all layers), or the layers.csv of another run, whose sparsities each "
        "layer then has. Without it, each layer gets --sparsity, but for those that "
        "--override names.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "load_masks_from",
        None,
        "Of --technique=fixed_mask: the folder of a finished run, a file of masks "
        "(.npz), such as sos.save_masks writes, or a sparse model that tf_keras saved "
        "(.keras, .h5), such as one that TF-MOT pruned.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "shuffle_masks",
        None,
        ["within_layer"],
        "Of --technique=fixed_mask: keep as many weights of each tensor, at places "
        "that the seed draws.",
        flag_values=values,
    )
    for name, owners in _owners().items():
        if name not in values:
            text = field_help(TECHNIQUES[owners[0]])[name]
            kind = _flag_type(_field(owners[0], name))
            _define(name, kind, None, f"{text} ({', '.join(owners)})", values)


def technique_from_flags(
    defaults: Mapping[str, object], values: flags.FlagValues = flags.FLAGS
) -> Technique | None:
    """The technique that the flags choose, or None for a dense model.

    Args:
      defaults: values of hyperparameters for which no flag was given.
      values: the flags.

    Raises:
      UsageError: if a flag was given that the technique does not have, or the value
        of a hyperparameter is bad.
    """
    chosen = values["technique"].value
    _check_flags_belong_to(chosen, values)
    if chosen == DENSE:
        return None
    if chosen == FIXED_MASK:
        return _fixed_mask(values)
    hyperparameters = {}
    for name, owners in _owners().items():
        if chosen in owners:
            value = _value(_field(chosen, name), values[name].value)
            hyperparameters[name] = defaults.get(name) if value is None else value
    given = {name: v for name, v in hyperparameters.items() if v is not None}
    _check_complete(chosen, given)
    try:
        return TECHNIQUES[chosen](**given)
    except (TypeError, ValueError) as error:
        raise UsageError(f"--technique={chosen}: {error}") from error


def _fixed_mask(values):
    source = values["load_masks_from"].value
    if source is None:
        raise UsageError(f"--technique={FIXED_MASK} needs --load_masks_from")
    try:
        masks = _masks_from(pathlib.Path(source))
    except (OSError, TypeError, ValueError) as error:
        raise UsageError(
            "--load_masks_from must be the folder of a finished run, which has "
            "masks.npz, a file of masks, or a model that tf_keras saved. Received: "
            f"{source!r} ({error})"
        ) from error
    if values["shuffle_masks"].value:
        masks = shuffle_masks(masks, values["seed"].value)
    return FixedMask(masks)


def _masks_from(path):
    if path.is_dir() and not is_saved_model(path):
        return load_masks(RunFolder(path).masks)
    if path.suffix == ".npz":
        return load_masks(path)
    return weight_masks(load_saved_model(path))


def mask_flags(values: flags.FlagValues = flags.FLAGS) -> dict[str, str]:
    """The flags that say which masks are fixed, as text by name."""
    source, shuffle = (values[n].value for n in ("load_masks_from", "shuffle_masks"))
    given = {"load_masks_from": source and str(pathlib.Path(source).resolve())}
    return {n: v for n, v in {**given, "shuffle_masks": shuffle}.items() if v}


def overrides_from_flags(
    values: flags.FlagValues = flags.FLAGS,
) -> dict[str, float | None]:
    """The overrides for `sos.sparsify`.

    Raises:
      UsageError: if one is not REGEX=SPARSITY or REGEX=dense, or two have one pattern.
    """
    texts = values["override"].value
    if values["technique"].value == DENSE and texts:
        raise UsageError(f"--technique={DENSE} does not have --override={texts[0]}")
    overrides = {}
    for text in texts:
        pattern, _, value = text.rpartition("=")
        try:
            sparsity = None if value == DENSE else float(value)
        except ValueError:
            pattern = ""
        if not pattern:
            raise UsageError(
                f"--override must be REGEX=SPARSITY or REGEX={DENSE}. "
                f"Received: {text!r}"
            )
        if pattern in overrides:
            both = [other for other in texts if other.rpartition("=")[0] == pattern]
            raise UsageError(
                f"--override has the pattern {pattern!r} more than once. "
                f"Received: {', '.join(both)}"
            )
        overrides[pattern] = sparsity
    return overrides


def budget_from_flags(values: flags.FlagValues = flags.FLAGS) -> str | None:
    """The budget, by name or path.

    Raises:
      UsageError: if the technique has no target sparsity to distribute.
    """
    budget, chosen = values["budget"].value, values["technique"].value
    if budget is None:
        return None
    if not hasattr(TECHNIQUES.get(chosen), "score"):
        raise UsageError(f"--technique={chosen} does not have --budget={budget}")
    # Runs may go on from another folder.
    return str(pathlib.Path(budget).resolve()) if "." in budget else budget


def as_flags(*dataclass_instances) -> dict[str, str]:
    """The flags that give these dataclasses, as text by name; None is left out."""
    return {
        field.name: _text(getattr(instance, field.name))
        for instance in dataclass_instances
        for field in dataclasses.fields(instance)
        if _flag_type(field) and getattr(instance, field.name) is not None
    }


def _text(value):
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _owners():
    """Which techniques have a hyperparameter that can be a flag, by its name."""
    owners: dict[str, list[str]] = {}
    for technique, cls in TECHNIQUES.items():
        for field in dataclasses.fields(cls):
            if _flag_type(field) is not None:
                owners.setdefault(field.name, []).append(technique)
    return owners


def _field(technique, name):
    fields = dataclasses.fields(TECHNIQUES[technique])
    return next(field for field in fields if field.name == name)


def _check_flags_belong_to(chosen, values):
    for name in ("load_masks_from", "shuffle_masks"):
        if values[name].value is not None and chosen != FIXED_MASK:
            raise UsageError(
                f"--technique={chosen} does not have --{name} (it belongs to "
                f"{FIXED_MASK})"
            )
    for name, owners in _owners().items():
        flag = values[name]
        # A flag such as --seed, which belongs to the run as well, has a default.
        is_set = flag.default is None and flag.value is not None
        if is_set and chosen not in owners:
            raise UsageError(
                f"--technique={chosen} does not have --{name} "
                f"(it belongs to {', '.join(owners)})"
            )


def _check_complete(chosen, given):
    for field in dataclasses.fields(TECHNIQUES[chosen]):
        if field.default is dataclasses.MISSING and field.name not in given:
            raise UsageError(f"--technique={chosen} needs --{field.name}")


def _flag_type(field):
    """The type of the flag for a field; None if it cannot be one."""
    kind = field.type
    if isinstance(kind, types.UnionType):
        kinds = [k for k in typing.get_args(kind) if k is not type(None)]
        kind = kinds[0] if len(kinds) == 1 else None
    if typing.get_origin(kind) is tuple:
        return kind
    return kind if kind in _DEFINE else None


def _define(name, kind, default, text, values):
    define = _DEFINE.get(kind, flags.DEFINE_list)
    define(name, default, text, flag_values=values)


def _value(field, value):
    """The value of a field from that of its flag: lists of text are tuples."""
    if not isinstance(value, list):
        return value
    convert = typing.get_args(_flag_type(field))[0]
    try:
        return tuple(convert(text) for text in value)
    except ValueError as error:
        raise UsageError(
            f"--{field.name} must be numbers with commas between them. "
            f"Received: {','.join(value)}"
        ) from error
