"""How many records are in a TFRecord file without a manifest, and where they begin."""

from __future__ import annotations

import gzip
import pathlib
import zlib

import numpy as np

from tfrecords import schema
from tfrecords.compilation import compiled
from tfrecords.errors import InputError
from tfrecords.files import is_gzip

_HEAD = 12  # bytes: the length and its CRC; the data and a CRC of 4 bytes follow


def scan_records(path: pathlib.Path) -> tuple[int, tuple[int, ...], str]:
    """Counts the records of a file by their lengths, without parsing what is in them.

    Args:
        path: A file, plain or gzip (recognised by its first bytes).

    Returns:
        The number of records, the offset of every BLOCK_RECORDS-th of them (empty for gzip), and
        "none" or "gzip".

    Raises:
        InputError: The file ends inside a record.
    """
    if is_gzip(path):
        return _count_compressed(path), (), "gzip"
    data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
    count, offsets, whole = _scan(data, schema.BLOCK_RECORDS)
    if not whole:
        raise _cut(path, count)
    return count, tuple(offsets.tolist()), "none"


def _cut(path: pathlib.Path, count: int) -> InputError:
    return InputError(
        f"{path}: expected TFRecords of tf.train.Example. Received: a file that is cut or damaged "
        f"in record {count:,}."
    )


def _count_compressed(path: pathlib.Path) -> int:
    # In pieces of 1 MiB, since a damaged length may ask for more than there is memory.
    count = 0
    try:
        with gzip.open(path) as file:
            while head := file.read(_HEAD):
                length = int.from_bytes(head[:8], "little") + 4
                while length > 0 and (data := file.read(min(length, 1 << 20))):
                    length -= len(data)
                if length:
                    raise _cut(path, count)
                count += 1
    except (EOFError, OSError, zlib.error):
        raise _cut(path, count) from None
    return count


@compiled
def _scan(data, block_records):
    """The number of records, where every `block_records`-th begins, and whether the last one is
    whole."""
    count, at = 0, 0
    offsets = [np.int64(0) for _ in range(0)]  # empty, in a way that tells numba its type
    while at < len(data):
        length = np.int64(0)
        if at + 12 <= len(data):
            for byte in range(8):
                length |= np.int64(data[at + byte]) << (8 * byte)
        if length < 0 or length > len(data) - at - 16:  # not at + length + 16: could overflow
            return count, np.array(offsets, np.int64), False
        if count % block_records == 0:
            offsets.append(np.int64(at))
        at += 16 + length
        count += 1
    return count, np.array(offsets, np.int64), True
