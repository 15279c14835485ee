"""The commands of the data half: from text to records."""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
import sys
import warnings
from typing import Any

import click

from kbert.cli.options import INPUTS, PATH, Command, normalization_options, option, text_options
from kbert.cli.start import load_package
from kbert.config import RELEASED_VOCABULARY_SIZE
from tfrecords.files import new_file, write_text
from tfrecords.inputs import STANDARD_INPUT, input_files, parted_weight
from tfrecords.normalization import LONG_WORDS
from tfrecords.schema import (
    COMPRESSIONS,
    LONG_SENTENCES,
    MASK_UNITS,
    MASKINGS,
    PAIRS,
    RecordsConfig,
)
from tfrecords.vocabulary import MIN_FREQUENCY, Vocabulary

_SEQUENCES = "Sequences"
_MASKS = "Masked tokens"
_FILES = "Splits and files"
_TEXT = "Text"
_WORK = "Processes"
_CASED_HELP = "Keep case, or lowercase the text."
_SHOWN = 8
"""New tokens that are shown."""


@click.command(cls=Command, short_help="Write Python's documentation as a corpus.")
@click.argument("output", type=PATH)
@option(
    "--packages",
    multiple=True,
    metavar="NAME",
    show_default=False,
    help="An installed package whose documentation to add; may be given several times.",
)
def corpus(output: pathlib.Path, packages: tuple[str, ...]) -> None:
    """Write the documentation of this Python installation to the file OUTPUT: real English, without
    a download.

    One sentence per line, one document per module, an empty line between documents. Only prose is
    written, and every paragraph only once."""
    from tfrecords import python_docs

    new_file(output)
    documents = list(python_docs.python_documents(packages))
    write_text(output, "\n".join("\n".join(document) + "\n" for document in documents))
    sentences = sum(map(len, documents))
    click.echo(
        f"{output}: {len(documents):,} documents, {sentences:,} sentences, "
        f"{output.stat().st_size / 1e6:.1f} MB"
    )


