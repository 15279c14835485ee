"""Arrays to a shard of `tf.train.Example` records; the counterpart of reader.py.

The protocol buffers and the TFRecord framing around them are written by compiled loops (numba) over
whole batches: building `tf.train.Example`s in Python would be the slowest step of a build."""

from __future__ import annotations

import contextlib
import gzip
import pathlib
from collections.abc import Iterable, Mapping

import numpy as np

from tfrecords import schema
from tfrecords.compilation import compiled
from tfrecords.files import atomic_path, sha256


def write_shard(
    path: pathlib.Path,
    split: str,
    batches: Iterable[tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray] | None]],
    compression: str = "none",
) -> schema.Shard:
    """Writes batches of records to the file `path`, atomically, and returns its Shard.

    Args:
        path: The file.
        split: "train" or "validation".
        batches: The arguments of `encode_records` for each batch: (features, lengths).
        compression: "none" or "gzip".
    """
    count, size, offsets = 0, 0, []
    with atomic_path(path) as partial:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open(partial, "wb"))
            if compression == "gzip":
                # Without name and time, so that equal records give equal files.
                file = stack.enter_context(
                    gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0)
                )
            for features, lengths in batches:
                buffer, starts = encode_records(features, lengths)
                file.write(buffer.data)
                # Blocks of records go on across batches: the first one to begin in this batch is
                # as far in as the last block still lacks records.
                first = -count % schema.BLOCK_RECORDS
                offsets += (starts[:-1][first :: schema.BLOCK_RECORDS] + size).tolist()
                count += len(starts) - 1
                size += len(buffer)
        digest, size = sha256(partial), partial.stat().st_size
    return schema.Shard(
        name=path.name,
        split=split,
        records=count,
        bytes=size,
        sha256=digest,
        offsets=() if compression == "gzip" else tuple(offsets),
        compression=compression,
    )


