"""A corpus to a directory of records: tokenize once, part the documents into shards, then make each shard by itself."""

import dataclasses
import hashlib
import pathlib

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tfrecords import schema
from tfrecords.documents import input_files, read_documents
from tfrecords.errors import InputError
from tfrecords.files import PARTIAL_SUFFIX, claim_directory, locked, sha256
from tfrecords.masking import Masking, mask_tokens
from tfrecords.pairs import Documents, sentence_pairs
from tfrecords.schema import Manifest, load_manifest
from tfrecords.tokenizer import Tokenizer
from tfrecords.writer import write_shard

CONFIGURATION = "config.json"
_SENTENCES_PER_BATCH = 4096
_RECORDS_PER_BATCH = 1024


def build_records(inputs, vocabulary, output, config, *, format="sentences", errors="strict", progress=False):
    """Makes records of masked sentence pairs from text files.

    The bytes of the records are a pure function of the documents, the vocabulary and the configuration. The manifest is
    written last; a directory with a manifest is complete. Called again on its own directory it returns what is there, or
    replaces an attempt that was not finished.

    Args:
        inputs: Text files and directories of them; see `documents.read_documents`.
        vocabulary: A Vocabulary.
        output: The directory to make.
        config: A RecordsConfig.
        format: "sentences" or "text".
        errors: "strict" or "replace", for invalid UTF-8.
        progress: Whether to show progress bars.

    Returns:
        The Manifest.

    Raises:
        InputError: The text or the output directory cannot be used, or the documents are too few.
    """
    files = input_files(inputs)
    output = pathlib.Path(output)
    _check_apart(output, [*map(pathlib.Path, inputs), *files])
    if config.cased is None:
        config = dataclasses.replace(config, cased=vocabulary.cased)
    identity = {
        "kind": "records",
        "input_bytes": sum(file.stat().st_size for file in files),
        "input_sha256": _digest(files),
        "format": format,
        "errors": errors,
        "vocabulary_sha256": vocabulary.sha256,
        **dataclasses.asdict(config),
    }
    output = claim_directory(output, identity, CONFIGURATION)
    if (output / schema.MANIFEST).exists():
        return load_manifest(output)
    with locked(output / CONFIGURATION):
        return _build(files, vocabulary, output, config, format, errors, progress)


def _check_apart(output, inputs):
    """Refuses an output that would become input of the next build, or the other way round."""
    output = output.resolve()
    for path in inputs:
        there = path.resolve()
        if there.is_relative_to(output) or (there.is_dir() and output.is_relative_to(there)):
            raise InputError(f"Expected an output directory apart from the input. Received: {output} for the input {path}.")


def _build(files, vocabulary, output, config, format, errors, progress):
    for leftover in [*output.glob("*.tfrecord"), *output.glob(f"*{PARTIAL_SUFFIX}")]:
        leftover.unlink()

    try:
        documents, counts = _tokenize(read_documents(files, format, errors), Tokenizer(vocabulary, config.cased), progress)
        parts = list(_partition(documents, config))
    except InputError:
        # Nothing is built: the directory is free for a corrected attempt.
        (output / CONFIGURATION).unlink()
        if not any(output.iterdir()):
            output.rmdir()
        raise
    shards = []
    total = {split: dict(_COUNTERS) for split in schema.SPLITS}
    for split, index, shard_documents in tqdm(parts, desc="writing", unit=" shards", disable=not progress):
        num_shards = config.num_shards if split == "train" else 1
        path = output / f"{split}-{index:05d}-of-{num_shards:05d}.tfrecord"
        batches = _shard_batches(shard_documents, split, index, vocabulary, config, total[split])
        shards.append(write_shard(path, split, batches))
    vocabulary.save(output / schema.VOCABULARY)
    manifest = Manifest(
        directory=output,
        sequence_length=config.sequence_length,
        max_predictions=config.max_predictions,
        vocabulary_size=len(vocabulary),
        vocabulary_sha256=vocabulary.sha256,
        config=config,
        shards=tuple(shards),
        counts={"corpus": counts, **{split: total[split] for split in schema.SPLITS if total[split]["records"]}},
    )
    manifest.save()
    return manifest


def _digest(files):
    digest = hashlib.sha256()
    for path in files:
        try:
            digest.update(bytes.fromhex(sha256(path)))
        except OSError as error:
            raise InputError(f"Expected a readable text file. Received: {path} ({error.strerror}).") from None
    return digest.hexdigest()


