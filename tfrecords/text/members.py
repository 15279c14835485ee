"""A text file opened for one of the formats: decompressed, and member by member if it is an
archive."""

from __future__ import annotations

import io
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import TypeVar, cast

from tfrecords.decompression import compression, decompressed, first_bytes, opened
from tfrecords.errors import InputError
from tfrecords.inputs import HEAD_BYTES, is_corpus
from tfrecords.text.archives import ARCHIVE_BYTES, archive_errors, archive_kind, members
from tfrecords.text.decoding import Reading
from tfrecords.text.spans import Span

T = TypeVar("T")
Read = Callable[[io.BufferedIOBase, Span, Reading], Iterator[T]]
"""Reads a span of an open file."""


def read_file(read: Read[T], span: Span, reading: Reading) -> Iterator[T]:
    """Yields what `read` finds in the file of a span, or in each file of an archive: the end of one
    is the end of its last document.

    Sets "bytes_read" of the counts."""
    with opened(span.path) as (file, raw):
        kind = kind_of_archive(file, raw, span.path) if not span.start else None
        for one in (
            read_members(read, file, kind, span, reading) if kind else read(file, span, reading)
        ):
            reading.counts["bytes_read"] = raw.tell() - span.start
            yield one


def is_plain_text(path: str | os.PathLike) -> bool:
    """Whether a file is neither compressed nor an archive."""
    with open(path, "rb") as file:
        return compression(file) is None and archive_kind(file.peek(ARCHIVE_BYTES)) is None


def kind_of_archive(file: io.BufferedIOBase, raw: io.BufferedIOBase, path: str) -> str | None:
    """The kind of archive that an open file is; see `archive_kind`."""
    # What a decompressor has at hand may be short, and most files are not compressed.
    start = cast("io.BufferedReader", file).peek(ARCHIVE_BYTES)
    if file is not raw and len(start) < ARCHIVE_BYTES:
        start = first_bytes(path, ARCHIVE_BYTES)
    kind = archive_kind(start)
    if kind == "zip" and file is not raw:
        raise InputError(
            f"{path}: expected text. Received: a compressed zip archive; decompress it."
        )
    return kind


def read_members(
    read: Read[T], file: io.BufferedIOBase, kind: str, span: Span, reading: Reading
) -> Iterator[T]:
    """Yields what `read` finds in the files of an archive, decompressed where they are compressed;
    those that are no corpus are counted as "left_out_members"."""
    with archive_errors(span.path, kind):
        for name, member in members(file, kind):
            where = f"{span.path}: {name}"
            with decompressed(cast("io.BufferedReader", member), where) as text:
                start = cast("io.BufferedReader", text).peek(HEAD_BYTES)
                if not is_corpus(pathlib.PurePosixPath(name), start[:HEAD_BYTES]):
                    reading.counts["left_out_members"] += 1
                    continue
                if archive_kind(start):
                    raise InputError(
                        f"{where}: expected text files in an archive. Received: another archive; "
                        "unpack it."
                    )
                yield from read(text, Span(where), reading)
