"""Checks of arguments: errors that name the argument and the value received."""

import math
import numbers
import os
import pathlib


def check_fraction(name: str, value) -> None:
    """Raises unless the value is a number in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number. Received: {value!r}")
    if not 0.0 <= value < 1.0:
        raise ValueError(
            f"{name} must be at least 0 and below 1: it is the share of weights "
            f"that are zero, such as 0.9 for 90 %. Received: {value!r}"
        )


def check_number(
    name: str,
    value,
    minimum: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> None:
    """Raises unless the value is a finite number within the given limits."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number. Received: {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite. Received: {value!r}")
    if minimum is not None and value < minimum:
        raise ValueError(f"{name} must be at least {minimum}. Received: {value!r}")
    if above is not None and not value > above:
        raise ValueError(f"{name} must be above {above}. Received: {value!r}")
    if below is not None and not value < below:
        raise ValueError(f"{name} must be below {below}. Received: {value!r}")


def check_integer(name: str, value, minimum: int) -> None:
    """Raises unless the value is an integer of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer. Received: {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}. Received: {value!r}")


def check_boolean(name: str, value) -> None:
    """Raises unless the value is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False. Received: {value!r}")


def check_path(value) -> pathlib.Path:
    """The value as a path; raises TypeError unless it is one."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"path must be a path of a file. Received: {value!r}")
    return pathlib.Path(value)


def check_pair(name: str, value) -> tuple[int, int]:
    """The value as a tuple; raises unless it is two integers of at least 1."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"{name} must be two integers. Received: {value!r}")
    for part in value:
        check_integer(name, part, minimum=1)
    return tuple(value)


def check_choice(name: str, value, choices) -> None:
    """Raises unless the value is one of the choices."""
    if value not in list(choices):
        raise ValueError(
            f"{name} must be one of {', '.join(choices)}. Received: {value!r}"
        )
