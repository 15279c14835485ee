"""Text to documents. A document is the list of its sentences; next sentence prediction needs to
know where both begin and end."""

from __future__ import annotations

import collections
import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from typing import cast

import nupunkt
import regex

from tfrecords.decompression import opened
from tfrecords.errors import InputError
from tfrecords.inputs import ERRORS, TEXT_FORMATS, Span, line_blocks, parquet_file

Document = list[str]
"""A non-empty list of non-empty sentences."""

_BYTE_ORDER_MARK = "\ufeff"
_REPLACEMENT = "\ufffd"
_DOCUMENT_CHARACTERS = 1 << 20
_PARAGRAPH_CHARACTERS = 1 << 20
_ROWS_PER_BATCH = 1024
_SURROGATES = re.compile("[\ud800-\udfff]")
# Ends of sentences that nupunkt does not know, by Unicode's property: of CJK, Devanagari, Arabic,
# Khmer, Burmese, Ethiopic and many more. White space after them is not needed, but closing brackets
# and quotation marks belong to the sentence, and a wide full stop may be a decimal point.
_OTHER_STOPS = regex.compile(
    r"(?<=[\p{Sentence_Terminal}--[.!?]])"
    r"(?![[\p{Sentence_Terminal}\p{Pe}\p{Pf}\p{M}\"']--[.!?]])(?<![．﹒․](?=\d))\s*",
    regex.VERSION1,
)


def read_documents(
    files: Iterable[str | os.PathLike], format: str = "sentences", errors: str = "strict"
) -> Iterator[Document]:
    """Yields the documents of `files` in order, each a non-empty list of non-empty sentences.

    Args:
        files: Paths of files in UTF-8, plain or compressed (gzip, bzip2, xz, zstd; told by their
            first bytes).
        format: "sentences": one sentence per line; an empty line ends a document (the format of
            google-research/bert). "text": running text, whose paragraphs end at an empty line and
            are broken into sentences here; two or more empty lines end a document. "jsonl": one
            JSON object per line, a document, with its text in the field "text"; every line of that
            text is a paragraph. "parquet": the same from a column "text" (needs pyarrow). In all
            of them, the end of a file ends a document, and only a line feed ends a line. A byte
            order mark (U+FEFF) at the beginning of a line is dropped; a line of it alone is neither
            a sentence nor an empty line.
        errors: What invalid UTF-8 does: "strict" stops with the file and the byte offset, "replace"
            puts U+FFFD in its place, which tokenization drops.

    Raises:
        InputError: A file cannot be read, is not UTF-8 or not of the format.
    """
    for path in files:
        yield from span_documents(Span(str(path)), format, errors, collections.Counter())


def span_documents(
    span: Span, format: str, errors: str, counts: collections.Counter
) -> Iterator[Document]:
    """Yields the documents of a span of a file; see `read_documents`.

    Adds to `counts`: "replaced_characters", put in the place of invalid UTF-8; "broken_lines",
    longer than 1 MiB and therefore read in parts, each taken for a line; "cut_documents", longer
    than a million characters and therefore cut into several. Sets "bytes_read", of the file as it
    is on disk."""
    if format not in TEXT_FORMATS:
        raise InputError(
            f"Expected a format among {', '.join(TEXT_FORMATS)}. Received: {format!r}."
        )
    if errors not in ERRORS:
        raise InputError(f"Expected errors among {', '.join(ERRORS)}. Received: {errors!r}.")
    if format == "parquet":
        yield from _parquet_documents(span, errors, counts)
        return
    with opened(span.path) as (file, raw):
        if format == "sentences":
            documents = _sentence_documents(_text_lines(file, span, errors, counts), counts)
        elif format == "text":
            documents = _text_documents(_text_lines(file, span, errors, counts), counts)
        else:
            documents = _json_documents(file, span, errors, counts)
        for document in documents:
            counts["bytes_read"] = raw.tell() - span.start
            yield document


def _text_lines(file: io.BufferedIOBase, span: Span, errors: str, counts) -> Iterator[str]:
    """Yields the lines of a span without white space around them."""
    for offset, block, part in line_blocks(file, span):
        counts["broken_lines"] += part == 2  # once per line
        text = _decode(block, span.path, offset, errors, counts)
        # A line feed alone ends a line, and the last line of a file may do without.
        lines = [text] if part else text.removesuffix("\n").split("\n")
        yield from map(str.strip, lines)


def _decode(block: bytes, path, offset: int, errors: str, counts) -> str:
    """Decodes whole lines, or a part of one, without byte order marks at the beginning of lines."""
    try:
        text = block.decode()
    except UnicodeDecodeError as error:
        if errors == "strict":
            raise InputError(
                f"{path}: expected UTF-8. Received: an invalid byte at offset "
                f"{offset + error.start:,}; "
                "convert the file or pass --errors replace."
            ) from None
        text = block.decode(errors="replace")
        counts["replaced_characters"] += text.count(_REPLACEMENT) - block.count(
            _REPLACEMENT.encode()
        )
    if _BYTE_ORDER_MARK in text:
        text = "\n".join(map(_without_mark, text.split("\n")))
    return text


def _without_mark(line: str) -> str:
    # The mark alone stays, or the line would look like an empty one and end a document.
    rest = line.removeprefix(_BYTE_ORDER_MARK)
    return rest if rest.strip() else line


