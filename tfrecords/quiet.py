"""Silence for what libraries write to the terminal before any setting of theirs takes effect."""

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def silenced_stderr() -> Iterator[None]:
    """Drops everything written to the standard error inside the block, also by C++ code.

    TensorFlow's and XLA's C++ code writes to the file descriptor itself, and while it is being
    imported no log level applies yet. So the descriptor is redirected, not `sys.stderr`."""
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with open(os.devnull, "w") as null:
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
