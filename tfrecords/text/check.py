"""Whether text files are what their format says, found before any work by a look at the beginning
of each."""

from __future__ import annotations

import io
import itertools
import os
import warnings
from collections.abc import Iterable, Iterator
from typing import cast

from tfrecords.decompression import beginning, first_bytes, opened
from tfrecords.errors import InputError
from tfrecords.text.archives import archive_errors
from tfrecords.text.binary_looks import (
    HEAD_BYTES,
    NULS,
    Look,
    binary_look,
    office_look,
    other_encoding,
)
from tfrecords.text.decoding import Reading
from tfrecords.text.formats import TEXT_FORMATS, check_options
from tfrecords.text.looks import text_look
from tfrecords.text.members import kind_of_archive, read_members
from tfrecords.text.rows import missing_field, row_documents
from tfrecords.text.spans import Span

_MEMBERS = 1000
_ARCHIVE_BYTES = 1 << 26


def check_files(
    files: Iterable[str | os.PathLike],
    format: str,
    errors: str,
    text_field: str,
    looks: bool = True,
) -> None:
    """Checks that every file looks like text of the format, as far as its beginning tells, and that
    a field with text is there.

    Args:
        files: The files.
        format: A format of `formats.read_documents`.
        errors: "strict" or "replace".
        text_field: The field with the text.
        looks: Whether to look; the field is checked anyway.

    Raises:
        InputError: A file looks like something else; the message says what, and what to do about
            it. Or a file with rows has not one with the field, and the message names those there
            are.
    """
    check_options(format, errors, text_field)
    for path in files:
        path = str(path)
        if looks:
            _look_at(path, format, errors)
        if TEXT_FORMATS[format].rows:
            try:
                _check_field(path, format, Reading(errors, text_field))
            except InputError:
                if looks:
                    _look_for_format(path, format)
                raise


def _look_for_format(path: str, format: str) -> None:
    """Raises InputError if a file whose rows cannot be read looks like text of another format."""
    look = text_look(first_bytes(path, HEAD_BYTES))
    if look and look.format != format:
        raise _refusal(path, look, format) from None


def _check_field(path: str, format: str, reading: Reading) -> None:
    """Reads rows up to the first that has the field."""
    rows = TEXT_FORMATS[format].rows
    assert rows is not None, "the caller has looked"
    names: dict[str, None] = {}
    for row in rows(Span(path), reading):
        if row.value is not None:
            next(row_documents([row], reading), None)  # refuses what is no text
            return
        if len(names) < 100:  # rows of JSON may have any names
            names |= dict.fromkeys(row.fields)
    if names:
        raise missing_field(path, reading.field, names, "in at least one row")


def _look_at(path: str, format: str, errors: str) -> None:
    with opened(path) as (file, raw):
        if kind := kind_of_archive(file, raw, path):
            _look_at_members(file, raw, kind, path, format, errors)
            return
        packed = "" if file is raw else "decompress it"
        _judge(path, beginning(file, HEAD_BYTES), format, errors, packed)


def _look_at_members(
    file: io.BufferedIOBase,
    raw: io.BufferedIOBase,
    kind: str,
    path: str,
    format: str,
    errors: str,
) -> None:
    """Looks at the first files of an archive; those after a bound are not read for it."""
    # The names alone tell a document of an office program.
    if kind == "zip":
        import zipfile

        with (
            archive_errors(path, kind),
            zipfile.ZipFile(cast("io.BytesIO", file)) as archive,
        ):
            if look := office_look(archive.namelist()):
                raise _refusal(path, look, format)

    def heads(member: io.BufferedIOBase, span: Span, _: Reading) -> Iterator[tuple[str, bytes]]:
        yield span.path, beginning(member, HEAD_BYTES)

    # What the files begin with, and how many of them are none of the corpus.
    reading = Reading(errors)
    found = read_members(heads, file, kind, Span(path), reading)
    is_found = False
    for where, head in itertools.islice(found, _MEMBERS):
        is_found = True
        _judge(where, head, format, errors, "unpack it")
        if kind == "tar" and raw.tell() > _ARCHIVE_BYTES:
            break
    if reading.counts["left_out_members"]:
        others = "left out as no corpus, such as a README or a vocabulary; unpack it to read them"
        if not is_found:
            raise InputError(
                f"{path}: expected text files in an archive. Received: nothing but files {others}."
            )
        warnings.warn(f"{path}: files in it are {others}", stacklevel=5)


def _judge(where: str, head: bytes, format: str, errors: str, packed: str = "") -> None:
    """Raises InputError if a file that begins with `head` is not of the format; `packed` is what
    must be done first to a file that is compressed or in an archive."""
    look = binary_look(head) or (other_encoding(head) if errors == "strict" else None)
    if look and look.format == format and not packed:
        return
    if look:
        if look.format and packed:  # of Parquet, which is read from the disk as it is
            look = look._replace(mend=f"{packed} and {look.mend}")
        raise _refusal(where, look, format, is_text=look is NULS)
    # Rows are read up to the first with the field, and may hold any text; see `_check_field`.
    if TEXT_FORMATS[format].rows is None:
        look = text_look(head)
        if look and look.format != format:
            raise _refusal(where, look, format, is_text=True)
        if look is None and format == "wikiextractor" and head.strip():
            raise _refusal(where, Look("other text", "pass its --format"), format)


def _refusal(where: str, look: Look, format: str, is_text: bool = False) -> InputError:
    anyway = ", or --no-check to read it as it is" if is_text else ""
    return InputError(
        f"{where}: expected {TEXT_FORMATS[format].document} (--format {format}). Received: what "
        f"looks like {look.what}; {look.mend}{anyway}."
    )
