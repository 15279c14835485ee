"""The commands that train a model and measure it."""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import click

from kbert.cli.options import (
    ACCUMULATE,
    DATA,
    DEVICES,
    DROPOUT_HELP,
    MODEL,
    OPTIMISATION,
    OPTIMIZER,
    PATH,
    RECOMPUTE,
    SIZES_HELP,
    Command,
    option,
    precision_option,
)
from kbert.cli.start import load_package
from kbert.config import DEFAULT_SIZE, STRATEGIES, BertConfig, PretrainingConfig, resolve_bert
from kbert.formats.protocol import CONFIGURATION, no_model, something_at
from kbert.run.hub import no_run
from tfrecords.schema import SPLITS, load_manifest

_RUN = "Run"
_EVALUATION = "Evaluation and checkpoints"


@click.command(cls=Command, short_help="Pretrain BERT on records.")
@click.argument("records", type=PATH)
@option(
    "--output",
    required=True,
    type=PATH,
    section=_RUN,
    help="The directory of the run. The same command again continues an interrupted run.",
)
@option(
    "--seed",
    of=PretrainingConfig,
    section=_RUN,
    help="Seed of the order of the records, the initial weights and dropout.",
)
@option(
    "--init-from",
    type=PATH,
    section=MODEL,
    help="A run, or a model in any format of 'kbert export', whose weights to start from; also "
    "with records of another vocabulary.",
)
@option(
    "--size",
    section=MODEL,
    show_default=f"{DEFAULT_SIZE}, or as --init-from",
    help=SIZES_HELP,
)
@option(
    "--dropout",
    type=float,
    show_default=f"{BertConfig.dropout}, or as --init-from",
    section=MODEL,
    help=DROPOUT_HELP,
)
@option(
    "--attention-dropout",
    type=float,
    show_default="as --dropout",
    section=MODEL,
    help="Dropout rate of attention alone; 0 lets JAX use fused attention.",
)
@option(
    "--max-positions",
    type=int,
    show_default=f"{BertConfig.max_positions}, or as --init-from",
    section=MODEL,
    help="Number of position embeddings: the longest sequence that the model can ever take. Those "
    "of --init-from are cut or repeated.",
)
@option("--batch-size", of=PretrainingConfig, section=DATA, help="Rows in an update.")
@option("--steps", of=PretrainingConfig, section=OPTIMISATION, help="Updates of the weights.")
@OPTIMIZER
@option("--learning-rate", of=PretrainingConfig, section=OPTIMISATION, help="Peak learning rate.")
@option(
    "--warmup-steps",
    of=PretrainingConfig,
    show_default="10000, but at most a tenth of the steps",
    section=OPTIMISATION,
    help="Updates over which the learning rate rises from 0.",
)
@option(
    "--decay-power",
    of=PretrainingConfig,
    section=OPTIMISATION,
    help="Power of the curve on which the learning rate falls to 0; 1 is a line.",
)
@option(
    "--weight-decay",
    of=PretrainingConfig,
    section=OPTIMISATION,
    help="Decoupled weight decay, times the learning rate.",
)
@option(
    "--mlm-weight",
    of=PretrainingConfig,
    section=OPTIMISATION,
    help="Weight of the masked language modelling loss.",
)
@option(
    "--nsp-weight",
    of=PretrainingConfig,
    section=OPTIMISATION,
    help="Weight of the next sentence prediction loss.",
)
@option(
    "--evaluate-every",
    of=PretrainingConfig,
    show_default="a twentieth of the steps",
    section=_EVALUATION,
    help="Updates between evaluations on the validation split.",
)
@option(
    "--evaluate-steps",
    of=PretrainingConfig,
    show_default="all, but at most about a tenth of the time",
    section=_EVALUATION,
    help="Batches of a validation during training.",
)
@option(
    "--patience",
    of=PretrainingConfig,
    show_default="never",
    section=_EVALUATION,
    help="Stop after this many evaluations without a lower loss.",
)
@option(
    "--checkpoint-every",
    of=PretrainingConfig,
    section=_EVALUATION,
    help="Updates between checkpoints.",
)
@option(
    "--keep-checkpoints",
    of=PretrainingConfig,
    section=_EVALUATION,
    help="Number of checkpoints to keep, the newest ones; with --patience the best stays too.",
)
@option(
    "--tensorboard",
    is_flag=True,
    section=_EVALUATION,
    help="Also log to OUTPUT/tensorboard, for TensorBoard.",
)
@option(
    "--strategy",
    metavar=f"[{'|'.join(STRATEGIES)}]",
    default=STRATEGIES[0],
    section=DEVICES,
    help="Devices to train on: one, all GPUs (mirrored), the processes of TF_CONFIG, or a TPU. "
    "They share each batch.",
)
@precision_option()
@ACCUMULATE
@RECOMPUTE
def pretrain(
    records: pathlib.Path,
    output: pathlib.Path,
    init_from: pathlib.Path | None,
    size: str | None,
    dropout: float | None,
    attention_dropout: float | None,
    max_positions: int | None,
    strategy: str,
    accumulate: int,
    recompute: bool,
    tensorboard: bool,
    **options: Any,
) -> None:
    """Pretrain BERT on the RECORDS in a directory. The same command again continues an interrupted
    run."""
    # Mistakes are found before TensorFlow is loaded, which takes seconds.
    manifest = load_manifest(records)
    assert manifest.vocabulary_size is not None  # `load_manifest` returns none without
    given = {
        "dropout": dropout,
        "attention_dropout": attention_dropout,
        "max_positions": max_positions,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    resolve_bert(size or DEFAULT_SIZE, changes, vocabulary_size=manifest.vocabulary_size)
    pretraining = PretrainingConfig(**options)
    if init_from and not something_at(init_from) and not (output / CONFIGURATION).is_file():
        raise no_model(init_from)

    kbert = load_package("kbert")
    try:
        # The model of --init-from is loaded by `pretrain`: not before the devices are set up.
        model, results = kbert.pretrain(
            records,
            output,
            bert=size or (DEFAULT_SIZE if init_from is None else None),
            changes=changes,
            pretraining=pretraining,
            init_from=init_from,
            strategy=strategy,
            accumulate=accumulate,
            recompute=recompute,
            tensorboard=tensorboard,
            verbose=1 if sys.stdout.isatty() else 2,
        )
    except kbert.TrainingError as error:
        raise click.ClickException(str(error)) from None
    step = int(model.optimizer.iterations.numpy())
    with_patience = options["patience"] is not None  # the best step's weights, not the last's
    click.echo(
        f"{output}: the weights of step {step:,}"
        if with_patience
        else f"{output}: trained for {step:,} step{'s' * (step != 1)}"
    )
    if results:  # none without a validation split
        click.echo(f"validation, all {manifest.num_records('validation'):,} records:")
        click.echo(kbert.results_table(results))


@click.command(cls=Command, short_help="Measure a run on the validation split.")
@click.argument("run", type=PATH)
@click.argument("records", type=PATH)
@option(
    "--split",
    type=click.Choice(SPLITS[::-1]),
    default="validation",
    help="The split to measure on.",
)
@option(
    "--batch-size",
    type=click.IntRange(1),
    default=PretrainingConfig.batch_size,
    help="Rows at once.",
)
def evaluate(run: pathlib.Path, records: pathlib.Path, split: str, batch_size: int) -> None:
    """Measure the newest checkpoint of a RUN, or with --patience its best, on a split of RECORDS,
    next to what is reached without a model."""
    # Mistakes are found before TensorFlow is loaded, which takes seconds.
    if not run.exists():
        raise no_run(run)
    manifest = load_manifest(records)
    kbert = load_package("kbert")
    results = kbert.evaluate(run, records, split=split, batch_size=batch_size)
    click.echo(f"{run} on the {manifest.num_records(split):,} {split} records of {records}")
    click.echo(kbert.results_table(results))
