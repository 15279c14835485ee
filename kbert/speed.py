"""How fast a machine trains a model, beside what its matrix products allow."""

import time

import numpy as np
from keras import ops


def training_flops(bert, sequence_length, max_predictions, next_sentence=True):
    """The floating point operations of the matrix products that training on one sequence takes, forward and backward.

    A product of [m, k] and [k, n] has 2 m k n, and the gradients take two more of the same size.
    """
    size, inner, length = bert.hidden_size, bert.intermediate_size, sequence_length
    block = 2 * length * (4 * size * size + 2 * size * inner) + 4 * length * length * size
    mlm = max_predictions * 2 * (size * size + size * bert.vocabulary_size)
    return 3 * (bert.num_layers * block + mlm + (2 * size * size if next_sentence else 0))


def matrix_product_rate(precision="float32", size=2048, seconds=0.5):
    """The floating point operations per second of this machine's first device in square matrix products.

    Args:
        precision: "float32" or "bfloat16".
        size: Rows and columns.
        seconds: How long to measure, about.
    """
    x = ops.convert_to_tensor(np.random.default_rng(0).standard_normal((size, size)), dtype=precision)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        float(ops.cast(ops.matmul(x, x)[0, 0], "float32"))  # waits for it
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def in_words(sequences_per_second, sequence_length, flops, peak_rate):
    """Says how fast that is: sequences and tokens per second, and the share of the matrix product rate."""
    return (
        f"{sequences_per_second:,.4g} sequences/s, {sequences_per_second * sequence_length:,.0f} tokens/s, "
        f"{sequences_per_second * flops / peak_rate:.0%} of the matrix product rate"
    )