def _sentence_documents(text_lines: Iterable[str], counts) -> Iterator[Document]:
    document, size = [], 0
    for line in text_lines:
        if line == _BYTE_ORDER_MARK:
            continue
        if line:
            if size >= _DOCUMENT_CHARACTERS:
                yield document
                document, size = [], 0
                counts["cut_documents"] += 1
            document.append(line)
            size += len(line)
        elif document:
            yield document
            document, size = [], 0
    if document:
        yield document


def _text_documents(text_lines: Iterable[str], counts) -> Iterator[Document]:
    """The documents of running text. A paragraph may be a whole book, so it is broken into
    sentences as it grows."""
    paragraph, empty_lines = [], 0
    document, size, growth = [], 0, 0

    def end_paragraph():
        nonlocal paragraph, growth
        document.extend(break_sentences(" ".join(paragraph)))
        paragraph, growth = [], 0

    for line in text_lines:
        if not line:
            end_paragraph()
            empty_lines += 1
            continue

        # Empty lines end a document only here, once a line follows them: how many there are does
        # not matter, and those at the end of a file begin no other document.
        if document and (empty_lines >= 2 or size >= _DOCUMENT_CHARACTERS):
            counts["cut_documents"] += empty_lines < 2
            yield document
            document, size = [], 0
        empty_lines = 0
        if line == _BYTE_ORDER_MARK:
            continue
        paragraph.append(line)
        size += len(line)
        growth += len(line)

        if growth >= _PARAGRAPH_CHARACTERS:
            end_paragraph()
            # The last sentence may go on in the next line. One as long as the limit may not, or it
            # would be broken again and again, in quadratic time.
            if document and len(document[-1]) < _PARAGRAPH_CHARACTERS:
                paragraph = [document.pop()]
    end_paragraph()
    if document:
        yield document


def _json_documents(file: io.BufferedIOBase, span: Span, errors: str, counts) -> Iterator[Document]:
    if span.start:
        file.seek(span.start)
    offset = span.start
    while (span.end is None or offset < span.end) and (line := file.readline()):
        if line.strip():
            where = f"{span.path}, at byte {offset:,}"
            text = _json_text(_decode(line, span.path, offset, errors, counts), where)
            yield from _paragraphs(text, where, errors, counts)
        offset += len(line)


def _json_text(line: str, where: str) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{where}: expected a line with a JSON object. Received: {error}."
        ) from None
    text = value.get("text") if isinstance(value, dict) else None
    if not isinstance(text, str):
        received = f"a {type(value).__name__}"
        if isinstance(value, dict):
            received = (
                f"a {type(text).__name__} there"
                if "text" in value
                else f"the fields {', '.join(map(repr, value))}"
            )
        raise InputError(
            f"{where}: expected a JSON object with a string 'text'. Received: {received}."
        )
    return text


def _parquet_documents(span: Span, errors: str, counts) -> Iterator[Document]:
    with parquet_file(span.path) as file:
        groups = range(span.start, file.num_row_groups if span.end is None else span.end)
        for group in groups:
            batches = file.iter_batches(_ROWS_PER_BATCH, row_groups=[group], columns=["text"])
            for row, value in enumerate(value for batch in batches for value in batch.column(0)):
                where = f"{span.path}, row {row:,} of row group {group}"
                yield from _paragraphs(
                    _parquet_text(value, where, errors, counts), where, errors, counts
                )


def _parquet_text(value, where: str, errors: str, counts) -> str:
    try:
        text = value.as_py()
    except UnicodeDecodeError:  # pyarrow does not check what it reads
        text = _decode(value.as_buffer().to_pybytes(), where, 0, errors, counts)
    if not isinstance(text, str | None):
        raise InputError(
            f"{where}: expected a string in the column 'text'. Received: a {type(text).__name__}."
        )
    return text or ""


def _paragraphs(text: str, where: str, errors: str, counts) -> Iterator[Document]:
    """Yields the document of a text in which every line is a paragraph: one document, unless the
    text is very long."""
    if _SURROGATES.search(text):
        if errors == "strict":
            raise InputError(
                f"{where}: expected Unicode. Received: half a surrogate pair; correct it or "
                "pass --errors replace."
            )
        text, count = _SURROGATES.subn(_REPLACEMENT, text)
        counts["replaced_characters"] += count
    sentences = (
        sentence
        for paragraph in _short_paragraphs(text, counts)
        for sentence in break_sentences(paragraph)
    )
    yield from _sentence_documents(sentences, counts)


def _short_paragraphs(text: str, counts) -> Iterator[str]:
    """Yields the lines of a text; a line of more than _PARAGRAPH_CHARACTERS in parts, cut at spaces
    where there are some."""
    for line in text.split("\n"):
        start = 0
        while len(line) - start > _PARAGRAPH_CHARACTERS:
            counts["broken_lines"] += not start
            end = start + _PARAGRAPH_CHARACTERS
            end = line.rfind(" ", start, end) + 1 or end
            yield line[start:end].strip()
            start = end
        yield line[start:].strip()


def break_sentences(paragraph: str) -> list[str]:
    """Breaks running text into sentences with nupunkt, whose abbreviations are English, and at the
    ends of sentences that other scripts have.

    >>> break_sentences("See e.g. Dr. Smith. It is late!")
    ['See e.g. Dr. Smith.', 'It is late!']
    >>> break_sentences("这是一支笔。那是一本书。")
    ['这是一支笔。', '那是一本书。']
    """
    found = cast("list[str]", nupunkt.sent_tokenize(paragraph))  # tuples only if asked for
    sentences = (
        part
        for sentence in found
        for part in ([sentence] if sentence.isascii() else _OTHER_STOPS.split(sentence))
    )
    return [sentence.strip() for sentence in sentences if sentence.strip()]