def _check_inputs(inputs: tuple[pathlib.Path, ...]) -> None:
    """Refuses what is not there before TensorFlow is loaded, which takes seconds. What is there is
    looked at once, by the library, which warns of what it leaves out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in inputs:
            place, _ = parted_weight(path)
            if place != STANDARD_INPUT and not place.exists():
                input_files(path)


@click.command(cls=Command, short_help="Learn a WordPiece vocabulary.")
@INPUTS
@option("--output", required=True, type=PATH, help="The vocabulary file to write.")
@option(
    "--size", default=RELEASED_VOCABULARY_SIZE, help="Number of tokens, special tokens included."
)
@option(
    "--extend",
    type=PATH,
    help="A vocabulary file, or a model in any format of 'kbert export', whose tokens keep their "
    "ids; new ones for what it splits most follow, up to --size.",
)
@option(
    "--min-frequency",
    type=click.IntRange(1),
    default=MIN_FREQUENCY,
    help="How often a pair of tokens must occur to be merged into one.",
)
@option(
    "--cased/--uncased",
    default=None,
    show_default="uncased, or as --extend",
    help=_CASED_HELP,
)
@normalization_options()
@text_options()
@option(
    "--words-by",
    show_default="white space, punctuation, every CJK character",
    metavar="SEPARATOR",
    help="What separates words in the text, as a segmenter wrote it, if not white space.",
)
def vocabulary(
    inputs: tuple[pathlib.Path, ...],
    output: pathlib.Path,
    size: int,
    extend: pathlib.Path | None,
    **options: Any,
) -> None:
    """Learn a WordPiece vocabulary from INPUTS: text files, directories or patterns of them, or -
    for standard input. The words of INPUT=N count N times."""
    _check_inputs(inputs)
    new_file(output)
    tfrecords = load_package("tfrecords")
    # The vocabulary that is extended says how text is normalized, unless the user does.
    if extend:
        options |= _extended(extend, options)
    options["cased"] = bool(options["cased"])
    learned = tfrecords.learn_vocabulary(inputs, size, progress=sys.stderr.isatty(), **options)
    learned.save(output)
    casing = "cased" if options["cased"] else "uncased"
    click.echo(f"{output}: {len(learned):,} tokens, {casing}, sha256 {learned.sha256[:12]}")
    # A look at the first new tokens tells whether the text was the right one.
    if extend:
        kept = len(options["extend"])
        first = "".join(f" {token}" for token in learned.tokens[kept : kept + _SHOWN])
        click.echo(f"{kept:,} tokens of {extend}, {len(learned) - kept:,} new:{first} ...")
    # Records take from the vocabulary what it shows; they must be told what it does not.
    chosen = tfrecords.Normalization(options["cased"], options["accents"], options["long_words"])
    if chosen != learned.normalization:
        click.echo(f"make records with {chosen.options}")
    if len(learned) < size:
        click.echo(
            f"warning: the text yields only {len(learned):,} tokens, not {size:,}; use more text "
            f"or --size {len(learned)}.",
            err=True,
        )


def _extended(path: pathlib.Path, options: dict[str, Any]) -> dict[str, Any]:
    """The options of `learn_vocabulary` for the vocabulary in a file, or of a model. It says how
    text is normalized, too, where nothing else is asked for."""
    # A file says less than a model, whose own files may name its casing.
    if path.is_file():
        vocabulary = Vocabulary.load(path)
        shown = vocabulary.normalization
    else:
        model = load_package("kbert").load(path)
        vocabulary, shown = model.vocabulary, model.normalization
    # Words that the model splits are split; a user can only ask for more of that.
    asked = options["long_words"] if shown.long_words == LONG_WORDS[0] else None
    chosen = shown.chosen(options["cased"], options["accents"], asked)
    return {"extend": vocabulary} | dataclasses.asdict(chosen)


@click.command(cls=Command, short_help="Make records of masked sentence pairs.")
@INPUTS
@option(
    "--vocabulary",
    "vocabulary_path",
    required=True,
    type=PATH,
    section=_FILES,
    help="A vocabulary file, one token per line.",
)
@option(
    "--output",
    required=True,
    type=PATH,
    section=_FILES,
    help="The directory to make. The same command again continues an interrupted one.",
)
@option(
    "--validation-fraction",
    of=RecordsConfig,
    section=_FILES,
    help="Share of the documents in the validation split.",
)
@option(
    "--shards",
    "num_shards",
    of=RecordsConfig,
    show_default="one for every 4 million tokens",
    section=_FILES,
    help="Files of the training split.",
)
@option(
    "--compression",
    of=RecordsConfig,
    type=click.Choice(COMPRESSIONS),
    section=_FILES,
    help="Compression of the files.",
)
@option("--seed", of=RecordsConfig, section=_FILES, help="Seed of all random choices.")
@option(
    "--sequence-length",
    of=RecordsConfig,
    section=_SEQUENCES,
    help="Longest sequence in tokens, special tokens included.",
)
@option(
    "--pairs",
    of=RecordsConfig,
    type=click.Choice(PAIRS),
    section=_SEQUENCES,
    help="nsp: the second segment follows the first or is random. sop: both in order or swapped. "
    "none: full sentences without a second segment.",
)
@option(
    "--duplicates",
    of=RecordsConfig,
    show_default="5, or 1 with dynamic masking",
    section=_SEQUENCES,
    help="Passes over the text, each with other pairs and masks.",
)
@option(
    "--short-sequence-probability",
    of=RecordsConfig,
    section=_SEQUENCES,
    help="Share of passes over a document that aim at a random shorter length.",
)
@option(
    "--pack",
    of=RecordsConfig,
    section=_SEQUENCES,
    help="Most pairs in a record: short ones share it, each with masks and a label of its own, and "
    "leave less padding. 8 is usual; 1 is Google's schema.",
)
@option(
    "--long-sentences",
    of=RecordsConfig,
    type=click.Choice(LONG_SENTENCES),
    show_default=LONG_SENTENCES[0],
    section=_SEQUENCES,
    help="What becomes of a sentence longer than a sequence. split: it goes on as several, cut at "
    "punctuation or between words. truncate: what does not fit is lost, as in Google's script.",
)
@option(
    "--masking",
    of=RecordsConfig,
    type=click.Choice(MASKINGS),
    section=_MASKS,
    help="static: masks are chosen once and written. dynamic: they are chosen during training, "
    "differently in every epoch.",
)
@option(
    "--mask-unit",
    of=RecordsConfig,
    type=click.Choice(MASK_UNITS),
    section=_MASKS,
    help="What is masked together: single tokens, whole words, or up to three words.",
)
@option(
    "--words-by",
    of=RecordsConfig,
    show_default="white space, punctuation, every CJK character",
    metavar="SEPARATOR",
    section=_MASKS,
    help="What separates words in the text, as a segmenter wrote it: ' ', or a character that "
    "stands for nothing else. These words are masked whole with --mask-unit word or ngram.",
)
@option("--mask-rate", of=RecordsConfig, section=_MASKS, help="Share of tokens to predict.")
@option(
    "--max-predictions",
    of=RecordsConfig,
    section=_MASKS,
    help="Most tokens to predict per sequence.",
)
@option(
    "--mask-share",
    of=RecordsConfig,
    section=_MASKS,
    help="Share of the tokens to predict that are replaced by [MASK].",
)
@option(
    "--random-share",
    of=RecordsConfig,
    section=_MASKS,
    help="Share of the tokens to predict that are replaced by a random token.",
)
@option(
    "--cased/--uncased",
    default=None,
    show_default="as the vocabulary",
    section=_TEXT,
    help=_CASED_HELP,
)
@normalization_options(of=RecordsConfig, section=_TEXT)
@text_options(section=_TEXT, processes=_WORK)
@option(
    "--deduplicate",
    of=RecordsConfig,
    is_flag=True,
    section=_TEXT,
    help="Drop every paragraph that has stood in the text before, exactly alike (with --format "
    "sentences every such document), so that no text of the validation split is trained on.",
)
@option(
    "--engine",
    type=click.Choice(["local", "beam"]),
    default="local",
    section=_WORK,
    help="Where to run: on this machine, or on Apache Beam.",
)
@option(
    "--beam-options",
    metavar="TEXT",
    section=_WORK,
    help="Options of Apache Beam, such as '--runner=FlinkRunner --flink_master=...'.",
)
def records(
    inputs: tuple[pathlib.Path, ...],
    vocabulary_path: pathlib.Path,
    output: pathlib.Path,
    format: str,
    errors: str,
    text_field: str,
    check: bool,
    workers: int | None,
    engine: str,
    beam_options: str | None,
    **options: Any,
) -> None:
    """Make records of masked sentence pairs from INPUTS: text files, directories or patterns of
    them, or - for standard input. The documents of INPUT=N are passed over N times as often.

    The same text, vocabulary and options always give the same bytes, with any number of workers. An
    interrupted command continues when it is run again."""
    # Mistakes are found before TensorFlow is loaded, which takes seconds.
    if beam_options and engine != "beam":
        raise click.UsageError("Expected --engine beam with --beam-options.")
    if workers and engine == "beam":
        raise click.UsageError(
            "Expected Beam's own option for the number of workers, in --beam-options, not "
            "--workers."
        )
    config = RecordsConfig(**options)
    vocabulary = Vocabulary.load(vocabulary_path)
    _check_inputs(inputs)
    tfrecords = load_package("tfrecords")
    tfrecords.build_records(
        inputs,
        vocabulary,
        output,
        config,
        format=format,
        errors=errors,
        text_field=text_field,
        check=check,
        workers=workers,
        beam_options=shlex.split(beam_options or "") if engine == "beam" else None,
        progress=sys.stderr.isatty(),
    )
    click.echo(tfrecords.inspect(output, num_examples=0))
