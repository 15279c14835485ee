"""Loops compiled to machine code."""

from collections.abc import Callable

import numba


def compiled(function: Callable) -> Callable:
    """Compiles `function` with numba on its first call, and caches the machine code on disk for
    later processes.

    A read-only installation without a writable home directory has no place for the cache; there
    every process compiles again, which takes seconds."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # "no locator available": numba finds no place for the cache
        return numba.njit(nogil=True)(function)
