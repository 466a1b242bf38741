"""Command-line flags from settings, and their values; flags that went."""

import typing
from collections.abc import Iterable

from absl import flags

from state_of_sparsity.models.runs.settings import WITHOUT_FLAG, Setting
from state_of_sparsity.models.usage import UsageError

_DEFINE = {
    bool: flags.DEFINE_bool,
    float: flags.DEFINE_float,
    int: flags.DEFINE_integer,
    str: flags.DEFINE_string,
}
# What to do instead of a flag that went, and since which version.
REMOVED = {
    "strict_data": ("0.4.0", "a damaged record is always an error"),
    "worker_timeout": ("0.4.0", "workers wait as long as TensorFlow does"),
    "runs_per_process": ("0.4.0", "each run of a sweep has a process of its own"),
    "cpu_devices": ("0.4.0", "try several on a CPU with examples/two_workers.py"),
}


def define(settings: Iterable[Setting], values: flags.FlagValues) -> None:
    """Defines a flag for each setting."""
    for setting in settings:
        name, default, text = setting.name, setting.default, setting.help
        if setting.choices:
            flags.DEFINE_enum(name, default, setting.choices, text, flag_values=values)
        elif setting.is_repeated:
            flags.DEFINE_multi_string(name, list(default), text, flag_values=values)
        else:
            define_kind = _DEFINE.get(setting.kind, flags.DEFINE_list)
            define_kind(name, default, text, flag_values=values)


def values_of(
    settings: Iterable[Setting], values: flags.FlagValues
) -> dict[str, object]:
    """The values of settings that flags give, by name.

    Raises:
      UsageError: for a list of what is no number.
    """
    return {setting.name: _value(setting, values) for setting in settings}


def _value(setting, values):
    value = values[setting.name].value
    is_list = typing.get_origin(setting.kind) is tuple
    return setting.parse_list(value) if is_list and value is not None else value


def check_removed(arguments: Iterable[str]) -> None:
    """Raises UsageError for a flag that went, or never was, with what to do instead.

    Args:
      arguments: of the command line, flagfiles read.
    """
    for argument in arguments:
        name = argument.partition("=")[0].lstrip("-")
        for known in (name, name.removeprefix("no")):
            if argument.startswith("-") and known in REMOVED:
                version, instead = REMOVED[known]
                raise UsageError(f"--{known} went in {version}: {instead}.")
            if argument.startswith("-") and known in WITHOUT_FLAG:
                raise UsageError(
                    f"--{known} is no flag: runs have its default, and another value "
                    "is for sos.sparsify in Python."
                )
