"""Which runs a sweep consists of: the combinations of a grid, or of flagfiles."""

import dataclasses
import hashlib
import itertools
import json
import pathlib
from collections.abc import Iterable, Mapping

from absl import flags

# Characters of a hash: two of a million configurations agree once in 10^2 sweeps.
HASH_LENGTH = 12
# What says where a run is and not what it is.
_NOT_IN_HASH = ("output_dir",)


# Compared by identity: its flags are a mapping, which has no hash.
@dataclasses.dataclass(frozen=True, eq=False)
class Configuration:
    """A run of a sweep.

    Attributes:
      binary: that trains it.
      settings: its flags without --output_dir, in the order of the command line; a flag
        that is repeated has a tuple.
      varied: those in which runs of the sweep differ.
    """

    binary: str
    settings: Mapping[str, str | tuple[str, ...]]
    varied: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of its folder: a hash of binary and flags, whatever their order."""
        content = {n: v for n, v in self.settings.items() if n not in _NOT_IN_HASH}
        text = json.dumps([self.binary, content], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]

    @property
    def arguments(self) -> list[str]:
        """Its flags as on a command line."""
        return [
            f"--{name}={value}"
            for name, values in self.settings.items()
            for value in (values if isinstance(values, tuple) else (values,))
        ]

    @property
    def title(self) -> str:
        """What tells it from the other runs, in a line."""
        return " ".join(f"{name}={value}" for name, value in self.varied.items())


def of_grid(
    binary: str,
    grid: Iterable[str],
    seeds: Iterable[str],
    fixed: Iterable[str] = (),
    flagfiles: Iterable[str] = (),
) -> list[Configuration]:
    """All combinations of values, for each flagfile if there are some, and each seed.

    Args:
      binary: that trains the runs.
      grid: "FLAG=VALUE,VALUE,..." each.
      seeds: values of --seed.
      fixed: "FLAG=VALUE" each, the same for all runs; a value may have commas.
      flagfiles: paths of flagfiles.

    Raises:
      ValueError: if there are none, or a flag is set twice.
    """
    axes = [_axis(text) for text in grid]
    axes.append(("seed", [seed for seed in seeds if seed]))
    names = [name for name, _ in axes] + [_named(text)[0] for text in fixed]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"--{twice[0]} is in the grid and set elsewhere, too.")
    empty = [name for name, values in axes if not values]
    if empty:
        raise ValueError(f"The grid is empty: it has no value for --{empty[0]}.")
    common = dict(map(_named, fixed))
    files = [(path, _of_flagfile(path)) for path in flagfiles] or [(None, {})]
    found = {}
    for (path, settings), *values in itertools.product(
        files, *([(name, value) for value in values] for name, values in axes)
    ):
        of_file = {"flagfile": pathlib.Path(path).stem} if path else {}
        own = dict(values)
        one = Configuration(binary, settings | common | own, of_file | own)
        # Flagfiles may say the same.
        found[one.name] = one
    return list(found.values())


def _axis(text):
    name, values = _named(text, "--grid")
    return name, [value for value in values.split(",") if value]


def _named(text, flag="--fixed"):
    name, equals, value = text.partition("=")
    name = name.removeprefix("--")
    if not name or not equals:
        raise ValueError(f"{flag} must be FLAG=VALUE. Received: {text!r}")
    return name, value


def _of_flagfile(path):
    """The flags in a file; those that are there several times as a tuple."""
    try:
        lines = flags.FlagValues().read_flags_from_files([f"--flagfile={path}"])
    except (OSError, UnicodeDecodeError, flags.Error) as error:
        raise ValueError(f"--flagfiles={path}: {error}") from error
    settings: dict[str, tuple[str, ...]] = {}
    for line in lines:
        name, _, value = line.removeprefix("--").partition("=")
        if name not in _NOT_IN_HASH:
            settings[name] = (*settings.get(name, ()), value)
    return {name: v if len(v) > 1 else v[0] for name, v in settings.items()}
