"""How fast a machine trains a model, beside what its matrix products allow."""

import pathlib
import sys
import time

import keras
import numpy as np
from keras import ops


def training_flops(bert, sequence_length, max_predictions, pairs="nsp"):
    """The floating point operations of the matrix products that training on one sequence takes,
    forward and backward.

    A product of [m, k] and [k, n] has 2 m k n, and the gradients take two more of the same size. In
    the last block all rows have keys and values, but queries and what follows them have only those
    that the heads read."""
    size, inner, length = bert.hidden_size, bert.intermediate_size, sequence_length
    with_cls = pairs != "none"
    rows = max_predictions + with_cls

    def block(rows):
        attention = (
            2 * length * 2 * size * size + 2 * rows * 2 * size * size + 4 * rows * length * size
        )
        return attention + 2 * rows * 2 * size * inner

    mlm = max_predictions * 2 * (size * size + size * bert.vocabulary_size)
    nsp = 2 * size * size if with_cls else 0
    return 3 * ((bert.num_layers - 1) * block(length) + block(rows) + mlm + nsp)


def matrix_product_rate(precision="float32", size=None, seconds=0.5):
    """The floating point operations per second of this machine's first device in square matrix
    products.

    Args:
        precision: "float32" or "bfloat16".
        size: Rows and columns. None takes 2,048 on a CPU and 8,192 on what needs more to come to
            its full rate.
        seconds: How long to measure, about.
    """
    # Of a GPU, a wait for each product would measure the way there and back.
    default_size, products = (2048, 1) if device_kind() == "CPU" else (8192, 8)
    size = size or default_size
    numbers = np.random.default_rng(0).standard_normal(
        1 << 20, "float32"
    )  # again and again: to draw 8,192**2 takes a second
    x = ops.convert_to_tensor(np.resize(numbers, (size, size)), dtype=precision)

    def multiply(times):
        for _ in range(times):
            product = ops.matmul(x, x)
        float(ops.cast(product[0, 0], "float32"))  # waits for it

    multiply(1)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        multiply(products)
        best = min(best, time.perf_counter() - start)
    return products * 2 * size**3 / best


def in_words(sequences_per_second, sequence_length, flops, peak_rate):
    """Says how fast that is: sequences and tokens per second, and the share of the matrix product
    rate."""
    return (
        f"{sequences_per_second:,.4g} sequences/s, {sequences_per_second * sequence_length:,.0f} "
        "tokens/s, "
        f"{sequences_per_second * flops / peak_rate:.0%} of the matrix product rate"
    )


def device_kind():
    """What kind of device Keras computes on: "CPU", "GPU" or "TPU"."""
    return keras.distribution.list_devices()[0].split(":")[0].upper()


def peak_memory():
    """The most bytes so far: of the first device's memory if it has its own, else of this
    process's.

    Where neither can be told, 0.
    """
    if keras.backend.backend() == "jax":
        import jax

        if statistics := jax.devices()[0].memory_stats():
            return statistics["peak_bytes_in_use"]
    elif device_kind() == "GPU":
        import tensorflow as tf

        return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    status = pathlib.Path("/proc/self/status")
    if (
        status.exists()
    ):  # Linux, whose ru_maxrss begins with the peak of the process that started this one
        return _kilobytes(status, "VmHWM")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def available_memory():
    """The bytes left in the first device's memory, or in this machine's if it has none of its own;
    infinity if unknown."""
    if keras.backend.backend() == "jax":
        import jax

        if statistics := jax.devices()[0].memory_stats():
            return statistics["bytes_limit"] - statistics["bytes_in_use"]
    if device_kind() != "CPU" or not (there := pathlib.Path("/proc/meminfo")).exists():
        return float("inf")
    return _kilobytes(there, "MemAvailable")


def _kilobytes(path, name):
    (line,) = (line for line in path.read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])


def random_batch(batch_size, sequence_length, max_predictions, vocabulary_size, seed=0):
    """A batch as `tfrecords.read` gives it, of random tokens: (x, y, sample_weight), dicts of NumPy
    arrays.

    As in records, one sequence in ten is shorter, and about 15 % of the tokens of each are masked.
    """
    draw = np.random.default_rng(seed)
    lengths = np.full(batch_size, sequence_length)
    lengths[::10] = max(1, sequence_length // 2)
    index = np.arange(sequence_length)
    padding_mask = (index < lengths[:, None]).astype("int32")
    used = np.minimum(max_predictions, np.maximum(1, np.round(0.15 * lengths)))
    weights = (np.arange(max_predictions) < used[:, None]).astype("float32")
    positions = np.sort(
        np.argsort(draw.random((batch_size, sequence_length)) + 2 * (1 - padding_mask))[
            :, :max_predictions
        ]
    )
    ids = draw.integers(0, vocabulary_size, (2, batch_size, sequence_length), dtype="int32")
    x = {
        "token_ids": ids[0] * padding_mask,
        "segment_ids": (index >= lengths[:, None] // 2).astype("int32") * padding_mask,
        "padding_mask": padding_mask,
        "mask_positions": (positions * weights).astype("int32"),
    }
    y = {
        "mlm": ids[1, :, :max_predictions] * weights.astype("int32"),
        "nsp": draw.integers(0, 2, batch_size, dtype="int32"),
    }
    return x, y, {"mlm": weights, "nsp": np.ones(batch_size, "float32")}
