"""How fast this machine trains a model, before there is a corpus: real steps of the real model on a
random batch."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kbert.config import BertConfig, PretrainingConfig
from kbert.model.bert import pretraining_model
from kbert.run.distribution import Devices, batches_for, check_shares, devices_of, in_cluster
from kbert.run.errors import is_out_of_memory
from kbert.run.progress import duration
from kbert.speed.machine import (
    available_memory,
    device_kind,
    matrix_product_rate,
    peak_memory,
    training_flops,
)
from kbert.step.micro_batches import check_accumulate
from kbert.step.objective import compile_model
from tfrecords import InputError, RecordsConfig
from tfrecords.batch import Batch, BatchSpec, random_batch

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
    """Rows in an update: sequences, unless they are packed."""
    compile_seconds: float
    """How much longer the first update takes than the next."""
    step_seconds: float
    """What an update takes: the median of a few repetitions."""
    matrix_product_rate: float
    """Floating point operations per second of this machine's matrix products, on all devices,
    measured beside the steps."""
    matrix_product_share: float
    """The share of that rate at which training does the matrix products of the model."""
    peak_memory: int
    """Bytes, as `speed.machine.peak_memory` counts them, for this and all smaller batches before
    it."""

    @property
    def sequences_per_second(self) -> float:
        """Of all devices together; with packed rows, rows."""
        return self.batch_size / self.step_seconds


def benchmark(
    bert: BertConfig,
    *,
    batch_sizes: Iterable[int] | None = None,
    sequence_length: int = RecordsConfig.sequence_length,
    max_predictions: int = RecordsConfig.max_predictions,
    pack: int = 1,
    precision: str = PretrainingConfig.precision,
    accumulate: int = 1,
    steps: int = PretrainingConfig.steps,
    strategy: str = "auto",
    verbose: int = 1,
) -> list[Measurement]:
    """Measures how fast this machine pretrains a model, with the step of `pretrain` on a random
    batch; takes about a minute.

    Args:
        bert: A BertConfig.
        batch_sizes: Rows in an update, one or several numbers; they are measured from the
            smallest on. None takes 8, 32 and 128, or as many of them as can be measured within a
            minute.
        sequence_length: S.
        max_predictions: The most tokens to predict in a sequence. P is that of records made with
            it, `RecordsConfig.row_predictions`.
        pack: As for `pretraining_model`: a row of the random batch has from one to so many pairs.
        precision: As for PretrainingConfig.
        accumulate: As for `pretrain`.
        steps: The updates of the run whose duration is estimated.
        strategy: As for `pretrain`, but not several workers.
        verbose: Whether to print a table, each row as soon as it is measured.

    Returns:
        A list of Measurement, one for each batch size that fits into the machine's memory.

    Raises:
        InputError: A value is out of its range, or not even the smallest batch fits into memory.
    """
    # Refuse what cannot be measured, before a model is made.
    began = time.perf_counter()
    devices = _devices_of(strategy)
    shapes: dict[str, Any] = {
        "sequence_length": sequence_length,
        "max_predictions": max_predictions,
        "pack": pack,
    }
    sizes = _checked(batch_sizes, bert, shapes, accumulate, devices)
    max_predictions = shapes["max_predictions"] = RecordsConfig(**shapes).row_predictions
    pretraining = PretrainingConfig(steps=steps, precision=precision)

    # One model serves all sizes: its weights and optimizer take the same memory with each.
    with devices.scope():
        model = pretraining_model(bert, dtype=pretraining.dtype_policy, pack=pack)
    packed = f", up to {pack} pairs in a row" if pack > 1 else ""
    micro_batches = f"; {accumulate} micro-batches" if accumulate > 1 else ""
    table = _Table("rows" if pack > 1 else "sequences", sequence_length, steps, verbose)
    table.line(
        f"{bert.num_layers} layers of {bert.hidden_size}, {model.count_params() / 1e6:,.1f} million"
        f" weights; S = {sequence_length}, P = {max_predictions}, V = {bert.vocabulary_size:,}"
        f"{packed}; {precision}{micro_batches}"
    )
    table.line(f"{keras.backend.backend()} on {devices.num_replicas} {device_kind()}")
    table.header()

    # From the smallest on, as long as time and memory allow.
    measured: list[Measurement] = []
    for number, batch_size in enumerate(sizes):
        if reason := _reason_to_stop(measured, batch_size, batch_sizes is None, began):
            table.line(f"{', '.join(f'{size:,}' for size in sizes[number:])}: left out, {reason}.")
            break
        try:
            batch = random_batch(BatchSpec(**shapes), batch_size, bert.vocabulary_size)
            with devices.scope():
                compile_model(model, pretraining, accumulate)
            flops = training_flops(bert, **shapes)
            measured.append(_measure(model, batch, pretraining, devices, flops))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            table.out_of_memory(batch_size)
            break
        table.row(measured[-1])
    if not measured:
        raise InputError(
            f"Expected memory for a batch. Received: too little for one of {sizes[0]:,}; take a "
            "smaller one."
        )
    best = max(measured, key=lambda one: one.sequences_per_second)
    table.line(
        f"fastest: batches of {best.batch_size:,}, {best.sequences_per_second:,.4g} {table.unit}/s"
    )
    return measured


def _devices_of(strategy: str) -> Devices:
    """The Devices of a strategy, of this machine alone."""
    if (
        keras.backend.backend() == "tensorflow"
        and strategy in ("auto", "multi-worker")
        and in_cluster()
    ):
        raise InputError(
            "Expected a benchmark of one machine. Received: several workers in TF_CONFIG; unset it."
        )
    return devices_of(strategy)


def _checked(
    batch_sizes: Iterable[int] | None,
    bert: BertConfig,
    shapes: dict[str, Any],
    accumulate: int,
    devices: Devices,
) -> list[int]:
    """The batch sizes to measure, the smallest first."""
    # Records have the same bounds.
    sequence_length = RecordsConfig(**shapes).sequence_length
    if sequence_length > bert.max_positions:
        raise InputError(
            f"Expected a sequence length of at most {bert.max_positions}, the positions of the "
            f"model. Received: {sequence_length}."
        )
    check_accumulate(accumulate)
    if batch_sizes is None:
        shares = devices.num_replicas * accumulate
        return sorted({max(1, size // shares) * shares for size in BATCH_SIZES})
    sizes = sorted({PretrainingConfig(batch_size=size).batch_size for size in batch_sizes})
    for batch_size in sizes:
        check_shares(batch_size, devices.num_replicas, accumulate)
    return sizes


def _measure(
    model: keras.Model,
    batch: Batch[np.ndarray],
    pretraining: PretrainingConfig,
    devices: Devices,
    flops: float,
) -> Measurement:
    """Trains on a batch again and again, with `fit`."""
    x, _, _ = batch
    batch_size = len(next(iter(x.values())))
    seconds = _timer(model, batch, batch_size)
    # The first update compiles the step; the second tells how many make a repetition.
    first, second = seconds(1), seconds(1)
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


def _timer(model: keras.Model, batch: Batch[np.ndarray], batch_size: int) -> Callable[[int], float]:
    """A function that trains for some steps and returns the seconds that they took."""

    def make(context: Any) -> tf.data.Dataset:
        rows = batch_size if context is None else batch_size // context.num_replicas_in_sync
        options = tf.data.Options()
        options.autotune.enabled = False  # as in `tfrecords.read`
        share = keras.tree.map_structure(lambda values: values[:rows], batch)
        return tf.data.Dataset.from_tensors(share).repeat().with_options(options)

    batches = batches_for(model, make)

    def seconds(steps: int) -> float:
        start = time.perf_counter()
        model.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0)
        return time.perf_counter() - start

    return seconds


def _reason_to_stop(
    measured: list[Measurement], batch_size: int, in_a_minute: bool, began: float
) -> str | None:
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
        return "since it would take more than a minute; name the sizes that you want to know"
    if len(measured) > 1:
        # Activations take memory in proportion to the batch, so two sizes tell the next.
        before = measured[-2]
        growth = (last.peak_memory - before.peak_memory) / (last.batch_size - before.batch_size)
        more = growth * (batch_size - last.batch_size)
        if more > (free := available_memory()):
            return (
                f"since it would take {more / 1e9:.1f} GB more memory, where {free / 1e9:.1f} GB "
                "are left"
            )
    return None


class _Table:
    """The table that is printed, each row as soon as it is measured."""

    def __init__(self, unit: str, sequence_length: int, steps: int, verbose: int) -> None:
        self.unit = unit
        self._sequence_length = sequence_length
        self._steps = steps
        self._verbose = verbose
        self._widths = {
            "batch size": 10,
            "compiled in": 11,
            f"{unit}/s": 11,
            "tokens/s": 9,
            "of matrix products": len("100% of 999,999 GFLOP/s"),
            "peak memory so far": 18,
            f"{steps:,} updates": max(12, len(f"{steps:,} updates")),
        }

    def line(self, text: str) -> None:
        if self._verbose:
            print(text, flush=True)

    def header(self) -> None:
        self._cells(*self._widths)

    def row(self, measurement: Measurement) -> None:
        rate = measurement.sequences_per_second
        self._cells(
            f"{measurement.batch_size:,}",
            f"{measurement.compile_seconds:.1f} s",
            f"{rate:,.4g}",
            f"{rate * self._sequence_length:,.0f}",
            f"{measurement.matrix_product_share:.0%} of "
            f"{measurement.matrix_product_rate / 1e9:,.0f} GFLOP/s",
            f"{measurement.peak_memory / 1e6:,.0f} MB",
            duration(self._steps * measurement.step_seconds),
        )

    def out_of_memory(self, batch_size: int) -> None:
        self._cells(f"{batch_size:,}", "out of memory")

    def _cells(self, *cells: str) -> None:
        """Prints the first cells of a row."""
        pairs = zip(cells, self._widths.values(), strict=False)
        self.line("  ".join(text.rjust(width) for text, width in pairs))
