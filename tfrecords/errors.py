"""The one error of the data half that is the user's to mend."""


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is one line: what was expected, what was received, where, and what to do. The command line prints it and
    exits with code 2; in Python it is a ValueError.
    """
