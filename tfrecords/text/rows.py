"""Formats of rows with a field or column that holds the text: JSON lines, CSV and TSV."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from tfrecords.errors import InputError
from tfrecords.text.decoding import BYTE_ORDER_MARK, RECORD_BYTES, Reading, whole_lines
from tfrecords.text.running_text import Document, text_documents
from tfrecords.text.spans import Span

_NAMES = 20


class Row(NamedTuple):
    """A row: a JSON object, or a line of a table."""

    where: str
    """The file and the place in it, for errors."""
    value: Any
    """What the field with the text holds; None if the row does not have it."""
    fields: Iterable[str]
    """The names of the row's fields."""


def row_documents(rows: Iterable[Row], reading: Reading) -> Iterator[Document]:
    """Yields the document of each row with text; the others are counted as "empty_texts".

    Raises:
        InputError: A field holds something that is no text.
    """
    for row in rows:
        if row.value is None:
            reading.counts["empty_texts"] += 1
        elif isinstance(row.value, str):
            yield from text_documents(row.value, row.where, reading)
        else:
            raise InputError(
                f"{row.where}: expected a string in the field {reading.field!r}. Received: a "
                f"{type(row.value).__name__}; name another with --text-field."
            )


def json_rows(file: io.BufferedIOBase, span: Span, reading: Reading) -> Iterator[Row]:
    """Yields a row for every line with a JSON object; white lines are nothing."""
    for offset, line in whole_lines(file, span, reading, refused=b"["):
        if line.strip():
            where = f"{span.path}, at byte {offset:,}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(
                    f"{where}: expected a line with a JSON object. Received: {error}."
                ) from None
            if not isinstance(row, dict):
                raise InputError(
                    f"{where}: expected a line with a JSON object. Received: a "
                    f"{type(row).__name__}."
                )
            yield Row(where, _value(row, reading.field), row)


def _value(row: dict[str, Any], field: str) -> Any:
    """The value of a field: of that name, or else by a path "a.b" to b inside of a."""
    if field in row or "." not in field:
        return row.get(field)
    value: Any = row
    for name in field.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def json_documents(file: io.BufferedIOBase, span: Span, reading: Reading) -> Iterator[Document]:
    """A JSON object per line, a document."""
    return row_documents(json_rows(file, span, reading), reading)


def csv_rows(file: io.BufferedIOBase, span: Span, reading: Reading) -> Iterator[Row]:
    """Yields the rows of a table with commas, or with semicolons if only these part the header."""
    return _table_rows(file, span, reading, ",;")


def tsv_rows(file: io.BufferedIOBase, span: Span, reading: Reading) -> Iterator[Row]:
    """Yields the rows of a table with tabs."""
    return _table_rows(file, span, reading, "\t")


def csv_documents(file: io.BufferedIOBase, span: Span, reading: Reading) -> Iterator[Document]:
    """A row of a table with commas, a document."""
    return row_documents(csv_rows(file, span, reading), reading)


def tsv_documents(file: io.BufferedIOBase, span: Span, reading: Reading) -> Iterator[Document]:
    """A row of a table with tabs, a document."""
    return row_documents(tsv_rows(file, span, reading), reading)


def _table_rows(
    file: io.BufferedIOBase, span: Span, reading: Reading, delimiters: str
) -> Iterator[Row]:
    # The first line with anything in it tells the delimiter, its row the names of the columns.
    every = (line for _, line in whole_lines(file, span, reading))
    lines = (line for line in every if line.strip() != BYTE_ORDER_MARK)
    start = list(_until_text(lines))
    delimiter = _delimiter(start[-1] if start else "", delimiters, reading.field)
    rows = _parsed(itertools.chain(start, lines), delimiter, span.path)
    where, names = next(rows, ("", None))
    if names is None:
        return
    if reading.field not in names:
        raise missing_field(span.path, reading.field, names, "in its first row")
    column = names.index(reading.field)

    for where, row in rows:
        # Columns that the first row does not have are the rest of a text that was not quoted.
        if any(row[len(names) :]):
            raise InputError(
                f"{where}: expected {len(names)} columns, as in the first row. Received: "
                f"{len(row)}; put quotation marks around texts with {delimiter!r} in them."
            )
        if delimiter == "\t" and any(_holds_rows(field, len(names)) for field in row):
            raise InputError(
                f"{where}: expected a row per line, but for texts in quotation marks. Received: a "
                "text in quotation marks that holds lines with as many tabs as a row has; put "
                "quotation marks around all texts, and double those inside of them."
            )
        yield Row(where, (row[column] or None) if column < len(row) else None, names)


def _holds_rows(field: str, columns: int) -> bool:
    """Whether a field of a table with tabs is several rows, because a quotation mark of a text
    that is not quoted came first in it, and another one last in a later row."""
    _, *lines = field.split("\n")
    # Lines of a text may be indented, or be a few pairs of a name and a value.
    if columns == 1 or len(lines) < (5 if columns == 2 else 2):
        return False
    *inner, last = (line.strip().count("\t") for line in lines)
    return set(inner) == {columns - 1} and 0 < last < columns


def _until_text(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        yield line
        if line.strip():
            return


def _delimiter(line: str, delimiters: str, field: str) -> str:
    """The first delimiter that parts the header so that one of the columns is `field`, or else the
    first of all."""
    for delimiter in delimiters:
        if field in [name.strip().strip('"') for name in line.split(delimiter)]:
            return delimiter
    return delimiters[0]


def _parsed(lines: Iterable[str], delimiter: str, path: str) -> Iterator[tuple[str, list[str]]]:
    """Yields (where, row) for every row that has columns."""
    # Strict: a quotation mark without its match would take the rest of the file for one field.
    csv.field_size_limit(RECORD_BYTES)
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        where = f"{path}, line {rows.line_num + 1:,}"
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise InputError(
                f"{where}: expected a row in which a field with quotation marks is quoted, as in "
                f'"a ""b"" c". Received: {error}.'
            ) from None
        if row is None:
            return
        if row:
            yield where, row


def missing_field(path: str, field: str, names: Iterable[str], where: str = "") -> InputError:
    """The error for a file in which no row has the field; `names` are those that there are."""
    there = [repr(name) for name in itertools.islice(names, _NAMES + 1)]
    more = ["..."] * (len(there) > _NAMES)
    return InputError(
        f"{path}: expected a field {field!r} with text{' ' * bool(where)}{where}. Received: "
        f"{', '.join(there[:_NAMES] + more) or 'none'}; name the one with the text by --text-field."
    )
