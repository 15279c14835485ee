"""Which shard a document goes to, and tokenized documents on disk on their way there.

A bucket is the documents that become one shard: buckets 0 to num_shards - 1 are the training split,
those after them validation. A document's bucket is a hash of its number in the corpus, so it does
not depend on how the text is cut into spans."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable

import numpy as np
import safetensors.numpy
from safetensors import safe_open

from tfrecords.documents import Documents
from tfrecords.files import atomic_path
from tfrecords.hashing import uniform_hash
from tfrecords.schema import RecordsConfig

SHARD_TOKENS = 1 << 22
_DOCUMENTS_PER_SHARD = 32


def automatic_shards(tokens: int, documents: int, config: RecordsConfig) -> int:
    """The number of training shards for a corpus: one for every SHARD_TOKENS written, but of at
    least 32 documents each on average.

    A document has at most a million characters, so 32 of them bound a shard where documents are
    long, too; and it is all but certain that each shard has two documents."""
    assert config.duplicates is not None
    written = tokens * config.duplicates * (1 - config.validation_fraction)
    return max(
        1, min(math.ceil(written / SHARD_TOKENS), documents // _DOCUMENTS_PER_SHARD, 1 << 16)
    )


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


def buckets(first: int, count: int, config: RecordsConfig) -> np.ndarray:
    """The buckets of the documents number `first` to first + count - 1 of the corpus: int64
    [count]."""
    assert config.num_shards is not None
    numbers = np.arange(first, first + count, dtype=np.uint64)
    shard, validation_shard = (uniform_hash(numbers, config.seed, purpose) for purpose in (1, 2))
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
    bucket = buckets(first, len(documents), config)
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
            documents, sentences, tokens = file.get_slice("index")[:, bucket : bucket + 2]
            if documents[0] < documents[1]:
                found.append(
                    (
                        file.get_slice("tokens")[tokens[0] : tokens[1]].astype(np.int32),
                        file.get_slice("sentence_lengths")[sentences[0] : sentences[1]],
                        file.get_slice("document_lengths")[documents[0] : documents[1]],
                        file.get_slice("weights")[documents[0] : documents[1]]
                        if "weights" in set(file.keys())
                        else np.ones(documents[1] - documents[0], np.int32),
                    )
                )
    if not found:
        return Documents.of([])
    *arrays, weights = map(np.concatenate, zip(*found, strict=True))
    return Documents.of_lengths(*arrays, weights=None if (weights == 1).all() else weights)


def _arrays(documents: Documents, num_ids: int) -> dict[str, np.ndarray]:
    arrays = {
        "tokens": documents.tokens.astype(np.uint16 if num_ids <= 1 << 16 else np.int32),
        "sentence_lengths": np.diff(documents.sentence_starts).astype(np.int32),
        "document_lengths": np.diff(documents.document_starts).astype(np.int32),
    }
    return arrays if documents.weights is None else arrays | {"weights": documents.weights}


def save_arrays(path: str | os.PathLike, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays to the file `path`, atomically; `safetensors.safe_open` reads parts of them."""
    with atomic_path(path) as partial:
        partial.write_bytes(safetensors.numpy.save(arrays))
