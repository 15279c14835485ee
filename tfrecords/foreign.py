"""Records in Google's schema by other tools: their Manifest, from the files themselves."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import tensorflow as tf
from google.protobuf.message import DecodeError

from tfrecords import schema
from tfrecords.batch import FEATURES
from tfrecords.errors import InputError
from tfrecords.files import is_gzip
from tfrecords.schema import Manifest, Shard

_NAMES = [*schema.SEQUENCE_FEATURES, *schema.PREDICTION_FEATURES, schema.NEXT_SENTENCE_LABELS]
_PACKED_NAMES = [schema.POSITIONS, schema.NEXT_SENTENCE_POSITIONS, schema.NEXT_SENTENCE_WEIGHTS]
_FLOATS = {feature.google_name for feature in FEATURES if feature.dtype == "float32"}


def foreign_manifest(files: Sequence[str | os.PathLike]) -> Manifest:
    """Makes the Manifest of files that have none: shapes from the first record, and where records
    begin from a scan of every file. All of them are one training split.

    Raises:
        InputError: A file is missing, is cut short or holds something else, or the first record
            lacks a feature of Google's schema.
    """
    paths = [pathlib.Path(file) for file in files]
    # First, because of a file of another kind this says best what is wrong with it.
    lengths = _first_record_lengths(paths)
    return Manifest(
        directory=pathlib.Path(os.path.commonpath([path.absolute().parent for path in paths])),
        sequence_length=lengths[schema.INPUT_IDS],
        max_predictions=lengths[schema.MASKED_LM_IDS],
        vocabulary_size=None,
        vocabulary_sha256=None,
        config=None,
        shards=tuple(_shard(path) for path in paths),
        counts={},
        foreign_pack=lengths.get(schema.NEXT_SENTENCE_POSITIONS, 1),
    )


def _shard(path: pathlib.Path) -> Shard:
    # Imported here because framing brings numba, which reading our own records does without.
    from tfrecords.framing import scan_records

    count, offsets, compression = scan_records(path)
    return Shard(
        name=str(path.absolute()),
        split="train",
        records=count,
        bytes=path.stat().st_size,
        sha256="",
        offsets=offsets,
        compression=compression,
    )


def _first_record_lengths(paths: list[pathlib.Path]) -> dict[str, int]:
    """The number of values in each feature of the first record, by name, which are as in Google's
    schema."""
    missing = [str(path) for path in paths if not path.is_file()]
    if missing or not paths:
        raise InputError(
            f"Expected files of records. Received: {', '.join(missing) or 'none'}, which is no "
            "file."
        )
    feature = _first_record(paths[0])
    names = [*_NAMES, *_PACKED_NAMES] if schema.NEXT_SENTENCE_POSITIONS in feature else _NAMES
    absent = [name for name in names if name not in feature]
    if absent:
        raise InputError(
            f"{paths[0]}: expected records with {', '.join(names)}. Received: records without "
            f"{', '.join(absent)}."
        )
    kinds = {name: feature[name].WhichOneof("kind") or "no list" for name in names}
    lengths = {
        name: len(getattr(feature[name], kind).value) if kind != "no list" else 0
        for name, kind in kinds.items()
    }
    # S is the length of input_ids, P that of masked_lm_ids and K that of next_sentence_positions;
    # the others have to agree with them.
    expected = dict.fromkeys(schema.SEQUENCE_FEATURES, lengths[schema.INPUT_IDS])
    expected |= dict.fromkeys(schema.PREDICTION_FEATURES, lengths[schema.MASKED_LM_IDS])
    expected |= dict.fromkeys(
        [schema.NEXT_SENTENCE_LABELS, *_PACKED_NAMES],
        lengths.get(schema.NEXT_SENTENCE_POSITIONS, 1),
    )
    expected |= {schema.POSITIONS: lengths[schema.INPUT_IDS]}
    for name in names:
        kind = "float_list" if name in _FLOATS else "int64_list"
        length = expected[name] or 1
        if (kinds[name], lengths[name]) != (kind, length):
            raise InputError(
                f"{paths[0]}: expected {name} as {kind} of {length}. Received: {kinds[name]} of "
                f"{lengths[name]}."
            )
    return lengths


def _first_record(path: pathlib.Path):
    """The features of a file's first record, by name; none of an empty file."""
    records = tf.data.TFRecordDataset(str(path), "GZIP" if is_gzip(path) else "").take(1)
    try:
        return tf.train.Example.FromString(next(records.as_numpy_iterator(), b"")).features.feature
    except (tf.errors.DataLossError, DecodeError) as error:
        raise InputError(
            f"{path}: expected TFRecords of tf.train.Example. Received: {error}."
        ) from None
