"""Describes a directory of records in words: counts, warnings, decoded examples, and whether every
record is sound."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfrecords import schema
from tfrecords.diagnosis import (
    advice_of,
    corpus_lines,
    num_pairs,
    padding_of,
    splits_of,
    warnings_of,
)
from tfrecords.errors import InputError
from tfrecords.framing import scan_records
from tfrecords.parsing import features_of, limits_of
from tfrecords.reader import read
from tfrecords.schema import Manifest, load_manifest
from tfrecords.vocabulary import Vocabulary

_RECORDS_PER_BATCH = 1024
_LABELS = {
    "nsp": ("B follows A (0)", "B is random (1)"),
    "sop": ("A and B in order (0)", "A and B swapped (1)"),
}


def inspect(directory: str | os.PathLike, num_examples: int = 3, verify: bool = False) -> str:
    """Describes records as text: shapes, counts per split, warnings where a count looks wrong, and
    decoded examples.

    In an example, `[MASK→word]` stands for a masked token and its label, `[other→word]` for one
    that was replaced, and `[word=]` for one that is predicted but was kept.

    Args:
        directory: A directory of records with a manifest.
        num_examples: How many records of the first split are decoded.
        verify: Whether to read all records and check them; see `verify_records`.

    Returns:
        The description.

    Raises:
        InputError: The directory holds no finished records, or a record is damaged.
    """
    # Checked before anything is described: of damaged records the counts would mislead.
    manifest = load_manifest(directory)
    if verify:
        verify_records(manifest)
    # The counts are in the manifest; no record is read for them.
    lines = [_how_made(manifest), *corpus_lines(manifest)]
    lines += [
        f"{split}: {_split_line(manifest, split, counts)}" for split, counts in splits_of(manifest)
    ]
    if verify:
        lines.append(f"all {sum(shard.records for shard in manifest.shards):,} records are sound")
    lines += [f"warning: {warning}" for warning in warnings_of(manifest)]
    lines += [f"advice: {advice}" for advice in advice_of(manifest)]
    # Decoded examples under a legend.
    if num_examples:
        lines += [
            "",
            "[MASK→x]: x is masked; [y→x]: x is replaced by y; [x=]: x is predicted but kept; "
            "…: a word is cut here",
        ]
    vocabulary = manifest.load_vocabulary()
    split = manifest.shards[0].split
    for place, label, *example in _examples(manifest, split, num_examples):
        kind = "" if label is None else f" {_LABELS[manifest.pairs][label]}"
        token_ids, labels, positions, weights = example
        text = decode(token_ids, labels, positions, weights, vocabulary)
        lines += ["", f"{split} {place}:{kind}", text]
    return "\n".join(lines)


def _how_made(manifest: Manifest) -> str:
    config = manifest.config
    assert config is not None, "load_manifest gives none without"
    masking = (
        "masked when written"
        if config.masking == "static"
        else "masked on reading, other masks in every epoch"
    )
    packed = f", up to {config.pack} in a record" if config.pack > 1 else ""
    return (
        f"{manifest.directory}: records of S = {manifest.sequence_length} tokens with P = "
        f"{manifest.max_predictions} slots for masked tokens ({config.mask_unit}s, {masking}), "
        f"pairs: {config.pairs}{packed}, vocabulary of {manifest.vocabulary_size:,} tokens "
        f"({str(manifest.vocabulary_sha256)[:12]})"
    )


def _split_line(manifest: Manifest, split: str, counts: dict[str, int]) -> str:
    # Shares are of the pairs, of which every record is one or holds several; a split may have none.
    records, pairs = counts["records"], num_pairs(counts)
    shards = [shard for shard in manifest.shards if shard.split == split]
    parts = [
        f"{records:,} records{f' of {pairs:,} {_what(manifest)}' if manifest.pack > 1 else ''} in "
        f"{len(shards)} file{'s' * (len(shards) > 1)} "
        f"({sum(shard.bytes for shard in shards) / 1e6:,.1f} MB) from "
        f"{counts['documents']:,} documents"
    ]
    if records and manifest.pairs != "none":
        what = "random next sentences" if manifest.pairs == "nsp" else "swapped"
        parts.append(f"{counts['positive_labels'] / pairs:.1%} {what}")
        parts.append(f"{counts['truncated'] / pairs:.1%} truncated (as BERT truncates full pairs)")
    if records:
        parts.append(f"{padding_of(manifest, counts):.1%} padding")
    if counts["masked_tokens"]:
        parts.append(f"{counts['masked_tokens'] / records:.1f} masked tokens per record")
    if counts["dropped"]:
        parts.append(f"{counts['dropped']:,} single tokens that make no pair were dropped")
    return "; ".join(filter(None, [parts[0], ", ".join(parts[1:])]))


def _what(manifest: Manifest) -> str:
    return "segments" if manifest.pairs == "none" else "pairs"


def _examples(
    manifest: Manifest, split: str, count: int
) -> Iterator[tuple[str, int | None, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Yields (where it stands, label of the pair or None, token_ids, labels, positions, weights) of
    every pair in a split's first records, the last four as arrays."""
    count = min(count, manifest.num_records(split))
    if not count:
        return
    try:
        # The reader reads ahead, so damage may be found behind the records that are shown.
        batches = list(
            read(manifest, split, batch_size=1, shuffle=False).take(count).as_numpy_iterator()
        )
    except tf.errors.DataLossError as error:
        raise InputError(
            f"{manifest.directory}: expected whole records. Received: damage ({error.message}); "
            "--verify names the file."
        ) from None
    what = _what(manifest).removesuffix("s")
    for record, (x, y, sample_weight) in enumerate(batches):
        # A record that is not packed has one pair, number 1 by its mask.
        numbers = x["pair_numbers" if manifest.pack > 1 else "padding_mask"][0]
        positions = x["mask_positions"][0]
        for number in range(1, numbers.max() + 1):
            start, length = int((numbers == number).argmax()), int((numbers == number).sum())
            inside = (start <= positions) & (positions < start + length)
            yield (
                f"record {record}"
                + (f", {what} {number} of {numbers.max()}" if manifest.pack > 1 else ""),
                int(y["nsp"].ravel()[number - 1]) if "nsp" in y else None,
                x["token_ids"][0, start : start + length],
                y["mlm"][0],
                positions - start,
                sample_weight["mlm"][0] * inside,
            )


