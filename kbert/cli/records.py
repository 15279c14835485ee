"""The commands for records that are there."""

from __future__ import annotations

import pathlib
import sys

import click

from kbert.cli.options import PATH, Command, option
from kbert.cli.start import load_package
from tfrecords.schema import MOST_PAIRS, USUAL_PACK, load_any_manifest, load_manifest


@click.command(cls=Command, short_help="Pack records, for less padding.")
@click.argument("records", nargs=-1, required=True, type=PATH)
@option("--output", required=True, type=PATH, help="The directory to make.")
@option(
    "--pack",
    type=click.IntRange(2, MOST_PAIRS),
    default=USUAL_PACK,
    help="Most pairs in a record.",
)
def pack(records: tuple[pathlib.Path, ...], output: pathlib.Path, pack: int) -> None:
    """Pack RECORDS, a directory by 'kbert records', or files in Google's schema by any tool: short
    sentence pairs share a record, with the masks and labels that they have.

    'kbert records --pack' makes the same records of the text. An interrupted command continues when
    it is run again."""
    if len(records) == 1 and records[0].is_dir():
        load_any_manifest(records[0])  # before TensorFlow is loaded, which takes seconds
    tfrecords = load_package("tfrecords")
    some = records[0] if len(records) == 1 else records  # one may be a pattern
    manifest = tfrecords.pack_records(some, output, pack, progress=sys.stderr.isatty())
    if manifest.config is not None:
        click.echo(tfrecords.inspect(output, num_examples=0))
        return
    # Of files by another tool there is less to say: they tell neither vocabulary nor text.
    from tfrecords.diagnosis import padding_of  # brings the text formats

    counts = manifest.counts["train"]
    click.echo(
        f"{output}: {counts['records']:,} records of {counts['pairs']:,} pairs, S = "
        f"{manifest.sequence_length}, P = {manifest.max_predictions}, "
        f"{padding_of(manifest, counts):.1%} padding; read them with tfrecords.read"
    )


@click.command(cls=Command, short_help="Describe what records contain.")
@click.argument("directory", type=PATH)
@option(
    "--examples",
    "num_examples",
    type=click.IntRange(0),
    show_default="a few",
    help="Number of records to decode.",
)
@option("--verify", is_flag=True, help="Read and check every record.")
def inspect(directory: pathlib.Path, num_examples: int | None, verify: bool) -> None:
    """Describe the records in DIRECTORY: counts, warnings and decoded examples."""
    load_manifest(directory)  # before TensorFlow is loaded, which takes seconds
    options = {} if num_examples is None else {"num_examples": num_examples}
    click.echo(load_package("tfrecords").inspect(directory, verify=verify, **options))
