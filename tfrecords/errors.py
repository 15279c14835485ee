"""The error that is the user's to mend, and the check of a range that most often raises it."""

import math


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is one line: what was expected, what was received, where, and what to do. The command line prints it and
    exits with code 2; in Python it is a ValueError.
    """


def check_range(config, name, low, high):
    """Raises InputError if the field `name` is not a finite number from `low` to `high` (None: no bound)."""
    value = getattr(config, name)
    if not (math.isfinite(value) and value >= low and (high is None or value <= high)):
        bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise InputError(f"Expected {name} {bounds}. Received: {value}.")
