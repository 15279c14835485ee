"""The formats of text, in one table; and text in any of them to documents.

A format is an entry in TEXT_FORMATS: two lines of description, a function that cuts a file into
spans, and one that reads a span. Errors, the command line and the docs take its name from there."""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from tfrecords.errors import InputError
from tfrecords.text import lines, parquet, rows
from tfrecords.text.decoding import ERRORS, TEXT_FIELD, Reading
from tfrecords.text.members import read_file
from tfrecords.text.rows import Row, row_documents
from tfrecords.text.running_text import Document
from tfrecords.text.spans import SPAN_BYTES, Span, spans_of_lines, whole_file

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFormat:
    """A format of text."""

    document: str
    """What a document is, for the help of `--format`: a few words."""
    separator: str = ""
    """What separates documents, if it may be missing: "empty lines"."""
    spans: Callable[[str, int], list[Span]]
    """(path, about how many bytes) -> the spans of a file, each of whole documents."""
    documents: Callable[[Span, Reading], Iterator[Document]]
    """The documents of a span; of the whole file those of its spans, one after the other."""
    rows: Callable[[Span, Reading], Iterator[Row]] | None = None
    """The rows of a span, if text is in a field of them: the one that --text-field names."""

    @property
    def more_documents(self) -> str:
        """What to do about a text with too few documents."""
        if not self.separator:
            return "give more text"
        return (
            f"separate the documents with {self.separator}, choose --format documents or "
            "paragraphs if every line is one"
        )


def _of_lines(read: Callable[..., Iterator[_T]]) -> Callable[[Span, Reading], Iterator[_T]]:
    """A reading of spans by one of open files; archives are read member by member."""
    return functools.partial(read_file, read)


def _spans(begins: Callable[[bytes, int], bool]) -> Callable[[str, int], list[Span]]:
    return functools.partial(spans_of_lines, begins=begins)


def _parquet_documents(span: Span, reading: Reading) -> Iterator[Document]:
    return row_documents(parquet.parquet_rows(span, reading), reading)


TEXT_FORMATS = {
    "sentences": TextFormat(
        document="one sentence per line, an empty line between documents",
        separator="empty lines",
        spans=_spans(lines.begins_after(1)),
        documents=_of_lines(lines.sentence_per_line),
    ),
    "text": TextFormat(
        document="paragraphs, an empty line between them, two between documents",
        separator="two empty lines",
        spans=_spans(lines.begins_after(2)),
        documents=_of_lines(lines.paragraphs_of_lines),
    ),
    "paragraphs": TextFormat(
        document="one paragraph per line, an empty line between documents",
        separator="empty lines",
        spans=_spans(lines.begins_after(1)),
        documents=_of_lines(lines.paragraph_per_line),
    ),
    "documents": TextFormat(
        document="one document per line",
        spans=_spans(lines.begins_after(0)),
        documents=_of_lines(lines.document_per_line),
    ),
    "jsonl": TextFormat(
        document="one JSON object per line and document",
        spans=_spans(lines.begins_after(0)),
        documents=_of_lines(rows.json_documents),
        rows=_of_lines(rows.json_rows),
    ),
    "csv": TextFormat(
        document="one row per document, after a row that names the columns; commas between them",
        spans=whole_file,
        documents=_of_lines(rows.csv_documents),
        rows=_of_lines(rows.csv_rows),
    ),
    "tsv": TextFormat(
        document="one row per document, after a row that names the columns; tabs between them",
        spans=whole_file,
        documents=_of_lines(rows.tsv_documents),
        rows=_of_lines(rows.tsv_rows),
    ),
    "parquet": TextFormat(
        document="one row per document",
        spans=parquet.parquet_spans,
        documents=_parquet_documents,
        rows=parquet.parquet_rows,
    ),
    "wikiextractor": TextFormat(
        document="one paragraph per line, between <doc id=...> and </doc>",
        spans=_spans(lines.wiki_begins),
        documents=_of_lines(lines.wikiextractor),
    ),
}
"""The formats by name; the first is the default."""
DEFAULT_FORMAT = next(iter(TEXT_FORMATS))


