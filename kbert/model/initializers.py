"""The initial weights: from NumPy, so that they are the same on every backend of Keras and every
device."""

from __future__ import annotations

import zlib
from typing import Any

import keras
import numpy as np
from keras import ops

_LIMIT = 2.0
"""Where the normal is cut, in its standard deviations, as by tf.truncated_normal_initializer in
google-research/bert."""

_CHUNK = 1 << 18
"""Numbers drawn at once, few enough to be still in the processor's cache when they are checked."""


def kernel_initializer(stddev: float, seed: int, *path: str) -> TruncatedNormal:
    """The truncated normal of BERT's kernels and embeddings: a function of the seed and of the
    weight's place."""
    return TruncatedNormal(stddev=stddev, seed=zlib.crc32(f"{seed}/{'/'.join(path)}".encode()))


@keras.saving.register_keras_serializable("kbert")
class TruncatedNormal(keras.initializers.Initializer):
    """A normal without what lies beyond two standard deviations, a function of (stddev, seed,
    shape) alone.

    keras.initializers.TruncatedNormal draws from the backend's generator, so that one seed gives
    other weights on JAX than on TensorFlow. This one takes 0.3 to 0.8 s for the word embeddings of
    base, as Keras' does, and 5 to 7 s for all weights of large [two busy cores, 2026-11].

    Args:
        stddev: The standard deviation of the normal before it is cut; after that it is 0.88 times
            as large.
        seed: int of at least 0.
    """

    def __init__(self, *, stddev: float, seed: int) -> None:
        self.stddev = stddev
        self.seed = seed

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        generator = np.random.Generator(np.random.PCG64(self.seed))
        values = np.empty(shape, np.float32)
        flat = values.reshape(-1)  # a view: what is written there is in `values`
        for start in range(0, flat.size, _CHUNK):
            chunk = flat[start : start + _CHUNK]
            generator.standard_normal(dtype=np.float32, out=chunk)
            # Draw again what lies beyond the limit, until nothing does.
            beyond = np.flatnonzero(np.abs(chunk) > _LIMIT)
            while len(beyond):
                chunk[beyond] = generator.standard_normal(len(beyond), np.float32)
                beyond = beyond[np.abs(chunk[beyond]) > _LIMIT]
            chunk *= np.float32(self.stddev)
        return ops.convert_to_tensor(values, dtype=dtype or keras.config.floatx())

    def get_config(self) -> dict[str, Any]:
        return {"stddev": self.stddev, "seed": self.seed}