def _tokenize(documents, tokenizer, progress):
    """Tokenizes all documents to one flat Documents; sentences and documents without a token are dropped and counted."""
    sentence_tokens, sentence_lengths, document_lengths = [], [], []
    counts = {"documents": 0, "sentences": 0, "tokens": 0, "unknown_tokens": 0, "empty_sentences": 0, "empty_documents": 0}
    call = tf.function(tokenizer, input_signature=[tf.TensorSpec([None], tf.string)])
    with tqdm(desc="tokenizing", unit=" documents", disable=not progress) as bar:
        for group in _groups(documents, _SENTENCES_PER_BATCH):
            ids = call(tf.constant([sentence for document in group for sentence in document]))
            lengths = ids.row_lengths().numpy()
            sentence_tokens.append(ids.flat_values.numpy())
            sentence_lengths.append(lengths[lengths > 0])
            owner = np.repeat(np.arange(len(group)), [len(document) for document in group])
            kept = np.bincount(owner[lengths > 0], minlength=len(group))
            document_lengths.append(kept[kept > 0])
            counts["documents"] += int((kept > 0).sum())
            counts["sentences"] += int((lengths > 0).sum())
            counts["tokens"] += int(lengths.sum())
            counts["unknown_tokens"] += int((sentence_tokens[-1] == tokenizer.vocabulary.unk_id).sum())
            counts["empty_sentences"] += int((lengths == 0).sum())
            counts["empty_documents"] += int((kept == 0).sum())
            bar.update(len(group))
    if not counts["documents"]:
        raise InputError("Expected text. Received: input files without a single word.")
    return (
        Documents(
            np.concatenate(sentence_tokens),
            np.concatenate([[0], np.cumsum(np.concatenate(sentence_lengths))]),
            np.concatenate([[0], np.cumsum(np.concatenate(document_lengths))]),
        ),
        counts,
    )


def _groups(documents, num_sentences):
    """Groups documents so that a group has at least `num_sentences` sentences, but for the last."""
    group, size = [], 0
    for document in documents:
        group.append(document)
        size += len(document)
        if size >= num_sentences:
            yield group
            group, size = [], 0
    if group:
        yield group


def _partition(documents, config):
    """Yields (split, index of the shard, Documents): each document goes where the hash of its index says."""
    indices = np.arange(len(documents), dtype=np.uint64)
    held_out = _uniform_hash(indices, config.seed, 0) < config.validation_fraction
    shard = (_uniform_hash(indices, config.seed, 1) * config.num_shards).astype(np.int64)
    for split, index in [("train", index) for index in range(config.num_shards)] + [("validation", 0)]:
        chosen = np.flatnonzero(held_out if split == "validation" else ~held_out & (shard == index))
        if split == "validation" and not config.validation_fraction:
            continue
        if len(chosen) < 2:
            mend = "give more text or fewer --shards"
            if split == "validation":
                mend = f"set --validation-fraction to {min(0.5, 5 / len(documents)):.2g}, or to 0 for none"
            if len(documents) < 10:
                mend += ", and check that empty lines part the documents"
            raise InputError(
                "Next sentence prediction needs another document to draw from: expected at least 2 documents in every part. "
                f"Received: {len(chosen)} of {len(documents)} documents in {split} shard {index}; {mend}."
            )
        yield split, index, documents.select(chosen)


def _uniform_hash(values, seed, purpose):
    """Hashes uint64 [n] to uniform floats in [0, 1) (splitmix64, Steele et al. 2014), keyed by (seed, purpose)."""
    with np.errstate(over="ignore"):
        key = (np.uint64(seed) * np.uint64(2) + np.uint64(purpose)) * np.uint64(0x9E3779B97F4A7C15)
        z = (values + np.uint64(1)) * np.uint64(0xD1342543DE82EF95) + key
        for _ in range(2):
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)) * 2.0**-53


_COUNTERS = {"documents": 0, "records": 0, "tokens": 0, "random_next": 0, "masked_tokens": 0, "truncated_pairs": 0}


def _shard_batches(documents, split, index, vocabulary, config, counts):
    """Yields the batches of records of one shard, shuffled; adds to `counts`."""
    split_and_shard = [config.seed, schema.SPLITS.index(split), index]
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(split_and_shard)))
    pairs = sentence_pairs(
        documents,
        config.sequence_length,
        config.short_sequence_probability,
        config.duplicates,
        vocabulary.cls_id,
        vocabulary.sep_id,
        generator,
    )
    masking = Masking(
        vocabulary_size=len(vocabulary),
        cls_id=vocabulary.cls_id,
        sep_id=vocabulary.sep_id,
        mask_id=vocabulary.mask_id,
        max_predictions=config.max_predictions,
        mask_rate=config.mask_rate,
    )
    mask = tf.function(lambda token_ids, lengths, seed: mask_tokens(token_ids, lengths, masking, seed))
    order = generator.permutation(len(pairs))
    mask_key = generator.integers(1 << 62)
    counts["documents"] += len(documents)
    counts["truncated_pairs"] += pairs.num_truncated
    for number, start in enumerate(range(0, len(order), _RECORDS_PER_BATCH)):
        chunk = order[start : start + _RECORDS_PER_BATCH]
        token_ids, segment_ids, lengths, labels = pairs.batch(chunk, config.sequence_length)
        masked = mask(token_ids, lengths, tf.constant([mask_key, number], tf.int64))
        counts["records"] += len(labels)
        counts["tokens"] += int(lengths.sum())
        counts["random_next"] += int(labels.sum())
        counts["masked_tokens"] += int(masked["weights"].numpy().sum())
        yield {
            schema.INPUT_IDS: masked["token_ids"].numpy(),
            schema.INPUT_MASK: (np.arange(config.sequence_length) < lengths[:, None]).astype(np.int32),
            schema.SEGMENT_IDS: segment_ids,
            schema.MASKED_LM_POSITIONS: masked["positions"].numpy(),
            schema.MASKED_LM_IDS: masked["labels"].numpy(),
            schema.MASKED_LM_WEIGHTS: masked["weights"].numpy(),
            schema.NEXT_SENTENCE_LABELS: labels[:, None],
        }
