"""Which shard a document goes to, and tokenized documents on disk on their way there.

A bucket is what becomes one shard: buckets 0 to num_shards - 1 are the training split, those after
them validation. A document's bucket is a hash of its number in the corpus, so that it depends on no
cut of the text into pieces."""

import math

import numpy as np
import safetensors.numpy
from safetensors import safe_open

from tfrecords.documents import Documents
from tfrecords.files import atomic_path

SHARD_TOKENS = 1 << 22
_DOCUMENTS_PER_SHARD = 32


def automatic_shards(tokens, documents, config):
    """The number of training shards for a corpus: one for every SHARD_TOKENS written, but of 32
    documents each on average.

    A document has a million characters at most, so that a shard is bounded where documents are
    long, too; and it is all but certain that each has two documents."""
    written = tokens * config.duplicates * (1 - config.validation_fraction)
    return max(
        1, min(math.ceil(written / SHARD_TOKENS), documents // _DOCUMENTS_PER_SHARD, 1 << 16)
    )


def bucket_of(number, config):
    """The (split, index of the shard) that a bucket becomes."""
    return (
        ("train", number)
        if number < config.num_shards
        else ("validation", number - config.num_shards)
    )


def buckets(first, count, config):
    """The buckets of the documents number `first` to first + count - 1 of the corpus: int64
    [count]."""
    numbers = np.arange(first, first + count, dtype=np.uint64)
    shard, validation_shard = (_uniform_hash(numbers, config.seed, purpose) for purpose in (1, 2))
    bucket = (shard * config.num_shards).astype(np.int64)
    if config.validation_fraction:
        held_out = _uniform_hash(numbers, config.seed, 0) < config.validation_fraction
        validation_bucket = config.num_shards + (
            validation_shard * config.num_validation_shards
        ).astype(np.int64)
        bucket = np.where(held_out, validation_bucket, bucket)
    return bucket


def _uniform_hash(values, seed, purpose):
    """Hashes uint64 [n] to uniform floats in [0, 1), keyed by (seed, purpose); mixes twice as
    splitmix64 does."""
    with np.errstate(over="ignore"):
        key = (np.uint64(seed) * np.uint64(4) + np.uint64(purpose)) * np.uint64(0x9E3779B97F4A7C15)
        z = (values + np.uint64(1)) * np.uint64(0xD1342543DE82EF95) + key
        for _ in range(2):
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)) * 2.0**-53


def save_part(path, documents, vocabulary_size):
    """Writes Documents to the file `path`, atomically; ids take two bytes each if the vocabulary
    allows."""
    _save(path, _arrays(documents, vocabulary_size))


def partition(part, path, first, config):
    """Writes the documents of the file `part`, which are those from number `first` on, to `path`,
    sorted by bucket."""
    arrays = safetensors.numpy.load_file(part)
    documents = Documents.of_lengths(**arrays)
    bucket = buckets(first, len(documents), config)
    documents = documents.select(np.argsort(bucket, kind="stable"))
    num_buckets = config.num_shards + config.num_validation_shards
    ends = np.cumsum(np.bincount(bucket, minlength=num_buckets))
    starts = np.concatenate([[0], ends])
    sentences = documents.document_starts[starts]
    index = np.stack([starts, sentences, documents.sentence_starts[sentences]])
    _save(
        path, _arrays(documents, 1 + int(np.iinfo(arrays["tokens"].dtype).max)) | {"index": index}
    )


def read_bucket(paths, bucket):
    """The Documents of one bucket from partitioned files, in order; of each file only what belongs
    to it is read."""
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
                    )
                )
    return (
        Documents.of_lengths(*map(np.concatenate, zip(*found, strict=True)))
        if found
        else Documents.of([])
    )


def _arrays(documents, vocabulary_size):
    return {
        "tokens": documents.tokens.astype(np.uint16 if vocabulary_size <= 1 << 16 else np.int32),
        "sentence_lengths": np.diff(documents.sentence_starts).astype(np.int32),
        "document_lengths": np.diff(documents.document_starts).astype(np.int32),
    }


def _save(path, arrays):
    with atomic_path(path) as partial:
        partial.write_bytes(safetensors.numpy.save(arrays))