def verify_records(manifest: Manifest) -> None:
    """Reads all records and checks hashes, framing and CRCs of the files, numbers of records, and
    that ids, positions and labels are in range; of packed records also that the pairs of a row
    stand one after the other, each with a [CLS] and all that belongs to it.

    Raises:
        InputError: Something is wrong; the message names the file, and the record where it can.
    """
    # Hashes find any change of a file. The rest finds what was wrong before the hash was made, and
    # says which record it is.
    manifest.verify()
    for shard in manifest.shards:
        path = manifest.directory / shard.name
        records = tf.data.TFRecordDataset(str(path), "GZIP" if shard.compression == "gzip" else "")
        count = 0
        try:
            for batch in records.batch(_RECORDS_PER_BATCH):
                features = tf.io.parse_example(batch, features_of(manifest))
                _verify_values(features, manifest, path, count)
                if manifest.pack > 1:
                    _verify_rows(features, manifest, path, count)
                count += len(batch)
        except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
            raise InputError(
                f"{path}: expected whole records. Received: damage behind record {count:,} "
                f"({error.message})."
            ) from None
        # The reader starts in the middle of a file by these offsets.
        if shard.compression == "none" and (offsets := scan_records(path)[1]) != shard.offsets:
            raise InputError(
                f"{path}: expected blocks of records at {shard.offsets}, as in the manifest. "
                f"Received: {offsets}."
            )
        if count != shard.records:
            raise InputError(
                f"{path}: expected {shard.records:,} records, as in the manifest. Received: "
                f"{count:,}."
            )


_NUM_IDS = "a number of input_ids"


def _verify_values(
    features: dict[str, Any], manifest: Manifest, path: pathlib.Path, first: int
) -> None:
    """Raises InputError for the first value out of range, of a batch that begins with the record
    number `first`."""
    # Every integer has an upper limit. Records that are masked on reading have ids of any length, a
    # limit too: the length is compared as if it were a value.
    assert manifest.vocabulary_size is not None, "load_manifest gives none without"
    limits = limits_of(manifest.sequence_length, manifest.vocabulary_size, manifest.pack) | {
        _NUM_IDS: manifest.sequence_length + 1
    }
    if manifest.is_dynamic:
        assert manifest.config is not None, "records by another tool have their masks"
        limits[schema.INPUT_IDS] = manifest.config.num_ids(manifest.vocabulary_size)
        features = features | {_NUM_IDS: features[schema.INPUT_IDS].row_lengths()[:, None]}
    for name, values in features.items():
        if name in limits:
            dense = (
                values.to_tensor().numpy()
                if isinstance(values, tf.RaggedTensor)
                else values.numpy()
            )
            wrong = (dense < 0) | (dense >= limits[name])
            if wrong.any():
                record = int(wrong.any(axis=1).argmax())
                raise InputError(
                    f"{path}, record {first + record:,}: expected {name} from 0 to "
                    f"{limits[name] - 1:,}. "
                    f"Received: {dense[record][wrong[record]][0]}."
                )


def _verify_rows(
    features: dict[str, Any], manifest: Manifest, path: pathlib.Path, first: int
) -> None:
    """Raises InputError for the first packed record that does not hang together; arguments as of
    `_verify_values`."""
    expected = _expected_lists if manifest.is_dynamic else _expected_rows
    cls_id = manifest.load_vocabulary().cls_id
    for name, right in expected(features, manifest, cls_id):
        if not right.all():
            record = int(right.argmin())
            raise InputError(
                f"{path}, record {first + record:,}: expected {name}. Received: other values, a "
                "damaged record."
            )


