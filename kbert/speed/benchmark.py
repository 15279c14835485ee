"""How fast this machine trains a model, before there is a corpus: real steps of the real model on a
random batch."""

import dataclasses
import statistics
import time

import keras
import tensorflow as tf

from kbert.config import PretrainingConfig
from kbert.model.bert import pretraining_model
from kbert.run.distribution import batches_for, check_shares, devices_of, in_cluster
from kbert.run.errors import is_out_of_memory
from kbert.speed.machine import (
    available_memory,
    device_kind,
    matrix_product_rate,
    peak_memory,
    training_flops,
)
from kbert.step.objective import compile_model
from tfrecords import InputError, RecordsConfig
from tfrecords.batch import BatchSpec, random_batch

BATCH_SIZES = (8, 32, 128)
"""What is measured where nothing else is asked for."""

_SECONDS = 60
"""After which no further batch size of those is begun."""
_REPETITIONS = 3
_REPETITION_SECONDS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """How fast training is with batches of one size."""

    batch_size: int
    """Sequences in an update."""
    compile_seconds: float
    """What the first update takes longer than the next."""
    step_seconds: float
    """What an update takes: the median of a few repetitions."""
    matrix_product_rate: float
    """Floating point operations per second of this machine's matrix products, on all devices,
    measured beside the steps."""
    matrix_product_share: float
    """The share of that rate at which training does what its own matrix products need."""
    peak_memory: int
    """Bytes, as of `speed.peak_memory`, of this and of the smaller batches before it."""

    @property
    def sequences_per_second(self):
        return self.batch_size / self.step_seconds


def benchmark(
    bert,
    *,
    batch_sizes=None,
    sequence_length=128,
    max_predictions=20,
    precision="float32",
    accumulate=1,
    steps=100_000,
    strategy="auto",
    verbose=1,
):
    """Measures how fast this machine pretrains a model, with the step of `pretrain` on a random
    batch; takes about a minute.

    Args:
        bert: A BertConfig.
        batch_sizes: Sequences in an update, one or several numbers; they are measured from the
            smallest on. None takes 8, 32 and 128, or as many of them as can be measured within a
            minute.
        sequence_length: S.
        max_predictions: P.
        precision: As of PretrainingConfig.
        accumulate: As for `pretrain`.
        steps: The updates of the run whose time is told.
        strategy: As for `pretrain`, but not several workers.
        verbose: Whether to print a table, every figure as soon as it is known.

    Returns:
        A list of Measurement, one for each batch size that the machine's memory holds.

    Raises:
        InputError: A value is out of its range, or not even the smallest batch fits into memory.
    """
    began = time.perf_counter()
    if (
        keras.backend.backend() == "tensorflow"
        and strategy in ("auto", "multi-worker")
        and in_cluster()
    ):
        raise InputError(
            "Expected a benchmark of one machine. Received: several workers in TF_CONFIG; unset it."
        )
    devices = devices_of(strategy)
    sizes = _checked(batch_sizes, bert, sequence_length, max_predictions, accumulate, devices)
    pretraining = PretrainingConfig(steps=steps, precision=precision)
    shapes = {"sequence_length": sequence_length, "max_predictions": max_predictions}
    with devices.scope():
        model = pretraining_model(bert, dtype=pretraining.dtype_policy)
    table = _Table(sequence_length, steps, verbose)
    table.title(model, bert, max_predictions, precision, accumulate, devices)
    measured = []
    for number, batch_size in enumerate(sizes):
        if reason := _reason_to_stop(measured, batch_size, batch_sizes is None, began):
            table.line(f"{', '.join(f'{size:,}' for size in sizes[number:])}: left out, {reason}.")
            break
        table.cell(f"{batch_size:,}")
        try:
            batch = random_batch(BatchSpec(**shapes), batch_size, bert.vocabulary_size)
            with devices.scope():
                compile_model(model, pretraining, accumulate)
            measurement = _measure(
                model, batch, pretraining, devices, training_flops(bert, **shapes), table
            )
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            table.line("  out of memory")
            break
        measured.append(measurement)
        table.row(measurement)
    if not measured:
        raise InputError(
            f"Expected memory for a batch. Received: too little for one of {sizes[0]:,}; take a "
            "smaller one."
        )
    best = max(measured, key=lambda one: one.sequences_per_second)
    table.line(
        f"fastest: batches of {best.batch_size:,}, {best.sequences_per_second:,.4g} sequences/s"
    )
    return measured


