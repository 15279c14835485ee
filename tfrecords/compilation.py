"""Loops compiled to machine code."""

import numba


def compiled(function):
    """Compiles `function` with numba when it is first called, and keeps the result for later
    processes where there is a place.

    A read-only installation without a writable home has none; there every process compiles anew,
    which takes seconds."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return numba.njit(nogil=True)(function)
