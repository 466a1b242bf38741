"""A run from the values of its settings, with all that can be wrong in them."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping

from state_of_sparsity.mask_files import load_masks, shuffle_masks
from state_of_sparsity.models.runs.run import TRAINERS, Run
from state_of_sparsity.models.runs.settings import (
    DENSE,
    FIXED_MASK,
    INITIAL,
    NAMED,
    POWER,
    owners,
)
from state_of_sparsity.models.saved_by_keras import (
    is_saved_by_keras,
    load_saved_by_keras,
)
from state_of_sparsity.models.training.loop.sparsification import (
    GLOBAL,
    GLOBAL_FLOPS,
    Sparsification,
)
from state_of_sparsity.models.training.rewinding.kept_weights import Start
from state_of_sparsity.models.training.rewinding.rounds import Rounds
from state_of_sparsity.models.training.run_folder import RunFolder
from state_of_sparsity.models.usage import UsageError, usage_errors
from state_of_sparsity.report import weight_masks
from state_of_sparsity.techniques import (
    TECHNIQUES,
    FixedMask,
    MagnitudePruning,
    Powerpropagation,
    Technique,
)

Values = Mapping[str, object]


def run_of(binary: str, values: Values) -> Run:
    """The run that settings describe.

    Args:
      binary: that trains it.
      values: of all settings of `settings_of`, by name; None for those not given.

    Raises:
      UsageError: if they do not go together, or one is bad.
    """
    with usage_errors():
        options = _of(TRAINERS[binary][0], values).resolved()
        options = _stretched(options, values)
        start = _with_absolute_path(_of(Start, values))
        rounds = _rounds(options, values)
        every = values["checkpoint_every_steps"]
        if every is not None and every < 1:
            raise ValueError(
                f"checkpoint_every_steps must be at least 1. Received: {every}"
            )
    _check_belong_to(values, options)
    defaults = _defaults(rounds, options, values["technique"])
    technique = _technique(defaults, values)
    if getattr(technique, "needs_loss", False) and start.mask_batches is None:
        start = dataclasses.replace(start, mask_batches=defaults.get("mask_batches", 1))
    _check_steps(technique, start, options.train_steps)
    with usage_errors():
        masks = _masks_settings(values)
        sparsification = Sparsification(
            technique, _overrides(values), _budget(technique, values), masks
        )
    if start.init == "sparse" and not masks:
        raise UsageError("--init=sparse needs --technique=fixed_mask.")
    return Run(binary, options, sparsification, start, rounds, every)


def _of(cls, values):
    return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})


def _defaults(rounds, options, chosen):
    if rounds is not None:
        return rounds.technique_defaults()
    return options.technique_defaults(chosen)


def _check_steps(technique, start, train_steps):
    pruning = getattr(technique, "base", technique)
    for name in ("end_step", "fixed_step", "dense_steps", "phases"):
        value = getattr(pruning, name, 0)
        last = max(value, default=0) if isinstance(value, tuple) else value
        if last > train_steps:
            raise UsageError(
                f"--{name} is after the last of --train_steps={train_steps}: the run "
                f"would end before it is sparse. Received: {last}"
            )
    frequency = getattr(pruning, "frequency", 0)
    if frequency > train_steps:
        raise UsageError(
            f"--frequency is longer than --train_steps={train_steps}. Received: "
            f"{frequency}"
        )
    ramp_begin = getattr(technique, "ramp_begin", 0)
    ramp_end = ramp_begin + getattr(technique, "ramp_length", 0)
    if ramp_end > train_steps:
        raise UsageError(
            f"--ramp_begin={ramp_begin} and --ramp_length={ramp_end - ramp_begin} end "
            f"after the last of --train_steps={train_steps}: the penalty would never "
            "have its whole weight."
        )
    late = [step for step in start.keep_steps or () if step > train_steps]
    if late:
        raise UsageError(
            f"--keep_steps has steps after the last of --train_steps={train_steps}. "
            f"Received: {late}"
        )


def _stretched(options, values):
    multiplier = values["train_steps_multiplier"]
    schedule = values["stretch_schedule"]
    if multiplier is None:
        if schedule is not None:
            raise ValueError(
                "stretch_schedule needs train_steps_multiplier. Received: "
                f"stretch_schedule={schedule}"
            )
        return options
    # What comes of it is in the flags of the run, so that it is not stretched twice.
    return options.stretched(multiplier, schedule or "constant_final")


def _with_absolute_path(start):
    if start.load_weights_from is None:
        return start
    path = os.path.realpath(start.load_weights_from)
    return dataclasses.replace(start, load_weights_from=path)


def _rounds(options, values):
    rounds = _of(Rounds, values)
    if rounds.rounds is None:
        return None
    chosen = values["technique"]
    if chosen != MagnitudePruning.technique_name():
        raise ValueError(
            f"--technique={chosen} does not have --rounds (it belongs to "
            f"{MagnitudePruning.technique_name()})"
        )
    names = {field.name for field in dataclasses.fields(MagnitudePruning)}
    for name in sorted(names - {"sparsity"} | {POWER}):
        value = values.get(name)
        if value is not None:
            raise ValueError(
                f"--{name} is not for --rounds, where the smallest weights are masked "
                f"between trainings. Received: {value}"
            )
    if options.distribution == "multi_worker":
        raise ValueError(
            "--rounds is for one machine, with any number of devices. Received: "
            f"--distribution={options.distribution}"
        )
    return rounds.resolved(values["sparsity"], options.train_steps)


def _technique(defaults: Values, values: Values) -> Technique | None:
    """The technique that is chosen, or None for a dense model.

    Args:
      defaults: of hyperparameters that are not given.
      values: of the settings.
    """
    chosen = values["technique"]
    if chosen == DENSE:
        return None
    if chosen == FIXED_MASK:
        return _fixed_mask(values)
    hyperparameters = {}
    without = _replaced(NAMED[chosen], values)
    for name, techniques in owners().items():
        default = None if name == without else defaults.get(name)
        value = values[name] if values[name] is not None else default
        if chosen in techniques and value is not None:
            hyperparameters[name] = value
    for field in dataclasses.fields(NAMED[chosen]):
        required = field.default is dataclasses.MISSING
        if required and field.name not in hyperparameters:
            raise UsageError(f"--technique={chosen} needs --{field.name}")
    alpha = values[POWER]
    with usage_errors(f"--technique={chosen}"):
        technique = NAMED[chosen](**hyperparameters)
        return technique if alpha is None else Powerpropagation(alpha, technique)


def _replaced(cls, values):
    """Which one of a penalty's weight and a sparsity has no default here.

    Together they are an error: the weight if a sparsity is given, or else the sparsity.
    """
    weight = getattr(cls, "penalty_weight", None)
    if weight is None:
        return None
    return "sparsity" if values["sparsity"] is None else weight


def _check_belong_to(values, options):
    chosen = values["technique"]
    if values[POWER] is not None and chosen not in TECHNIQUES:
        raise UsageError(f"--technique={chosen} does not have --{POWER}")
    if chosen in INITIAL and options.distribution == "multi_worker":
        raise UsageError(
            f"--technique={chosen} is for one machine, with any number of devices. "
            f"Received: --distribution={options.distribution}"
        )
    belong = {name: [FIXED_MASK] for name in ("load_masks_from", "shuffle_masks")}
    belong["mask_batches"] = [n for n, cls in INITIAL.items() if cls.needs_loss]
    for name, techniques in (belong | owners()).items():
        # What is an option, such as the seed, belongs to the run as well.
        if hasattr(options, name):
            continue
        if values[name] is not None and chosen not in techniques:
            raise UsageError(
                f"--technique={chosen} does not have --{name} "
                f"(it belongs to {', '.join(techniques)})"
            )


def _fixed_mask(values):
    source = values["load_masks_from"]
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
    if values["shuffle_masks"]:
        masks = shuffle_masks(masks, values["seed"])
    return FixedMask(masks)


def _masks_from(path):
    if path.is_dir() and not is_saved_by_keras(path):
        return load_masks(RunFolder(path).masks)
    if path.suffix == ".npz":
        return load_masks(path)
    return weight_masks(load_saved_by_keras(path))


def _masks_settings(values):
    """The settings that say which masks are fixed, as text by name."""
    source, shuffle = values["load_masks_from"], values["shuffle_masks"]
    given = {"load_masks_from": source and os.path.realpath(source)}
    return {n: v for n, v in {**given, "shuffle_masks": shuffle}.items() if v}


def _overrides(values):
    """The overrides for `sos.sparsify`."""
    texts = values["override"]
    if values["technique"] == DENSE and texts:
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


def _budget(technique, values):
    """The budget, by name or path."""
    budget, chosen = values["budget"], values["technique"]
    if budget is None:
        return None
    # One threshold takes more than a target.
    needed = "sharing" if budget in (GLOBAL, GLOBAL_FLOPS) else "with_sparsity"
    has_target = getattr(technique, "sparsity", None) is not None
    can_count = budget != GLOBAL_FLOPS or NAMED[chosen].couples
    if not (has_target and can_count and _says(NAMED[chosen], needed)):
        raise UsageError(f"--technique={chosen} does not have --budget={budget}")
    # Runs may go on from another folder.
    return os.path.realpath(budget) if "." in budget else budget


def _says(cls, method):
    """Whether a class of techniques has a method that by default is an error."""
    return getattr(cls, method) is not getattr(Technique, method)
