"""The error for what the user can fix, with the checks that raise it most often, and the error of a
worker process that died."""

import math
import numbers
from collections.abc import Collection
from typing import Any


class InputError(ValueError):
    """The user's input or options cannot be used.

    The message is one line: where, what was expected, what was received, and what to do. The
    command line prints it and exits with code 2; in Python it is a ValueError."""


class WorkerError(RuntimeError):
    """A worker process died. The message is one line that names what it was processing."""


def one_line(text: object, length: int = 200) -> str:
    """The first `length` characters of a text, with every run of white space as one space.

    For messages of other libraries, which may be pages long, inside a message of one line.

    >>> one_line(ValueError("no such\\n  file"))
    'no such file'
    """
    return " ".join(str(text).split())[:length]


def check_choice(config: object, name: str, choices: Collection[str]) -> None:
    """Raises InputError unless the field `name` is one of `choices`."""
    value = getattr(config, name)
    if value not in choices:
        raise InputError(f"Expected {name} among {', '.join(choices)}. Received: {value!r}.")


def check_integer(config: object, name: str, low: int) -> None:
    """Raises InputError unless the field `name` is an integer of at least `low`."""
    check_range(config, name, low, None)
    value = getattr(config, name)
    if not isinstance(value, numbers.Integral):
        raise InputError(f"Expected {name} to be an integer. Received: {value!r}.")


def check_range(config: object, name: str, low: float, high: float | None) -> None:
    """Raises InputError unless the field `name` is a finite number from `low` to `high`; None for
    `high` is no upper bound."""
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InputError(f"Expected {name} to be a number. Received: {value!r}.")
    if not _is_within(value, low, high):
        bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise InputError(f"Expected {name} {bounds}. Received: {value}.")


def _is_within(value: Any, low: float, high: float | None) -> bool:
    return math.isfinite(value) and value >= low and (high is None or value <= high)