def _checked(batch_sizes, bert, sequence_length, max_predictions, accumulate, devices):
    """The batch sizes to measure, the smallest first."""
    RecordsConfig(
        sequence_length=sequence_length, max_predictions=max_predictions
    )  # refuses what no records have
    if sequence_length > bert.max_positions:
        raise InputError(
            f"Expected a sequence length of at most {bert.max_positions}, the positions of the "
            "model. "
            f"Received: {sequence_length}."
        )
    if accumulate < 1:
        raise InputError(f"Expected at least 1 micro-batch. Received: accumulate={accumulate}.")
    if batch_sizes is None:
        shares = devices.num_replicas * accumulate
        return sorted({max(1, size // shares) * shares for size in BATCH_SIZES})
    for batch_size in batch_sizes:
        PretrainingConfig(batch_size=batch_size)  # refuses what is below 1
        check_shares(batch_size, devices.num_replicas, accumulate)
    return sorted(set(batch_sizes))


def _measure(model, batch, pretraining, devices, flops, table):
    """Trains on a batch again and again, with `fit`, and returns the Measurement."""
    batch_size = len(batch[1]["nsp"])

    def make(context):
        rows = batch_size if context is None else batch_size // context.num_replicas_in_sync
        options = tf.data.Options()
        options.autotune.enabled = False  # as `tfrecords.read` has it
        share = keras.tree.map_structure(lambda values: values[:rows], batch)
        return tf.data.Dataset.from_tensors(share).repeat().with_options(options)

    batches = batches_for(model, make)

    def seconds(steps):
        start = time.perf_counter()
        model.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0)
        return time.perf_counter() - start

    first, second = seconds(1), seconds(1)
    table.cell(f"{max(0.0, first - second):.1f} s")
    rate = matrix_product_rate(pretraining.precision) * devices.num_replicas
    steps = max(1, round(_REPETITION_SECONDS / second))
    step_seconds = statistics.median(seconds(steps) / steps for _ in range(_REPETITIONS))
    return Measurement(
        batch_size=batch_size,
        compile_seconds=max(0.0, first - second),
        step_seconds=step_seconds,
        matrix_product_rate=rate,
        matrix_product_share=batch_size * flops / step_seconds / rate,
        peak_memory=peak_memory(),
    )


def _reason_to_stop(measured, batch_size, in_a_minute, began):
    """Why this batch size is not measured, nor any larger one; None if it is."""
    if not measured:
        return None
    last = measured[-1]
    step_seconds = last.step_seconds * batch_size / last.batch_size
    expected = (
        last.compile_seconds
        + 2 * step_seconds
        + _REPETITIONS * max(_REPETITION_SECONDS, step_seconds)
    )
    if in_a_minute and time.perf_counter() - began + expected > _SECONDS:
        return "since this would take more than a minute; name what you want to know"
    if len(measured) > 1:
        # Memory grows in a straight line.
        before = measured[-2]
        growth = (last.peak_memory - before.peak_memory) / (last.batch_size - before.batch_size)
        more = growth * (batch_size - last.batch_size)
        if more > (free := available_memory()):
            return f"since it would take {more / 1e9:.1f} GB more memory, where {free / 1e9:.1f} GB are left"
    return None


class _Table:
    """The table that is printed, every cell as soon as it is known."""

    def __init__(self, sequence_length, steps, verbose):
        self._sequence_length = sequence_length
        self._steps = steps
        self._verbose = verbose
        self._columns = {
            "batch size": 10,
            "compiled in": 11,
            "sequences/s": 11,
            "tokens/s": 9,
            "of matrix products": len("100% of 999,999 GFLOP/s"),
            "peak memory so far": 18,
            f"{steps:,} updates": max(12, len(f"{steps:,} updates")),
        }
        self._filled = 0

    def title(self, model, bert, max_predictions, precision, accumulate, devices):
        """Says what is measured, and heads the columns."""
        self.line(
            f"{bert.num_layers} layers of {bert.hidden_size}, {model.count_params() / 1e6:,.1f} "
            "million weights; "
            f"S = {self._sequence_length}, P = {max_predictions}, V = {bert.vocabulary_size:,}; "
            f"{precision}" + (f"; {accumulate} micro-batches" if accumulate > 1 else "")
        )
        self.line(f"{keras.backend.backend()} on {devices.num_replicas} {device_kind()}")
        for name in self._columns:
            self.cell(name)
        self.line("")

    def row(self, measurement):
        """Fills the rest of the row."""
        rate = measurement.sequences_per_second
        self.cell(f"{rate:,.4g}")
        self.cell(f"{rate * self._sequence_length:,.0f}")
        self.cell(
            f"{measurement.matrix_product_share:.0%} of "
            f"{measurement.matrix_product_rate / 1e9:,.0f} GFLOP/s"
        )
        self.cell(f"{measurement.peak_memory / 1e6:,.0f} MB")
        self.cell(_duration(self._steps * measurement.step_seconds))
        self.line("")

    def cell(self, text):
        width = list(self._columns.values())[self._filled]
        self._print(("  " if self._filled else "") + text.rjust(width), end="")
        self._filled += 1

    def line(self, text):
        """Ends the row, if one was begun, with a text."""
        self._print(text)
        self._filled = 0

    def _print(self, text, end="\n"):
        if self._verbose:
            print(text, end=end, flush=True)


def _duration(seconds):
    """
    >>> [_duration(seconds) for seconds in (42, 600, 15_000, 700_000)]
    ['42 seconds', '10.0 minutes', '4.2 hours', '8.1 days']
    """
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} seconds"
