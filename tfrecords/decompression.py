"""Text files opened for reading, decompressed if they are compressed."""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import importlib
import io
import lzma
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterator

from tfrecords.errors import InputError

UNREADABLE = frozenset(
    {
        errno.ENOENT,
        errno.EACCES,
        errno.EPERM,
        errno.EISDIR,
        errno.ENOTDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
    }
)
"""Errors that tell of a path; the user can fix them, unlike those of a disk or a network."""

_MAGIC = {
    "gzip": re.compile(rb"\x1f\x8b"),
    "bzip2": re.compile(rb"BZh[1-9][1\x17]"),  # a name may begin with the letters
    "xz": re.compile(rb"\xfd7zXZ\x00"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd"),
}
_ZSTD_WINDOW_LOG = 31
"""Of the longest windows that there are, 2 GiB, made by `zstd --ultra --long=31`."""
_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)


@contextlib.contextmanager
def opened(path: str | os.PathLike) -> Iterator[tuple[io.BufferedIOBase, io.BufferedIOBase]]:
    """Opens a text file for reading bytes, decompressed if its first bytes are those of gzip,
    bzip2, xz or zstd.

    Yields:
        The file to read from, and the file on disk, whose position tells how far reading has come.

    Raises:
        InputError: The file cannot be read, or turns out to be damaged or cut while it is read
            inside the block.
    """
    try:
        with open(path, "rb") as file, decompressed(file, path) as text:
            yield text, file
    except OSError as error:
        if error.errno in UNREADABLE:
            raise InputError(
                f"Expected a readable text file. Received: {path} ({error.strerror})."
            ) from None
        # Of a disk or a network: no other text would help, but the file should be named.
        error.filename = error.filename or str(path)
        raise


@contextlib.contextmanager
def decompressed(file: io.BufferedReader, name: str | os.PathLike) -> Iterator[io.BufferedIOBase]:
    """Yields an open file as it is, or decompressed if it is compressed; `name` is what errors call
    it.

    Raises:
        InputError: It turns out to be damaged or cut while it is read inside the block.
    """
    kind = compression(file)
    if kind is None:
        yield file
        return
    try:
        with _decompressed(file, kind) as text:
            yield text
    except OSError as error:
        if error.errno is None:  # raised by a decompressor, not by the system
            raise _damaged(name, kind, error) from None
        raise
    except Exception as error:
        # The class of zstd's errors is in a module that is imported only when it is needed.
        if isinstance(error, _DAMAGE) or type(error).__name__ == "ZstdError":
            raise _damaged(name, kind, error) from None
        raise


def first_bytes(path: str | os.PathLike, size: int) -> bytes:
    """The first `size` bytes of a file, decompressed.

    Raises:
        InputError: As of `opened`.
    """
    with opened(path) as (file, _):
        return beginning(file, size)


def beginning(file: io.BufferedIOBase, size: int) -> bytes:
    """The first `size` bytes of an open file, of which a decompressor may give fewer at a time."""
    start = b""
    while len(start) < size and (more := file.read(size - len(start))):
        start += more
    return start


def _damaged(path, kind: str, error: Exception) -> InputError:
    return InputError(
        f"{path}: expected a whole {kind} file. Received: one that is cut or damaged ({error}); "
        "fetch or compress it again."
    )


def compression(file: io.BufferedReader) -> str | None:
    """What an open file is compressed with, by its first bytes: "gzip", "bzip2", "xz", "zstd", or
    None for plain text."""
    start = file.peek(6)
    return next((kind for kind, magic in _MAGIC.items() if magic.match(start)), None)


def _decompressed(file, kind: str):
    if kind == "gzip":
        return gzip.open(file)
    if kind == "bzip2":
        return io.BufferedReader(_Streams(file, bz2.BZ2Decompressor), 1 << 16)
    if kind == "xz":
        return io.BufferedReader(_Streams(file, lzma.LZMADecompressor), 1 << 16)
    zstd = importlib.import_module(
        "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    )
    # The library refuses windows of more than 128 MiB unless it is told that they are wanted.
    return zstd.open(file, options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG})


class _Streams(io.RawIOBase):
    """Compressed streams, one after the other, as one file.

    Not `bz2.open` or `lzma.open`: if a stream after the first is damaged at its beginning, they
    take it for the end of the file (CPython's Lib/_compression.py, DecompressReader.read)."""

    def __init__(self, file: io.BufferedIOBase, decompressor: Callable):
        self._file = file
        self._new = decompressor
        self._decompressor = decompressor()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        data = b""
        while not data:
            more = b""
            if self._decompressor.eof:
                # The next stream begins after zeros, which both formats allow as padding.
                more = self._decompressor.unused_data.lstrip(b"\0")
                while not more:
                    if not (read := self._file.read(1 << 16)):
                        return 0
                    more = read.lstrip(b"\0")
                self._decompressor = self._new()
            elif self._decompressor.needs_input and not (more := self._file.read(1 << 16)):
                raise EOFError("it ends too early")
            data = self._decompressor.decompress(more, len(buffer))
        buffer[: len(data)] = data
        return len(data)