def check_options(format: str, errors: str, text_field: str) -> None:
    """Raises InputError unless text can be read with these options."""
    if format not in TEXT_FORMATS:
        raise InputError(
            f"Expected a format among {', '.join(TEXT_FORMATS)}. Received: {format!r}."
        )
    if errors not in ERRORS:
        raise InputError(f"Expected errors among {', '.join(ERRORS)}. Received: {errors!r}.")
    with_field = [name for name, one in TEXT_FORMATS.items() if one.rows]
    if text_field != TEXT_FIELD and format not in with_field:
        raise InputError(
            f"Expected a format with fields, {', '.join(with_field)}, for the text field "
            f"{text_field!r}. Received: {format!r}."
        )


def spans_of(
    files: Iterable[str | os.PathLike] | Mapping[pathlib.Path, int],
    format: str,
    span_bytes: int = SPAN_BYTES,
) -> list[Span]:
    """Cuts files into spans of about `span_bytes`, each of whole documents; a compressed file and
    an archive are one span.

    However the files are cut, the spans one after the other hold the same documents in the same
    order. Files may come with their weights, as from `inputs.input_files`."""
    weights = files if isinstance(files, Mapping) else dict.fromkeys(map(pathlib.Path, files), 1)
    return [
        dataclasses.replace(span, weight=weight)
        for path, weight in weights.items()
        for span in TEXT_FORMATS[format].spans(str(path), span_bytes)
    ]


def span_documents(
    span: Span,
    format: str,
    errors: str,
    counts: collections.Counter[Any],
    text_field: str = TEXT_FIELD,
    keeps: Callable[[str], bool] | None = None,
) -> Iterator[Document]:
    """Yields the documents of a span of a file; see `read_documents`.

    `keeps` is asked for every paragraph whether it is to be kept; see `decoding.Reading`.

    Adds to `counts`: "replaced_characters", put in the place of invalid UTF-8; "broken_lines",
    longer than 1 MiB and therefore read in parts, each taken for a line; "cut_documents", longer
    than a million characters and therefore cut into several; "empty_texts", of rows and documents
    without text; "duplicate_paragraphs", that were not kept, and "duplicate_characters". Sets
    "bytes_read", of the file as it is on disk."""
    check_options(format, errors, text_field)
    yield from TEXT_FORMATS[format].documents(span, Reading(errors, text_field, counts, keeps))


def read_documents(
    files: Iterable[str | os.PathLike],
    format: str = DEFAULT_FORMAT,
    errors: str = ERRORS[0],
    text_field: str = TEXT_FIELD,
) -> Iterator[Document]:
    """Yields the documents of `files` in order, each a non-empty list of non-empty sentences.

    Args:
        files: Paths of files in UTF-8, plain or compressed (gzip, bzip2, xz, zstd; told by their
            first bytes), or tar and zip archives of such files.
        format: "sentences": one sentence per line; an empty line ends a document (the format of
            google-research/bert). "text": running text, whose paragraphs end at an empty line and
            are broken into sentences here; two or more empty lines end a document. "paragraphs":
            one paragraph per line; an empty line ends a document. "documents": one document per
            line. "jsonl": one JSON object per line, a document. "csv", "tsv": one row per document,
            fields quoted as in CSV. "parquet": one row per document (needs pyarrow).
            "wikiextractor": documents between <doc id=...> and </doc>. In all of them but the first
            two, every line of a text is a paragraph, broken into sentences here. The end of a file
            ends a document, and only a line feed ends a line. A byte order mark (U+FEFF) at the
            beginning of a line is dropped; a line of it alone is neither a sentence nor an empty
            line.
        errors: What invalid UTF-8 does: "strict" stops with the file and the byte offset, "replace"
            puts U+FFFD in its place, which tokenization drops.
        text_field: The field or column with the text, for "jsonl", "csv", "tsv" and "parquet";
            "a.b" is b inside of a, unless there is a field of that name. Rows without text, where
            it is missing, null or white, are passed over.

    Raises:
        InputError: A file cannot be read, is not UTF-8 or not of the format.
    """
    for path in files:
        yield from span_documents(
            Span(str(path)), format, errors, collections.Counter(), text_field
        )
