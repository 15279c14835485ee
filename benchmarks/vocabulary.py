"""Whether a model that goes on to text of another domain should learn that domain's words.

`python -m benchmarks.vocabulary BASE DOMAIN --output DIR` prints a table. BASE and DOMAIN are text
files, for example an encyclopedia and `kbert corpus docs.txt --packages numpy`.

A model of size tiny learns BASE, with a vocabulary of its own. Then it goes on to nine tenths of
the documents of DOMAIN in three ways: with its vocabulary as it is; with one that is extended by
the words of DOMAIN, whose embeddings start as the mean of the pieces that these words were before;
and with the same one, but random new embeddings. All see the same text, at the same batch size and
learning rate. The loss on the other tenth is given in nats per character: nats per masked token,
times the tokens and through the characters of that text, since tokens differ between the
vocabularies.

Everything is kept in DIR. Started again with the same arguments, it goes on where it was stopped,
and a finished one prints its table at once."""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import resource
from collections.abc import Iterable

import kbert
import tfrecords
from benchmarks.records import table
from benchmarks.training import processor
from kbert.formats.adapted import origins, with_vocabulary
from kbert.run.checkpoints import restore_checkpoint
from tfrecords.text.formats import TEXT_FORMATS

HELD_OUT = 10
"""Of so many documents one is held out."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Whether a model should learn the words of another domain."
    )
    parser.add_argument("base", type=pathlib.Path)
    parser.add_argument("domain", type=pathlib.Path)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--base-format", default="text", choices=TEXT_FORMATS)
    parser.add_argument("--domain-format", default="sentences", choices=TEXT_FORMATS)
    parser.add_argument("--size", type=int, default=8000, help="Tokens of the base vocabulary.")
    parser.add_argument("--extended-size", type=int, default=10000)
    parser.add_argument("--base-steps", type=int, default=2000)
    parser.add_argument("--steps", type=int, nargs="+", default=[500, 2000], help="To evaluate at.")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--sequence-length", type=int, default=64)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    """Trains the base and the three ways from it, and prints the table."""
    place: pathlib.Path = arguments.output
    print(f"{processor()}, load {os.getloadavg()[0]:.1f}", flush=True)
    train, held_out = split(arguments)
    characters = sum(map(len, sentences(held_out)))

    # The base model, and the vocabularies.
    base_text, base_format = [arguments.base], arguments.base_format
    own = vocabulary(place / "base.txt", base_text, arguments.size, format=base_format)
    length: int = arguments.sequence_length
    records(place / "base-records", base_text, own, length, format=base_format)
    run(place / "base", place / "base-records", arguments.base_steps, arguments, bert="tiny")
    base = kbert.load(place / "base")
    extended = vocabulary(place / "extended.txt", [train], arguments.extended_size, extend=own)

    # The three ways from it.
    ways = {
        "extended, new as means": adapted(base, extended, means=True),
        "extended, new at random": adapted(base, extended, means=False),
        "its own vocabulary": base,
    }
    steps = sorted({0, *arguments.steps})
    rows: list[tuple[object, ...]] = [
        ("nats per character", "vocabulary", "tokens", *(f"step {step:,}" for step in steps))
    ]
    for number, (name, start) in enumerate(ways.items()):
        kind = "own" if start is base else "extended"
        for text in (train, held_out):
            records(place / f"{kind}-{text.stem}", [text], start.vocabulary, length)
        way = place / f"way-{number}"
        run(way, place / f"{kind}-train", steps[-1], arguments, init_from=start)
        manifest = tfrecords.load_manifest(place / f"{kind}-held-out")
        tokens = manifest.counts["corpus"]["tokens"]
        losses = [loss(start, way, step, manifest) * tokens / characters for step in steps]
        rows.append(
            (name, f"{len(start.vocabulary):,}", f"{tokens:,}", *(f"{one:.4f}" for one in losses))
        )
    print(f"{characters:,} characters held out")
    table(rows)
    print(f"CPU time of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_utime:.0f} s")


def split(arguments: argparse.Namespace) -> tuple[pathlib.Path, pathlib.Path]:
    """Two files of the documents of DOMAIN: those to learn from, and those held out."""
    parts: tuple[list[str], list[str]] = ([], [])
    documents = tfrecords.read_documents([arguments.domain], arguments.domain_format)
    for number, document in enumerate(documents):
        parts[number % HELD_OUT == 0].append("\n".join(document) + "\n")
    paths = (arguments.output / "train.txt", arguments.output / "held-out.txt")
    for path, part in zip(paths, parts, strict=True):
        path.write_text("\n".join(part))
    return paths


def sentences(path: pathlib.Path) -> Iterable[str]:
    """The sentences in a file."""
    return (sentence for document in tfrecords.read_documents([path]) for sentence in document)


def vocabulary(
    path: pathlib.Path,
    inputs: list[pathlib.Path],
    size: int,
    format: str = "sentences",
    extend: tfrecords.Vocabulary | None = None,
) -> tfrecords.Vocabulary:
    """The vocabulary in a file, learned if it is not there."""
    if not path.exists():
        learned = tfrecords.learn_vocabulary(inputs, size, extend=extend, format=format)
        learned.save(path)
    return tfrecords.Vocabulary.load(path)


def records(
    path: pathlib.Path,
    inputs: list[pathlib.Path],
    vocabulary: tfrecords.Vocabulary,
    length: int,
    format: str = "sentences",
) -> None:
    """Makes records, all in the split "train"."""
    if not path.exists():
        config = tfrecords.RecordsConfig(
            sequence_length=length,
            max_predictions=-(-length * 3 // 20),
            pairs="none",
            validation_fraction=0.0,
            cased=False,
        )
        tfrecords.build_records(inputs, vocabulary, path, config, format=format)


def run(
    path: pathlib.Path,
    records: pathlib.Path,
    steps: int,
    arguments: argparse.Namespace,
    **start: object,
) -> None:
    """Trains, with a checkpoint at every step that is evaluated."""
    settings = kbert.PretrainingConfig(
        steps=steps,
        batch_size=arguments.batch_size,
        learning_rate=1e-3,
        checkpoint_every=min(arguments.steps),
        evaluate_every=min(arguments.steps),  # which saves a checkpoint too
        keep_checkpoints=max(1, steps // min(arguments.steps)),
    )
    kbert.pretrain(
        records,
        path,
        changes={"dropout": 0.0},
        pretraining=settings,
        verbose=2,
        **start,  # pyright: ignore[reportArgumentType]  (of different types)
    )


def adapted(
    base: kbert.Pretrained, vocabulary: tfrecords.Vocabulary, *, means: bool
) -> kbert.Pretrained:
    """The base model with an extended vocabulary, new embeddings as means or at random."""
    found = origins(base.vocabulary, vocabulary, base.normalization)
    if not means:
        known = range(len(base.vocabulary))  # an extended vocabulary begins with the base's
        sources = [source if row in known else [] for row, source in enumerate(found.sources)]
        found = dataclasses.replace(found, sources=sources)
    print(found, flush=True)
    return with_vocabulary(base, vocabulary, found, normalization=base.normalization, seed=0)


def loss(
    start: kbert.Pretrained, way: pathlib.Path, step: int, manifest: tfrecords.Manifest
) -> float:
    """The loss of masked tokens on the held-out text after some steps, in nats per masked token."""
    model = start.model
    if step:
        model = kbert.load_run(way).new_model()
        found = restore_checkpoint(way / "checkpoints", model, step)
        assert found == step, f"no checkpoint of step {step} in {way}"
    return kbert.evaluate(model, manifest, split="train")["mlm_loss"]


if __name__ == "__main__":
    main()
