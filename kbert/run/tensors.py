"""Files of arrays by name: safetensors, and TensorFlow's checkpoints. Nothing in them is ever
unpickled."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable

import numpy as np
import safetensors
import safetensors.numpy

from tfrecords import InputError


def save_tensors(
    values: dict[str, np.ndarray], path: pathlib.Path, metadata: dict[str, str] | None = None
) -> None:
    """Writes arrays by name as safetensors.

    Args:
        values: The arrays; they must be contiguous.
        path: The file.
        metadata: Of the file, for other tools.
    """
    # The library replaces the file by one that only its owner can read; the mode of a plain new
    # file, which follows the umask, is kept instead.
    path.touch()
    mode = path.stat().st_mode
    safetensors.numpy.save_file(values, path, metadata=metadata)
    path.chmod(mode)


def read_tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays in a safetensors file, by name.

    Raises:
        InputError: The file is missing or damaged.
    """
    try:
        return safetensors.numpy.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"Expected the weights in {path}. Received: {error}.") from None


def read_checkpoint(
    prefix: str | os.PathLike[str], wanted: Callable[[str], bool]
) -> dict[str, np.ndarray]:
    """The arrays of a TensorFlow checkpoint, by name.

    Args:
        prefix: The path of the checkpoint's files without ".index" and the like.
        wanted: Tells of each name whether its array is read.

    Raises:
        InputError: The checkpoint is missing or damaged.
    """
    import tensorflow as tf

    try:
        reader = tf.train.load_checkpoint(str(prefix))
        return {
            name: np.asarray(reader.get_tensor(name))
            for name in reader.get_variable_to_shape_map()
            if wanted(name)
        }
    except (ValueError, IndexError, RuntimeError, tf.errors.OpError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"Expected a TensorFlow checkpoint at {prefix}. Received: none that can be read "
            f"({reason})."
        ) from None