def encode_records(
    features: Mapping[str, np.ndarray], lengths: Mapping[str, np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Serialises a batch as TFRecords of `tf.train.Example`s, features in the order of their names.

    Args:
        features: A dict from name to array: int32 [B, n], not negative, for an int64 list, or
            float32 [B, n] for a float list.
        lengths: A dict from name to int [B], how many values of a row are written; of a name that
            is missing here, all are.

    Returns:
        The bytes as uint8 [n], and where each record begins, int64 [B + 1]; the last is the end.
    """
    names = sorted(features)
    lengths = lengths or {}
    keys = [name.encode() for name in names]
    num_values = [
        np.broadcast_to(
            lengths[name] if name in lengths else features[name].shape[1], len(features[name])
        )
        for name in names
    ]
    return _encode(
        tuple(np.require(features[name], requirements=["C", "W"]).view(np.int32) for name in names),
        np.stack(num_values, axis=1).astype(np.int64),
        np.frombuffer(b"".join(keys), np.uint8),
        np.cumsum([0] + [len(key) for key in keys]),
        np.array([features[name].dtype == np.float32 for name in names]),
        _CRC_TABLES,
    )


def _crc_tables() -> np.ndarray:
    """CRC-32C (Castagnoli) of every byte, and of every byte followed by 1 to 15 zero bytes: uint32
    [16, 256]."""
    tables = np.zeros([16, 256], np.uint32)
    crc = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        crc = np.where(crc & 1, (crc >> 1) ^ np.uint32(0x82F63B78), crc >> 1)
    tables[0] = crc
    for k in range(1, 16):
        tables[k] = (tables[k - 1] >> 8) ^ tables[0][tables[k - 1] & 255]
    return tables


_CRC_TABLES = _crc_tables()


@compiled
def _put_masked_crc(out, at, data, tables):
    """Puts the CRC-32C of `data` at `at`, rotated and offset as TFRecords have it."""
    crc = np.uint64(_crc(data, tables))
    masked = ((crc >> 15) | (crc << 17) & 0xFFFFFFFF) + np.uint64(0xA282EAD8)
    return _put_bytes(out, at, np.int64(masked & np.uint64(0xFFFFFFFF)), 4)


@compiled
def _crc(data, tables):
    """The CRC-32C of `data`, sixteen bytes at a time; twelve of them do not wait for what comes
    before."""
    crc = np.uint32(0xFFFFFFFF)
    for i in range(0, len(data) - 15, 16):
        rest = np.uint32(0)
        for k in range(4, 16):
            rest ^= tables[15 - k, data[i + k]]
        crc = (
            rest
            ^ tables[15, (crc ^ data[i]) & 255]
            ^ tables[14, (crc >> 8 ^ data[i + 1]) & 255]
            ^ tables[13, (crc >> 16 ^ data[i + 2]) & 255]
            ^ tables[12, crc >> 24 ^ data[i + 3]]
        )
    for i in range(len(data) // 16 * 16, len(data)):
        crc = tables[0, (crc ^ data[i]) & 255] ^ (crc >> 8)
    return ~np.uint32(crc)


@compiled
def _put_bytes(out, at, value, count):
    for byte in range(count):
        out[at + byte] = (value >> (8 * byte)) & 255
    return at + count


@compiled
def _varint_size(value):
    """Bytes of a varint below 2**35; without a branch, so that a loop over many is vectorised."""
    return 1 + (value >= 1 << 7) + (value >= 1 << 14) + (value >= 1 << 21) + (value >= 1 << 28)


@compiled
def _put_varint(out, at, value):
    while value >= 128:
        out[at] = (value & 127) | 128
        value >>= 7
        at += 1
    out[at] = value
    return at + 1


@compiled
def _put_varints(out, at, values, size):
    """Puts varints that take `size` bytes together."""
    if size == len(values):  # one byte each: without a running position the loop is vectorised
        for n in range(size):
            out[at + n] = values[n]
        return at + size
    for n in range(len(values)):
        value = values[n]
        if value < 1 << 14:
            # Most of the ids. A branch between one byte and two would be mispredicted, so two are
            # always written; the next value replaces the second one where it was not needed.
            is_long = value >= 1 << 7
            out[at] = value & 127 | is_long << 7
            out[at + 1] = value >> 7
            at += 1 + is_long
        else:
            at = _put_varint(out, at, value)
    return at


@compiled
def _field_size(size):
    """Bytes of a length-delimited field with a one-byte tag."""
    return 1 + _varint_size(size) + size


@compiled
def _put_field(out, at, tag, size):
    out[at] = tag
    return _put_varint(out, at + 1, size)


@compiled
def _encode(features, num_values, keys, key_starts, is_float, crc_tables):
    """Writes the records of a batch.

    A TFRecord is its length (8 bytes), the CRC of that (4), the data, the CRC of the data (4). The
    data, every brace of which is a length-delimited field of a protocol buffer:

        Example {
          features {
            feature { key, value { int64_list | float_list { value: packed } } }
            ...
          }
        }

    Floats come as their bits. Tags: field 1 of wire type 2 is 0x0A, field 2 is 0x12, field 3 is
    0x1A."""
    num_records, num_features = num_values.shape
    list_sizes = np.empty(num_features, np.int64)
    starts = np.zeros(num_records + 1, np.int64)
    # Room for the largest records there can be, since growing inside of the loop would cost more: 5
    # bytes for a value, 40 for the tags and sizes of a feature, 26 for those of a record.
    most_values = 0
    for f in range(num_features):
        most_values += features[f].shape[1]
    out = np.empty(
        num_records * (5 * most_values + key_starts[-1] + 40 * num_features + 26), np.uint8
    )
    at = 0
    for n in range(num_records):
        # Sizes first: in a protocol buffer the length of everything stands before its contents.
        features_size = 0
        for f in range(num_features):
            values = features[f][n, : num_values[n, f]]
            size = 4 * len(values)
            if not is_float[f]:
                size = 0
                for c in range(len(values)):
                    size += _varint_size(values[c])
            list_sizes[f] = size
            entry = _field_size(key_starts[f + 1] - key_starts[f]) + _field_size(
                _field_size(_field_size(size))
            )
            features_size += _field_size(entry)

        # The head of the record, then the data in the order of the nesting above.
        _put_bytes(out, at, _field_size(features_size), 8)
        data = _put_masked_crc(out, at + 8, out[at : at + 8], crc_tables)
        at = _put_field(out, data, 0x0A, features_size)
        for f in range(num_features):
            key_size, size = key_starts[f + 1] - key_starts[f], list_sizes[f]
            value_size = _field_size(_field_size(size))
            at = _put_field(out, at, 0x0A, _field_size(key_size) + _field_size(value_size))
            at = _put_field(out, at, 0x0A, key_size)
            for c in range(key_size):
                out[at + c] = keys[key_starts[f] + c]
            at = _put_field(out, at + key_size, 0x12, value_size)
            at = _put_field(out, at, 0x12 if is_float[f] else 0x1A, _field_size(size))
            at = _put_field(out, at, 0x0A, size)
            values = features[f][n, : num_values[n, f]]
            if is_float[f]:
                for c in range(len(values)):
                    at = _put_bytes(out, at, values[c], 4)
            else:
                at = _put_varints(out, at, values, size)
        at = _put_masked_crc(out, at, out[data:at], crc_tables)
        starts[n + 1] = at
    return out[:at], starts
