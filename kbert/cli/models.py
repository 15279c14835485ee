"""The commands that use a trained model, and the demo of all commands."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import click

from kbert.cli.options import PATH, Command, option
from kbert.cli.start import load_package
from kbert.config import POOLINGS, TOP_K
from kbert.formats.protocol import EXPORT_FORMATS, no_model, something_at
from tfrecords.files import atomic_path, new_directory, new_file


@click.command(cls=Command, short_help="Export a model to another format.")
@click.argument("model", type=PATH)
@option("--output", required=True, type=PATH, help="The directory to make.")
@option(
    "--format",
    type=click.Choice(EXPORT_FORMATS),
    default=EXPORT_FORMATS[0],
    help="saved-model: takes plain text, needs TensorFlow and tensorflow_text. keras-hub: a "
    "preset. huggingface: for transformers. google: a checkpoint of google-research/bert.",
)
@option(
    "--top-k",
    type=click.IntRange(1),
    show_default=str(TOP_K),
    help="Words that a SavedModel proposes for each [MASK].",
)
def export(model: pathlib.Path, output: pathlib.Path, format: str, top_k: int | None) -> None:
    """Export a MODEL to a format. MODEL is a model in any of the formats, or a run, of which the
    newest checkpoint counts, or with --patience the best."""
    if top_k and format != "saved-model":
        raise click.UsageError("Expected --top-k with --format saved-model alone.")
    _check_model(model)
    new_directory(output)
    kbert = load_package("kbert")
    kbert.save(kbert.load(model), output, format, **({"top_k": top_k} if top_k else {}))
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    click.echo(
        f"{output}: {format}, {size / 1e6:.1f} MB; {output / 'README.md'} says how to use it"
    )


@click.command(cls=Command, short_help="Fill masks, judge sentence pairs, embed texts.")
@click.argument("model", type=PATH)
@click.argument("text", nargs=-1)
@option("--pair", nargs=2, type=str, metavar="A B", help="Two texts: does B follow A?")
@option(
    "--top-k",
    type=click.IntRange(1),
    show_default=f"{TOP_K}, or as exported",
    help="Words to propose for each [MASK].",
)
@option(
    "--embed",
    type=PATH,
    metavar="FILE.npy",
    help="Write the texts' vectors, as the rows of an array.",
)
@option(
    "--pooling",
    type=click.Choice(POOLINGS),
    default=POOLINGS[0],
    help="A text's vector: the mean over its tokens, that of [CLS], or the pooler's output.",
)
def predict(
    model: pathlib.Path,
    text: tuple[str, ...],
    pair: tuple[str, str] | None,
    top_k: int | None,
    embed: pathlib.Path | None,
    pooling: str,
) -> None:
    """Fill every [MASK] in TEXT with a MODEL, judge whether one text follows another, or write the
    texts' vectors.

    MODEL is a run or a model in any of the formats of 'kbert export'. TEXT may be -, which reads a
    text from every line of standard input, and answers each at once."""
    # Mistakes are found before a model is loaded, which takes seconds.
    if bool(text) == bool(pair):
        raise click.UsageError("Expected either texts or --pair A B.")
    if pair and embed:
        raise click.UsageError("Expected texts with --embed, not --pair.")
    _check_model(model)
    if embed:
        new_file(embed)
    predictor = load_package("kbert").load_predictor(model, top_k)
    if pair:
        click.echo(f"{predictor.next_sentence(*pair):.3f}  probability that B follows A")
        return
    texts = _lines_of_standard_input() if text == ("-",) else iter(text)
    if embed:
        _save_vectors(predictor.embed(list(texts), pooling), embed)
    elif text == ("-",):
        # A line without a mask has no answer: a pipe may hold blank lines, too.
        for one, answers in predictor.fill_masks(texts):
            _print_answers(one, answers)
    else:
        # All texts are checked before the first answer is printed.
        for one, answers in [(one, predictor.fill_mask(one)) for one in texts]:
            _print_answers(one, answers)


def _check_model(path: pathlib.Path) -> None:
    """Refuses a path where nothing is before TensorFlow is loaded, which takes seconds; what is
    there is for `load` to recognise."""
    if not something_at(path):
        raise no_model(path)


def _lines_of_standard_input() -> Iterator[str]:
    """The lines of standard input as texts, each as soon as it arrives. A line ends with a line
    feed alone, or with a carriage return before it; an empty line is an empty text."""
    for line in _standard_input():
        yield line.decode("utf-8", "replace").removesuffix("\n").removesuffix("\r")


def _standard_input() -> Iterable[bytes]:
    return sys.stdin.buffer


def _print_answers(text: str, answers: list[list[Any]]) -> None:
    """Prints a text, and below it the words for each of its masks."""
    click.echo(text)
    for words in answers:
        proposals = "  ".join(f"{word.token} {word.probability:.3f}" for word in words)
        click.echo(f"  [MASK] {proposals}")


def _save_vectors(vectors: Any, path: pathlib.Path) -> None:
    import numpy as np

    with atomic_path(path) as partial, open(partial, "wb") as file:
        np.save(file, vectors)
    click.echo(
        f"{path}: {vectors.shape[0]:,} vectors of {vectors.shape[1]:,} numbers, {vectors.dtype}"
    )


@click.command(cls=Command, short_help="Run all commands on real text.")
@option("--output", default="demo", type=PATH, help="The directory of the demo.")
@click.pass_context
def demo(context: click.Context, output: pathlib.Path) -> None:
    """Run all commands on the documentation of this Python, and print each before it runs."""
    from kbert.demo import run_demo

    main = context.find_root().command
    run_demo(output, lambda words: main.main(words, prog_name="kbert", standalone_mode=False))
