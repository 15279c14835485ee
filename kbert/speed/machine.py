"""How fast a machine trains a model, next to what its matrix products allow."""

from __future__ import annotations

import pathlib
import sys
import time

import keras
import numpy as np
from keras import ops

from kbert.config import BertConfig


def training_flops(
    bert: BertConfig,
    sequence_length: int,
    max_predictions: int,
    pairs: str = "nsp",
    pack: int = 1,
) -> int:
    """The floating point operations of the matrix products that training on one row takes, forward
    and backward: one sequence, or up to `pack` of them, between which attention is computed too.

    A product of [m, k] and [k, n] takes 2 m k n, and the gradients take two more of the same size.
    In the last block keys and values are computed for all rows, but queries and what follows them
    only for those that the heads read."""
    size, inner, length = bert.hidden_size, bert.intermediate_size, sequence_length
    num_cls = 0 if pairs == "none" else pack
    rows = max_predictions + num_cls

    def block(rows: int) -> int:
        # Keys and values of all rows; queries and the output projection of some; both products of
        # attention; the feed-forward network.
        attention = (
            2 * length * 2 * size * size + 2 * rows * 2 * size * size + 4 * rows * length * size
        )
        return attention + 2 * rows * 2 * size * inner

    mlm = max_predictions * 2 * (size * size + size * bert.vocabulary_size)
    nsp = num_cls * 2 * size * size
    return 3 * ((bert.num_layers - 1) * block(length) + block(rows) + mlm + nsp)


def matrix_product_rate(
    precision: str = "float32", size: int | None = None, seconds: float = 0.5
) -> float:
    """The floating point operations per second of this machine's first device in square matrix
    products.

    Args:
        precision: "float32", "bfloat16" or "float16".
        size: Rows and columns. None takes 2,048 on a CPU and 8,192 on devices that reach their full
            rate only with larger products.
        seconds: About how long to measure.
    """
    # On a GPU, to wait for each product would measure the round trip to the device.
    default_size, products = (2048, 1) if device_kind() == "CPU" else (8192, 8)
    size = size or default_size
    # A million numbers, repeated: drawing 8,192**2 of them takes a second.
    numbers = np.random.default_rng(0).standard_normal(1 << 20, "float32")
    x = ops.convert_to_tensor(np.resize(numbers, (size, size)), dtype=precision)

    def multiply(times: int) -> None:
        product = x
        for _ in range(times):
            product = ops.matmul(x, x)
        float(ops.cast(product[0, 0], "float32"))  # waits for the result

    # The fastest of several, since anything else that the machine does only slows them down.
    multiply(1)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        multiply(products)
        best = min(best, time.perf_counter() - start)
    return products * 2 * size**3 / best


def in_words(
    sequences_per_second: float, sequence_length: float, flops: float, peak_rate: float
) -> str:
    """The speed in words: sequences and tokens per second, and the share of the matrix product
    rate. Length and operations are those of a sequence; of packed rows, on average."""
    return (
        f"{sequences_per_second:,.4g} sequences/s, "
        f"{sequences_per_second * sequence_length:,.0f} tokens/s, "
        f"{sequences_per_second * flops / peak_rate:.0%} of the matrix product rate"
    )


def device_kind() -> str:
    """The kind of device that Keras computes on: "CPU", "GPU" or "TPU"."""
    return keras.distribution.list_devices()[0].split(":")[0].upper()


_highest = 0
"""The highest peak that the kernel told of so far, in bytes."""


def peak_memory() -> int:
    """The most bytes in use so far: in the first device's memory if it has its own, else in this
    process."""
    if keras.backend.backend() == "jax":
        import jax

        if statistics := jax.devices()[0].memory_stats():
            return statistics["peak_bytes_in_use"]
    elif device_kind() == "GPU":
        import tensorflow as tf

        return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # on Linux, ru_maxrss starts at the peak of the parent process
        # The kernel's counters are rough: its peak may be some hundred kB less than a moment ago.
        global _highest
        _highest = max(_highest, _kilobytes(status, "VmHWM"))
        return _highest
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def available_memory() -> float:
    """The bytes available in the first device's memory, or in this machine's if it has none of its
    own; infinity if unknown."""
    if keras.backend.backend() == "jax":
        import jax

        if statistics := jax.devices()[0].memory_stats():
            return statistics["bytes_limit"] - statistics["bytes_in_use"]
    if device_kind() != "CPU" or not (there := pathlib.Path("/proc/meminfo")).exists():
        return float("inf")
    return _kilobytes(there, "MemAvailable")


def _kilobytes(path: pathlib.Path, name: str) -> int:
    (line,) = (line for line in path.read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