def _expected_rows(
    features: dict[str, Any], manifest: Manifest, cls_id: int
) -> Iterator[tuple[str, np.ndarray]]:
    """What has to hold of packed records with static masks, and of which it does: bool [B]."""
    arrays = {name: values.numpy() for name, values in features.items()}
    numbers = arrays[schema.INPUT_MASK]
    index = np.arange(numbers.shape[1])
    before = np.pad(numbers, [[0, 0], [1, 0]])[:, :-1]
    steps = numbers - before
    in_order = (steps == 0) | (steps == 1) & ((before > 0) | (index == 0)) | (numbers == 0)
    right = in_order.all(axis=1) & (numbers[:, 0] > 0)
    yield f"{schema.INPUT_MASK} to number the pairs from 1", right

    begins = steps == 1
    starts = np.maximum.accumulate(begins * index, axis=1)
    positions = (index - starts) * (numbers > 0)
    right = (arrays[schema.POSITIONS] == positions).all(axis=1)
    yield f"{schema.POSITIONS} to count the tokens of each pair from 0", right
    right = (~begins | (arrays[schema.INPUT_IDS] == cls_id)).all(axis=1)
    yield "every pair to begin with [CLS]", right

    used = arrays[schema.MASKED_LM_WEIGHTS] > 0
    predicted = np.take_along_axis(numbers, arrays[schema.MASKED_LM_POSITIONS], axis=1)
    yield "every masked token to be in a pair", (~used | (predicted > 0)).all(axis=1)

    # What there is a value of for each pair, in its place and nowhere else.
    if manifest.pairs != "none":
        inside = np.arange(manifest.pack) < numbers.max(axis=1)[:, None]
        cls_positions = np.zeros_like(inside, np.int64)
        cls_positions[inside] = np.nonzero(begins)[1]
        right = arrays[schema.NEXT_SENTENCE_POSITIONS] == cls_positions
        yield f"{schema.NEXT_SENTENCE_POSITIONS} to name the [CLS] of each pair", right.all(axis=1)
        right = arrays[schema.NEXT_SENTENCE_WEIGHTS] == inside
        yield f"{schema.NEXT_SENTENCE_WEIGHTS} of 1 for each pair", right.all(axis=1)
        right = inside | (arrays[schema.NEXT_SENTENCE_LABELS] == 0)
        yield f"{schema.NEXT_SENTENCE_LABELS} for pairs alone", right.all(axis=1)


def _expected_lists(
    features: dict[str, Any], manifest: Manifest, cls_id: int
) -> Iterator[tuple[str, np.ndarray]]:
    """What has to hold of packed records that are masked on reading, as `_expected_rows`."""
    lengths, ids = features[schema.PAIR_LENGTHS], features[schema.INPUT_IDS]
    sizes = lengths.row_lengths().numpy()
    yield f"from 1 to {manifest.pack} pairs", (sizes > 0) & (sizes <= manifest.pack)
    for name in (schema.FIRST_LENGTH, schema.PAIR_PLACES, schema.NEXT_SENTENCE_LABELS):
        if name in features:
            yield f"{name} of each pair", features[name].row_lengths().numpy() == sizes
    right = tf.reduce_all(lengths > 0, axis=1).numpy()
    yield f"{schema.PAIR_LENGTHS} of at least one token", right
    total = tf.reduce_sum(lengths, axis=1).numpy()
    yield f"{schema.PAIR_LENGTHS} of all tokens", total == ids.row_lengths().numpy()
    inside = tf.reduce_all(features[schema.FIRST_LENGTH] <= lengths, axis=1).numpy()
    yield f"{schema.FIRST_LENGTH} of at most the length of the pair", inside
    # Pairs stand one after the other, also across the rows, if all of the above is so.
    firsts = np.cumsum(lengths.values) - lengths.values
    begins = (ids.values.numpy()[firsts] == cls_id).astype(int)
    right = np.add.reduceat(begins, lengths.row_starts()) == sizes
    yield "every pair to begin with [CLS]", right


def decode(
    token_ids: np.ndarray,
    labels: np.ndarray,
    positions: np.ndarray,
    weights: np.ndarray,
    vocabulary: Vocabulary,
) -> str:
    """Writes one record as readable text; … stands for the lost beginning of a word that was cut.

    Args:
        token_ids: int [n], without padding.
        labels: int [P].
        positions: int [P].
        weights: float [P].
        vocabulary: That of the records.
    """
    tokens = [vocabulary.tokens[index] for index in token_ids]
    for position, label, weight in zip(positions, labels, weights, strict=True):
        if weight:
            original = vocabulary.tokens[label]
            joint, word = ("##", original[2:]) if original.startswith("##") else ("", original)
            shown = tokens[position].strip("[]").removeprefix("##")
            change = f"{word}=" if tokens[position] == original else f"{shown}→{word}"
            tokens[position] = f"{joint}[{change}]"
    text = (
        " ".join(tokens)
        .replace("[CLS] ##", "[CLS] …")
        .replace("[SEP] ##", "[SEP] …")
        .replace(" ##", "")
    )
    return "  " + text.replace(" [SEP] ", " [SEP]\n  ", 1)
