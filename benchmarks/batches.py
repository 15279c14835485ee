"""The batches that the candidates of `benchmarks.training` train on: a random one, or those of
records. One process writes them to files, the others read them from there."""

from __future__ import annotations

import argparse
import pathlib
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from tfrecords.schema import load_manifest

if TYPE_CHECKING:
    import numpy as np

    from tfrecords.batch import BatchSpec

NUM_BATCHES = 16
"""Of records, that a candidate trains on in turn."""

Arrays = dict[str, "np.ndarray"]
"""A batch by the names of its features; weights of labels as "mlm_weight" and "nsp_weight"."""


def take_shapes_of_records(arguments: argparse.Namespace) -> None:
    """Sets what random batches take from the command line; exits if records do not belong
    together."""
    manifests = [load_manifest(path) for path in arguments.records]
    first = manifests[0]
    for one in manifests:
        if (one.vocabulary_sha256, one.pairs) != (first.vocabulary_sha256, first.pairs):
            sys.exit(
                f"{one.directory} has another vocabulary or other pairs than {first.directory}"
            )
    if first.pairs == "none" or first.vocabulary_size is None:
        sys.exit("Expected records of sentence pairs, with a manifest.")
    arguments.vocabulary_size = first.vocabulary_size
    arguments.sequence_length = max(one.sequence_length for one in manifests)
    arguments.max_predictions = max(one.max_predictions for one in manifests)


class Source(NamedTuple):
    """Batches that candidates train on."""

    name: str
    """What is added to a candidate's name in the table."""
    path: pathlib.Path
    """Where they lie, written by the process that measures matrix products."""
    pack: int = 1
    """K, the most pairs in a row."""


def sources_of(arguments: argparse.Namespace, directory: pathlib.Path) -> list[Source]:
    """The batches in a temporary directory: a random one, or those of each directory of records."""
    if not arguments.records:
        return [Source("", directory / "batch.npz")]
    sources = []
    for number, path in enumerate(arguments.records):
        name = f", {path.name}" if len(arguments.records) > 1 else ""
        sources.append(Source(name, directory / f"{number}.npz", load_manifest(path).pack))
    return sources


def write_batches(arguments: argparse.Namespace) -> list[BatchSpec]:
    """Writes the batches of each source to its file among `arguments.batches`; their forms."""
    import numpy as np

    from tfrecords.batch import BatchSpec, random_batch

    if arguments.records:
        found = _batches_of_records(arguments)
    else:
        spec = BatchSpec(
            sequence_length=arguments.sequence_length, max_predictions=arguments.max_predictions
        )
        batch = random_batch(spec, arguments.batch_size, arguments.vocabulary_size)
        found = [(spec, [batch])]
    for path, (_, batches) in zip(arguments.batches, found, strict=True):
        arrays: dict[str, Any] = {}
        for part, ending in enumerate(("", "", "_weight")):
            for name in batches[0][part]:
                arrays[name + ending] = np.stack([batch[part][name] for batch in batches])
        np.savez(path, **arrays)
    return [spec for spec, _ in found]


def read_batches(path: pathlib.Path) -> list[Arrays]:
    """The batches in a file."""
    import numpy as np

    stacked = dict(np.load(path))
    return [
        {name: values[number] for name, values in stacked.items()}
        for number in range(len(stacked["token_ids"]))
    ]


def _batches_of_records(arguments: argparse.Namespace) -> list[tuple[Any, list[Any]]]:
    """The form and the first batches of the training split of each directory."""
    import tfrecords
    from tfrecords.batch import BatchSpec

    def read(manifest: Any, rows: int) -> tuple[Any, list[Any]]:
        batches = tfrecords.read(manifest, "train", batch_size=rows, epochs=None)
        return BatchSpec.of(manifest), list(batches.take(NUM_BATCHES).as_numpy_iterator())

    found = [
        (one, *read(one, arguments.batch_size)) for one in map(load_manifest, arguments.records)
    ]
    tokens = [sum(real_tokens(x).sum() for x, _, _ in batches) for _, _, batches in found]
    alone = [count for count, (one, *_) in zip(tokens, found, strict=True) if one.pack == 1]
    if arguments.equal_tokens and not alone:
        sys.exit("--equal-tokens: expected records that are not packed among the directories")
    for number, (manifest, *_) in enumerate(found):
        if arguments.equal_tokens and manifest.pack > 1:
            rows = max(1, round(arguments.batch_size * alone[0] / tokens[number]))
            found[number] = (manifest, *read(manifest, rows))
    return [(spec, batches) for _, spec, batches in found]


def real_tokens(x: Arrays) -> np.ndarray:
    """1 on the tokens of a batch and 0 on padding, packed or not: [B, S]."""
    return x["pair_numbers"] > 0 if "pair_numbers" in x else x["padding_mask"]
