"""Hashes in place of random draws: splitmix64 (Steele et al. 2014), whose constants stand here.

The keys of records order them in reading, where each is a number to sort by, and start the draws of
a record's masks (masking.py). The hash of a document's number decides which shard it goes to
(build/buckets.py). All of it is integer arithmetic, and therefore alike on every device."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2**64 divided by the golden ratio, the step of splitmix64's state."""
FIRST_FACTOR = np.uint64(0xBF58476D1CE4E5B9)
SECOND_FACTOR = np.uint64(0x94D049BB133111EB)
"""The two factors by which splitmix64 mixes its state to an output."""

# Not GOLDEN: with equal steps, number n for purpose p + 1 would hash like number n + 1 for p.
_NUMBER_STEP = np.uint64(0xD1342543DE82EF95)


@tf.function(
    input_signature=[tf.TensorSpec(shape, tf.int64) for shape in ([], [], [None])], autograph=False
)
def record_keys(
    seed: int | tf.Tensor, stream: int | tf.Tensor, numbers: np.ndarray | tf.Tensor
) -> tf.Tensor:
    """The keys of records, each a pure function of (seed, stream, number).

    A function of TensorFlow, which the graph of a pipeline calls: its sixty operations are made
    once in a process.

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


def pair_keys(keys: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    """The keys of pairs, each a pure function of the key of its row and its number there.

    Args:
        keys: int64 [n], by `record_keys`.
        numbers: int64 [n], from 0.

    Returns:
        int64 [n].
    """
    return tf.bitcast(_hash(tf.bitcast(keys, tf.uint64), numbers), tf.int64)


def _hash(state, value):
    """uint64: one whole output of splitmix64, number `value` (int64) + 1 from `state` (uint64)."""
    value = tf.bitcast(tf.convert_to_tensor(value, tf.int64), tf.uint64)
    z = state + (value + np.uint64(1)) * GOLDEN
    z = _shifted_onto(z, 30) * FIRST_FACTOR
    z = _shifted_onto(z, 27) * SECOND_FACTOR
    return _shifted_onto(z, 31)


def _shifted_onto(z, bits):
    return tf.bitwise.bitwise_xor(z, tf.bitwise.right_shift(z, np.uint64(bits)))


def uniform_hash(numbers: np.ndarray, seed: int, purpose: int) -> np.ndarray:
    """Hashes uint64 [n] to uniform floats in [0, 1) (float64 [n]), keyed by (seed, purpose), as
    NumPy operations.

    Mixes twice as splitmix64 does: numbers and seeds are small, and differ in few bits. A purpose
    is 0 to 3, one for each question that is asked about the same number."""
    with np.errstate(over="ignore"):  # modulo 2**64 is what is wanted
        key = (np.uint64(seed) * np.uint64(4) + np.uint64(purpose)) * GOLDEN
        z = (numbers + np.uint64(1)) * _NUMBER_STEP + key
        for _ in range(2):
            z = (z ^ (z >> np.uint64(30))) * FIRST_FACTOR
            z = (z ^ (z >> np.uint64(27))) * SECOND_FACTOR
            z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)) * 2.0**-53
