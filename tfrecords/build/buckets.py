"""Which shard a document goes to, and tokenized documents on disk on their way there.

A bucket is the documents that become one shard: buckets 0 to num_shards - 1 are the training split,
those after them validation. A document's bucket is a hash of its number in the corpus, so it does
not depend on how the text is cut into spans. The parts of a document that is too long go to shards
as if each were a document, which bounds what a shard holds, but all to the same split."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Sequence

import numpy as np
import safetensors.numpy
from safetensors import safe_open

from tfrecords.documents import Documents
from tfrecords.files import atomic_path
from tfrecords.hashing import uniform_hash
from tfrecords.schema import RecordsConfig

SHARD_TOKENS = 1 << 22
_DOCUMENTS_PER_SHARD = 32


def automatic_shards(
    tokens: int, documents: int, config: RecordsConfig, cuts: Sequence[int] = ()
) -> int:
    """The number of training shards for a corpus: one for every SHARD_TOKENS written, but of at
    least 32 documents each on average.

    A document has at most a million characters, or is cut, so 32 of them bound a shard where
    documents are long, too; and it is all but certain that each shard has two documents.

    Args:
        tokens: The tokens of a pass.
        documents: How many documents there are, each part of one counted.
        config: The configuration.
        cuts: Of every document that is cut, the number of its parts.
    """
    assert config.duplicates is not None
    written = tokens * config.duplicates * (1 - config.validation_fraction)
    number = max(
        1, min(math.ceil(written / SHARD_TOKENS), documents // _DOCUMENTS_PER_SHARD, 1 << 16)
    )
    while cuts and number > 1 and _chance_of_a_single_document(number, documents, cuts) > 1e-6:
        number = number * 7 // 8
    return number


def _chance_of_a_single_document(shards: int, documents: int, cuts: Sequence[int]) -> float:
    """At most how probable it is that some shard has parts of a single document, or none."""
    # How probable it is that a certain shard has nothing of a document in one part, or in several.
    absent, singles = 1 - 1 / shards, documents - sum(cuts)
    absents = np.maximum(absent ** np.asarray(cuts), 1e-300)
    none = absent**singles * np.prod(absents)
    one = none * (singles * (1 - absent) / absent + ((1 - absents) / absents).sum())
    return shards * float(none + one)


def num_buckets(config: RecordsConfig) -> int:
    """The number of shards of both splits; the configuration has its number of shards by now."""
    assert config.num_shards is not None
    return config.num_shards + config.num_validation_shards


def bucket_of(number: int, config: RecordsConfig) -> tuple[str, int]:
    """The (split, index of the shard) that a bucket becomes."""
    assert config.num_shards is not None
    if number < config.num_shards:
        return "train", number
    return "validation", number - config.num_shards


def buckets(
    first: int, count: int, config: RecordsConfig, firsts: np.ndarray | int | None = None
) -> np.ndarray:
    """The buckets of the documents number `first` to first + count - 1 of the corpus: int64
    [count].

    Args:
        first: The number of the first of them.
        count: How many there are.
        config: The configuration, with its number of shards.
        firsts: Where some are parts of a document, the number of the first part of each (int64
            [count], or one for all).
    """
    assert config.num_shards is not None
    numbers = np.arange(first, first + count, dtype=np.uint64)
    shard, validation_shard = (uniform_hash(numbers, config.seed, purpose) for purpose in (1, 2))
    if firsts is not None:
        numbers = np.broadcast_to(np.asarray(firsts, np.uint64), (count,))
    bucket = (shard * config.num_shards).astype(np.int64)
    if config.validation_fraction:
        # By a hash of its own, so that the validation split does not depend on the shards.
        held_out = uniform_hash(numbers, config.seed, 0) < config.validation_fraction
        validation_bucket = config.num_shards + (
            validation_shard * config.num_validation_shards
        ).astype(np.int64)
        bucket = np.where(held_out, validation_bucket, bucket)
    return bucket


def save_part(path: os.PathLike, documents: Documents, num_ids: int) -> None:
    """Writes Documents to the file `path`, atomically; ids take two bytes each if the vocabulary
    allows."""
    save_arrays(path, _arrays(documents, num_ids))


def partition(part: os.PathLike, path: os.PathLike, first: int, config: RecordsConfig) -> None:
    """Writes the documents of the file `part`, of which the first is number `first` of the corpus,
    to `path`, sorted by bucket and with an index of the buckets."""
    arrays = safetensors.numpy.load_file(part)
    documents = Documents.of_lengths(**arrays)
    numbers = np.arange(len(documents)) if documents.firsts is None else documents.firsts
    documents = dataclasses.replace(documents, firsts=first + numbers)
    bucket = buckets(first, len(documents), config, documents.firsts)
    documents = documents.select(np.argsort(bucket, kind="stable"))

    # Where each bucket begins, in documents, sentences and tokens: int64 [3, buckets + 1].
    ends = np.cumsum(np.bincount(bucket, minlength=num_buckets(config)))
    starts = np.concatenate([[0], ends])
    sentences = documents.document_starts[starts]
    index = np.stack([starts, sentences, documents.sentence_starts[sentences]])
    num_ids = 1 + int(np.iinfo(arrays["tokens"].dtype).max)  # the part's width of ids stays
    save_arrays(path, _arrays(documents, num_ids) | {"index": index})


def read_bucket(paths: Iterable[os.PathLike], bucket: int) -> Documents:
    """The Documents of one bucket from partitioned files, in order; of each file only what belongs
    to the bucket is read."""
    found = []
    for path in paths:
        with safe_open(path, framework="numpy") as file:
            names = set(file.keys())
            documents, sentences, tokens = file.get_slice("index")[:, bucket : bucket + 2]
            if documents[0] < documents[1]:
                found.append(
                    (
                        file.get_slice("tokens")[tokens[0] : tokens[1]].astype(np.int32),
                        file.get_slice("sentence_lengths")[sentences[0] : sentences[1]],
                        file.get_slice("document_lengths")[documents[0] : documents[1]],
                        file.get_slice("weights")[documents[0] : documents[1]]
                        if "weights" in names
                        else np.ones(documents[1] - documents[0], np.int32),
                        # The sorting of an earlier release wrote none.
                        file.get_slice("firsts")[documents[0] : documents[1]]
                        if "firsts" in names
                        else np.zeros(0, np.int64),
                    )
                )
    if not found:
        return Documents.of([])
    *arrays, weights, firsts = map(np.concatenate, zip(*found, strict=True))
    return Documents.of_lengths(
        *arrays,
        weights=None if (weights == 1).all() else weights,
        firsts=None if len(firsts) < len(weights) or (np.diff(firsts) > 0).all() else firsts,
    )


def _arrays(documents: Documents, num_ids: int) -> dict[str, np.ndarray]:
    arrays = {
        "tokens": documents.tokens.astype(np.uint16 if num_ids <= 1 << 16 else np.int32),
        "sentence_lengths": np.diff(documents.sentence_starts).astype(np.int32),
        "document_lengths": np.diff(documents.document_starts).astype(np.int32),
    }
    optional = {"weights": documents.weights, "firsts": documents.firsts}
    return arrays | {name: array for name, array in optional.items() if array is not None}


def save_arrays(path: str | os.PathLike, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays to the file `path`, atomically; `safetensors.safe_open` reads parts of them."""
    with atomic_path(path) as partial:
        partial.write_bytes(safetensors.numpy.save(arrays))
