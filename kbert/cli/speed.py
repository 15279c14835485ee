"""The commands that tell how fast a machine would train a model."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import click

from kbert.cli.options import (
    ACCUMULATE,
    DATA,
    DEVICES,
    DROPOUT,
    MAX_PREDICTIONS,
    OPTIMISATION,
    OPTIMIZER,
    PACK,
    RECOMPUTE,
    SEQUENCE_LENGTH,
    SIZE,
    VOCABULARY_SIZE,
    Command,
    option,
    precision_option,
)
from kbert.cli.start import load_package
from kbert.config import STRATEGIES, BertConfig, PretrainingConfig
from tfrecords.errors import InputError


@click.command(cls=Command, short_help="Measure how fast this machine trains.")
@SIZE
@VOCABULARY_SIZE
@DROPOUT
@option(
    "--batch-size",
    "batch_sizes",
    type=int,
    multiple=True,
    show_default="as many sizes as can be measured in a minute",
    section=DATA,
    help="Rows in an update; may be given several times.",
)
@SEQUENCE_LENGTH
@MAX_PREDICTIONS
@PACK
@option("--steps", of=PretrainingConfig, section=OPTIMISATION, help="Updates of the run to time.")
@option(
    "--strategy",
    type=click.Choice([name for name in STRATEGIES if name != "multi-worker"]),
    default=STRATEGIES[0],
    section=DEVICES,
    help="Devices to train on, as for pretrain. They share each batch.",
)
@precision_option()
@ACCUMULATE
def benchmark(
    size: str, vocabulary_size: int, dropout: float, batch_sizes: tuple[int, ...], **options: Any
) -> None:
    """Measure how fast this machine pretrains a model, and estimate how long a run would take, from
    a few steps on random tokens.

    It takes about a minute. Evaluations and checkpoints are not included."""
    bert = BertConfig.of_size(size, vocabulary_size=vocabulary_size, dropout=dropout)
    kbert = load_package("kbert")
    kbert.benchmark(bert, batch_sizes=batch_sizes or None, **options)


@click.command(cls=Command, short_help="Compile a training step for a TPU you do not have.")
@SIZE
@VOCABULARY_SIZE
@DROPOUT
@option(
    "--batch-size",
    of=PretrainingConfig,
    section=DATA,
    help="Rows in an update, on all chips together.",
)
@SEQUENCE_LENGTH
@MAX_PREDICTIONS
@PACK
@OPTIMIZER
@option(
    "--steps",
    type=int,
    section=OPTIMISATION,
    help="Also estimate how long this many updates take.",
)
@option(
    "--topology",
    default="v5e:2x2",
    section=DEVICES,
    help="TPU chips (v4, v5e, v5p or v6e) and their layout.",
)
@precision_option(default="bfloat16")
@ACCUMULATE
@RECOMPUTE
def plan(
    size: str,
    vocabulary_size: int,
    dropout: float,
    batch_size: int,
    optimizer: str,
    precision: str,
    steps: int | None,
    topology: str,
    **options: Any,
) -> None:
    """Tell what a training step would need on a TPU: memory of a chip, operations, and the least
    time.

    The step is compiled on this machine by the TPU's own compiler, and not run; no TPU is needed.
    Large sizes take minutes. Requires Linux and pip install '.[tpu-plan]' in the clone."""
    if importlib.util.find_spec("jax") is None:
        raise InputError(
            "Expected JAX. Received: none; pip install '.[tpu-plan]' in the clone, on Linux."
        )
    bert = BertConfig.of_size(size, vocabulary_size=vocabulary_size, dropout=dropout)
    settings: dict[str, Any] = {
        "batch_size": batch_size,
        "optimizer": optimizer,
        "precision": precision,
    }
    if steps is not None:
        settings["steps"] = steps
    pretraining = PretrainingConfig(**settings)

    # Only the processor is needed: a TPU or GPU of this machine stays free for other processes.
    os.environ |= {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    load_package("kbert")
    from kbert.speed.plan import plan_table, training_plan

    click.echo(plan_table(training_plan(bert, pretraining, topology, **options), steps))
