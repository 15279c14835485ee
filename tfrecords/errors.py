"""The error that is the user's to mend, and the checks that most often raise it; the error of a
process that died."""

import math
import numbers


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is one line: what was expected, what was received, where, and what to do. The
    command line prints it and exits with code 2; in Python it is a ValueError."""


class WorkerError(RuntimeError):
    """A process that works on a part of a job died; the message is one line that names what it was
    on."""


def check_choice(config, name, choices):
    """Raises InputError if the field `name` is not among `choices`."""
    value = getattr(config, name)
    if value not in choices:
        raise InputError(f"Expected {name} among {', '.join(choices)}. Received: {value!r}.")


def check_integer(config, name, low):
    """Raises InputError if the field `name` is not an integer of at least `low`."""
    check_range(config, name, low, None)
    value = getattr(config, name)
    if not isinstance(value, numbers.Integral):
        raise InputError(f"Expected {name} to be an integer. Received: {value!r}.")


def check_range(config, name, low, high):
    """Raises InputError if the field `name` is not a finite number from `low` to `high` (None: no
    bound)."""
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InputError(f"Expected {name} to be a number. Received: {value!r}.")
    if not (math.isfinite(value) and value >= low and (high is None or value <= high)):
        bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise InputError(f"Expected {name} {bounds}. Received: {value}.")
