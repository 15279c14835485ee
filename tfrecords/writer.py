"""Masked pairs to a shard of `tf.train.Example` records; reader.py is its twin.

The protocol buffer encoding is a compiled loop (numba) over whole batches: building `tf.train.Example`s in Python would be
the slowest step of all.
"""

import itertools

import numpy as np
import tensorflow as tf

from tfrecords import schema
from tfrecords.compilation import compiled
from tfrecords.files import atomic_path, sha256


def write_shard(path, split, batches):
    """Writes batches of records to the file `path`, atomically, and returns its Shard.

    Args:
        path: The file, a pathlib.Path.
        split: "train" or "validation".
        batches: Yields dicts from feature name to array [B, length of the feature]: int32, or float32 for the weights.
    """
    count = 0
    with atomic_path(path) as partial:
        with tf.io.TFRecordWriter(str(partial)) as writer:
            for batch in batches:
                for record in encode_records(batch):
                    writer.write(record)
                    count += 1
        digest, size = sha256(partial), partial.stat().st_size
    return schema.Shard(name=path.name, split=split, records=count, bytes=size, sha256=digest)


def encode_records(features):
    """Serialises a batch as `tf.train.Example`s, features in the order of their names.

    Args:
        features: A dict from name to array: int32 [B, n], not negative, for an int64 list, or float32 [B, n] for a float list.

    Returns:
        A list of B byte strings.
    """
    names = sorted(features)
    matrix = np.concatenate([features[name].view(np.int32) for name in names], axis=1)
    keys = [name.encode() for name in names]
    buffer, starts = _encode(
        matrix,
        np.cumsum([0] + [features[name].shape[1] for name in names]),
        np.frombuffer(b"".join(keys), np.uint8),
        np.cumsum([0] + [len(key) for key in keys]),
        np.array([features[name].dtype == np.float32 for name in names]),
    )
    data = buffer.tobytes()
    return [data[start:end] for start, end in itertools.pairwise(starts)]


@compiled
def _varint_size(value):
    size = 1
    while value >= 128:
        value >>= 7
        size += 1
    return size


@compiled
def _put_varint(out, at, value):
    while value >= 128:
        out[at] = (value & 127) | 128
        value >>= 7
        at += 1
    out[at] = value
    return at + 1


@compiled
def _field_size(size):
    """Bytes of a length-delimited field with a one-byte tag."""
    return 1 + _varint_size(size) + size


@compiled
def _put_field(out, at, tag, size):
    out[at] = tag
    return _put_varint(out, at + 1, size)


@compiled
def _encode(matrix, columns, keys, key_starts, is_float):
    """Example { features { feature { key, value { int64_list | float_list { value: packed } } } ... } }.

    Floats come as their bits. Tags: field 1 of wire type 2 is 0x0A, field 2 is 0x12, field 3 is 0x1A.
    """
    num_records, num_features = len(matrix), len(columns) - 1
    list_sizes = np.empty(num_features, np.int64)
    starts = np.zeros(num_records + 1, np.int64)
    out = np.empty(num_records * (5 * columns[-1] + key_starts[-1] + 40 * num_features + 10), np.uint8)
    at = 0
    for n in range(num_records):
        features_size = 0
        for f in range(num_features):
            size = 4 * (columns[f + 1] - columns[f])
            if not is_float[f]:
                size = 0
                for c in range(columns[f], columns[f + 1]):
                    size += _varint_size(matrix[n, c])
            list_sizes[f] = size
            entry = _field_size(key_starts[f + 1] - key_starts[f]) + _field_size(_field_size(_field_size(size)))
            features_size += _field_size(entry)
        at = _put_field(out, at, 0x0A, features_size)
        for f in range(num_features):
            key_size, size = key_starts[f + 1] - key_starts[f], list_sizes[f]
            value_size = _field_size(_field_size(size))
            at = _put_field(out, at, 0x0A, _field_size(key_size) + _field_size(value_size))
            at = _put_field(out, at, 0x0A, key_size)
            out[at : at + key_size] = keys[key_starts[f] : key_starts[f + 1]]
            at = _put_field(out, at + key_size, 0x12, value_size)
            at = _put_field(out, at, 0x12 if is_float[f] else 0x1A, _field_size(size))
            at = _put_field(out, at, 0x0A, size)
            for c in range(columns[f], columns[f + 1]):
                value = matrix[n, c]
                if is_float[f]:
                    for byte in range(4):
                        out[at] = (value >> (8 * byte)) & 255
                        at += 1
                else:
                    at = _put_varint(out, at, value)
        starts[n + 1] = at
    return out[:at], starts
