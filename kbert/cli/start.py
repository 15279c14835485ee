"""The start of TensorFlow and JAX, without the lines that they write to the terminal."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import pathlib
from typing import Any

from tfrecords.errors import InputError, one_line

BACKENDS = ("tensorflow", "jax")
"""The backends of Keras that kbert runs on."""


def keras_backend() -> str:
    """The backend that Keras will start with: that of KERAS_BACKEND, else of keras.json.

    Keras reads them on import (keras/src/backend/config.py, Keras 3.15), and for one that does not
    exist fails with a traceback.

    Raises:
        InputError: kbert does not run on it.
    """
    home = pathlib.Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
    name, source = os.environ.get("KERAS_BACKEND"), "KERAS_BACKEND"
    if not name:
        source = str(home / "keras.json")
        try:
            name = json.loads((home / "keras.json").read_bytes())["backend"]
        except (OSError, ValueError, KeyError, TypeError):  # Keras then takes its own default, too
            name = BACKENDS[0]
    if name not in BACKENDS:
        raise InputError(
            f"Expected {source} to name a backend of Keras among {', '.join(BACKENDS)}. Received: "
            f"{name!r}; set KERAS_BACKEND to one of them."
        )
    return name


def load_package(name: str) -> Any:
    """Imports tfrecords or kbert for work, and first the libraries below it.

    TensorFlow and libtpu write lines of C++ to standard error when they start, before any of their
    settings counts; so both start here, while standard error is closed.

    Raises:
        InputError: JAX was asked for, but is not installed or finds no devices.
    """
    from tfrecords.quiet import silenced_stderr

    on_jax = name == "kbert" and keras_backend() == "jax"
    if on_jax and importlib.util.find_spec("jax") is None:
        raise InputError(
            "Expected JAX, which KERAS_BACKEND=jax asks for. Received: none; pip install '.[jax]' "
            "in the clone."
        )
    with silenced_stderr():
        importlib.import_module("tensorflow").config.list_physical_devices()
        if on_jax:
            try:
                # With libtpu installed and no TPU, this is what writes to the terminal.
                importlib.import_module("jax").devices()
            except RuntimeError as error:
                raise InputError(
                    "Expected a device that JAX can use. Received: none "
                    f"({one_line(error)}); see JAX_PLATFORMS."
                ) from None
    return importlib.import_module(name)
