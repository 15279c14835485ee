"""Options under headings, whose types and defaults come from the configurations.

Nothing here or in the modules of the commands loads anything large, so that `--help` is quick."""

from __future__ import annotations

import dataclasses
import pathlib
import types
import typing
from collections.abc import Callable
from typing import Any

import click

from kbert.cli.start import keras_backend
from kbert.config import (
    DEFAULT_SIZE,
    OPTIMIZERS,
    PRECISIONS,
    RELEASED_VOCABULARY_SIZE,
    SIZES,
    BertConfig,
    PretrainingConfig,
)
from tfrecords.normalization import ACCENTS, LONG_WORDS, MAX_WORD_CHARACTERS, Normalization
from tfrecords.schema import RecordsConfig
from tfrecords.text.decoding import ERRORS, TEXT_FIELD
from tfrecords.text.formats import DEFAULT_FORMAT, TEXT_FORMATS

PATH = click.Path(path_type=pathlib.Path)

# Headings that several commands have.
MODEL = "Model"
DATA = "Data"
OPTIMISATION = "Optimisation"
DEVICES = "Devices, memory and speed"

DROPOUT_HELP = "Dropout rate of the hidden layers and of attention."
SIZES_HELP = f"{', '.join(SIZES)}, or one of the 24 miniatures, such as L-4_H-256."

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class _Option(click.Option):
    """An option that stands under a heading of `--help`."""

    def __init__(self, *arguments: Any, section: str = "", **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.section = section


class Command(click.Command):
    """A command whose `--help` lists its options under headings, in the order in which they are
    defined; --help is the last. It runs on the backends of kbert alone."""

    def invoke(self, ctx: click.Context) -> Any:
        keras_backend()  # refuses another before anything is loaded or written
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if isinstance(parameter, click.Option) and record:
                sections.setdefault(getattr(parameter, "section", ""), []).append(record)
        sections = {title: sections[title] for title in sorted(sections, key=lambda one: not one)}
        # One width for all, or the texts would begin at another column under every heading.
        names = [name for rows in sections.values() for name, _ in rows]
        width = min(30, max(map(len, names)))
        for title, rows in sections.items():
            with formatter.section(title or ("Other" if len(sections) > 1 else "Options")):
                formatter.write_dl([(name.ljust(width), text) for name, text in rows])


def option(*names: str, of: type | None = None, section: str = "", **settings: Any) -> Decorator:
    """An option of a command, as by `click.option`.

    Args:
        *names: "--steps", and the name of the function's parameter if it is another.
        of: The configuration dataclass that has a field of the parameter's name; type and default
            are the field's.
        section: The heading of `--help` that the option stands under.
        **settings: Of `click.option`; they take precedence. `show_default` may be a text, where
            the default depends on something else.
    """
    if of is not None:
        settings = _of_field(of, names[-1].removeprefix("--").replace("-", "_")) | settings
    return click.option(*names, cls=_Option, section=section, **({"show_default": True} | settings))


def _of_field(configuration: type, name: str) -> dict[str, Any]:
    """Type and default of a field, as `click.option` takes them."""
    (field,) = (one for one in dataclasses.fields(configuration) if one.name == name)
    hint = typing.get_type_hints(configuration)[name]
    # Of `int | None` the type that can be typed; None is what an option is without a value.
    (kind,) = (one for one in typing.get_args(hint) or (hint,) if one is not types.NoneType)
    default = {} if field.default is dataclasses.MISSING else {"default": field.default}
    return {"type": kind} | default


# Options that several commands have.
SIZE = option("--size", default=DEFAULT_SIZE, section=MODEL, help=SIZES_HELP)
VOCABULARY_SIZE = option(
    "--vocabulary-size",
    default=RELEASED_VOCABULARY_SIZE,
    section=MODEL,
    help="Number of tokens, special tokens included.",
)
DROPOUT = option("--dropout", of=BertConfig, section=MODEL, help=DROPOUT_HELP)
SEQUENCE_LENGTH = option(
    "--sequence-length", of=RecordsConfig, section=DATA, help="Length of a sequence in tokens."
)
MAX_PREDICTIONS = option(
    "--max-predictions",
    of=RecordsConfig,
    section=DATA,
    help="Most tokens to predict per sequence.",
)
PACK = option(
    "--pack", of=RecordsConfig, section=DATA, help="Most pairs in a row of packed records."
)
OPTIMIZER = option(
    "--optimizer",
    of=PretrainingConfig,
    type=click.Choice(OPTIMIZERS),
    section=OPTIMISATION,
    help="lamb is for batches of thousands.",
)
ACCUMULATE = option(
    "--accumulate",
    type=click.IntRange(1),
    default=1,
    section=DEVICES,
    help="Micro-batches per update (gradient accumulation): less memory, more time.",
)
RECOMPUTE = option(
    "--recompute",
    is_flag=True,
    section=DEVICES,
    help="Gradient checkpointing: less memory, a third more time.",
)


def precision_option(default: str = PretrainingConfig.precision) -> Decorator:
    return option(
        "--precision",
        type=click.Choice(PRECISIONS),
        default=default,
        section=DEVICES,
        help="bfloat16, float16: mixed precision, with float32 weights. float16 is for GPUs "
        "without bfloat16, such as the T4.",
    )


INPUTS = click.argument("inputs", nargs=-1, required=True, type=PATH)


def normalization_options(of: type = Normalization, section: str = "") -> Decorator:
    """The options that say how text is normalized, besides its case; defaults are those of the
    configuration `of`."""
    accents = option(
        "--accents",
        of=of,
        type=click.Choice(ACCENTS),
        show_default="strip with uncased, keep with cased",
        section=section,
        help="Keep accents and vowel signs, or strip them as BERT does.",
    )
    long_words = option(
        "--long-words",
        of=of,
        type=click.Choice(LONG_WORDS),
        section=section,
        help=f"Words of more than {MAX_WORD_CHARACTERS} characters, as in text without spaces: "
        "[UNK] as in BERT, or several words.",
    )
    return lambda function: accents(long_words(function))


def text_options(section: str = "", processes: str = "") -> Decorator:
    """The options that say how text is read, and under the heading `processes` by how many."""
    # Names and descriptions are those of the table of formats, so that a new one is in --help at
    # once.
    decorators = (
        option(
            "--format",
            type=click.Choice(list(TEXT_FORMATS)),
            default=DEFAULT_FORMAT,
            section=section,
            help="What the files hold. "
            + " ".join(f"{name}: {one.document}." for name, one in TEXT_FORMATS.items())
            + " All but sentences are split by rules for European languages and the full stops of "
            "all scripts. All but parquet may be compressed, or in tar and zip archives.",
        ),
        option(
            "--text-field",
            default=TEXT_FIELD,
            section=section,
            help="The field or column with the text, of "
            + ", ".join(name for name, one in TEXT_FORMATS.items() if one.rows)
            + "; a.b is b inside of a.",
        ),
        option(
            "--check/--no-check",
            default=True,
            section=section,
            help="Look first whether the beginning of every file fits the format.",
        ),
        option(
            "--errors",
            type=click.Choice(ERRORS),
            default=ERRORS[0],
            section=section,
            help="What to do about invalid UTF-8: stop and tell where it is, or skip and count it.",
        ),
        option(
            "--workers",
            type=click.IntRange(1),
            show_default="as many as there are processors, for enough text",
            section=processes,
            help="Processes, of about 500 MB each.",
        ),
    )

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        # The decorator nearest to the function is applied first and listed last in --help.
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate
