"""The keys of what is drawn for records, as TensorFlow operations: splitmix64 (Steele et al. 2014)
as a hash.

They order the records in reading, where each is a number to sort by, and start the draws of a
record's masks (masking.py). All of it is integers, and so alike on every device."""

import numpy as np
import tensorflow as tf

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def record_keys(seed, stream, numbers):
    """The keys of records, each a pure function of (seed, stream, number).

    Args:
        seed: int64, the seed of all randomness.
        stream: int64, which of the seed's streams of draws, such as the repetition of the data.
        numbers: int64 [B], the numbers of the records.

    Returns:
        int64 [B]. Every step is a bijection of its last argument: the keys of one stream are
        distinct.
    """
    keys = _hash(_hash(_hash(tf.constant(0, tf.uint64), seed), stream), numbers)
    return tf.bitcast(keys, tf.int64)


def _hash(state, value):
    """uint64: one whole output of splitmix64, number `value` (int64) + 1 from `state` (uint64)."""
    value = tf.bitcast(tf.convert_to_tensor(value, tf.int64), tf.uint64)
    z = state + (value + np.uint64(1)) * _GOLDEN
    z = _shifted_onto(z, 30) * np.uint64(0xBF58476D1CE4E5B9)
    z = _shifted_onto(z, 27) * np.uint64(0x94D049BB133111EB)
    return _shifted_onto(z, 31)


def _shifted_onto(z, bits):
    return tf.bitwise.bitwise_xor(z, tf.bitwise.right_shift(z, np.uint64(bits)))
