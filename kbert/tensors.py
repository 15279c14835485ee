"""Files of arrays by name: safetensors, and TensorFlow's checkpoints. Nothing in them is ever
unpickled."""

import numpy as np
import safetensors
import safetensors.numpy

from tfrecords import InputError


def save_tensors(values, path, metadata=None):
    """Writes arrays by name as safetensors, readable as any new file is; safetensors itself lets
    the owner alone read it."""
    path.touch()
    mode = path.stat().st_mode
    safetensors.numpy.save_file(values, path, metadata=metadata)
    path.chmod(mode)


def read_tensors(path):
    """The arrays in a safetensors file, by name.

    Raises:
        InputError: It is not there, or damaged.
    """
    try:
        return safetensors.numpy.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"Expected the weights in {path}. Received: {error}.") from None


def read_checkpoint(prefix, wanted):
    """The arrays of a TensorFlow checkpoint whose names `wanted`, a function, says yes to.

    Raises:
        InputError: It is not there, or damaged.
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
