"""Text to documents: a document is the list of its sentences, the unit that next sentence
prediction needs."""

import collections
import json
import re

import nupunkt

from tfrecords.errors import InputError
from tfrecords.inputs import FORMATS, Piece, line_blocks, opened, parquet_file

ERRORS = ("strict", "replace")

_BYTE_ORDER_MARK = "\ufeff"
_REPLACEMENT = "\ufffd"
_DOCUMENT_CHARACTERS = 1 << 20
_PARAGRAPH_CHARACTERS = 1 << 20
_ROWS_PER_BATCH = 1024
_SURROGATES = re.compile("[\ud800-\udfff]")
# Full stops that nupunkt does not know and that need no white space behind them: CJK, Devanagari,
# Arabic, Ethiopic, Armenian.
_OTHER_STOPS = re.compile(r"(?<=[。！？｡।॥؟۔።։])(?![。！？｡।॥؟۔።։」』”’）\"'])\s*")


def read_documents(files, format="sentences", errors="strict"):
    """Yields the documents of `files` in order, each a non-empty list of non-empty sentences.

    Args:
        files: Paths of files in UTF-8, plain or compressed (gzip, bzip2, xz, zstd; told by their
            first bytes).
        format: "sentences": one sentence per line, an empty line ends a document (the format of
            google-research/bert). "text": running text, whose paragraphs end at an empty line and
            are broken into sentences here; two or more empty lines end a document. "jsonl": one
            JSON object per line, a document, with its text in the field "text"; every line of that
            text is a paragraph. "parquet": the same from a column "text" (needs pyarrow). In all,
            the end of a file ends a document, and only a line feed ends a line.
        errors: What invalid UTF-8 does: "strict" stops with the file and the byte offset, "replace"
            puts U+FFFD, which tokenization drops.

    Raises:
        InputError: A file cannot be read, is not UTF-8 or not of the format.
    """
    for path in files:
        yield from piece_documents(Piece(str(path)), format, errors, collections.Counter())


def piece_documents(piece, format, errors, counts):
    """Yields the documents of a piece of a file; see `read_documents`.

    Adds to `counts` (a Counter): "replaced_characters" put for invalid UTF-8; "broken_lines", which
    were so long (1 MiB) that they were read in parts, each taken for a line; "cut_documents", which
    were so long (a million characters) that they were cut into several; and sets "bytes_read", of
    the file as it is on the disk."""
    if format not in FORMATS:
        raise InputError(f"Expected a format among {', '.join(FORMATS)}. Received: {format!r}.")
    if errors not in ERRORS:
        raise InputError(f"Expected errors among {', '.join(ERRORS)}. Received: {errors!r}.")
    if format == "parquet":
        yield from _parquet_documents(piece, errors, counts)
        return
    with opened(piece.path) as (file, raw):
        if format == "sentences":
            documents = _sentence_documents(_text_lines(file, piece, errors, counts), counts)
        elif format == "text":
            documents = _text_documents(_text_lines(file, piece, errors, counts), counts)
        else:
            documents = _json_documents(file, piece, errors, counts)
        for document in documents:
            counts["bytes_read"] = raw.tell() - piece.start
            yield document


def _text_lines(file, piece, errors, counts):
    for offset, block, part in line_blocks(file, piece):
        counts["broken_lines"] += part == 2
        text = _decode(block, piece.path, offset, errors, counts)
        # A line feed alone ends a line, and the last line of a file may do without.
        lines = [text] if part else text.removesuffix("\n").split("\n")
        yield from map(str.strip, lines)


def _decode(block, path, offset, errors, counts):
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
        text = "\n".join(line.removeprefix(_BYTE_ORDER_MARK) for line in text.split("\n"))
    return text


def _sentence_documents(text_lines, counts):
    document, size = [], 0
    for line in text_lines:
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


def _text_documents(text_lines, counts):
    """The documents of running text; a paragraph may be a whole book, so it is broken as it
    grows."""
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
        if document and (empty_lines >= 2 or size >= _DOCUMENT_CHARACTERS):
            counts["cut_documents"] += empty_lines < 2
            yield document
            document, size = [], 0
        empty_lines = 0
        paragraph.append(line)
        size += len(line)
        growth += len(line)
        if growth >= _PARAGRAPH_CHARACTERS:
            end_paragraph()
            # The last sentence may go on in the next line; one that long without an end may not, or
            # time would be quadratic.
            if document and len(document[-1]) < _PARAGRAPH_CHARACTERS:
                paragraph = [document.pop()]
    end_paragraph()
    if document:
        yield document


def _json_documents(file, piece, errors, counts):
    if piece.start:
        file.seek(piece.start)
    offset = piece.start
    while (piece.end is None or offset < piece.end) and (line := file.readline()):
        if line.strip():
            where = f"{piece.path}, at byte {offset:,}"
            text = _json_text(_decode(line, piece.path, offset, errors, counts), where)
            yield from _paragraphs(text, where, errors, counts)
        offset += len(line)


def _json_text(line, where):
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


def _parquet_documents(piece, errors, counts):
    with parquet_file(piece.path) as file:
        groups = range(piece.start, file.num_row_groups if piece.end is None else piece.end)
        for group in groups:
            batches = file.iter_batches(_ROWS_PER_BATCH, row_groups=[group], columns=["text"])
            for row, value in enumerate(value for batch in batches for value in batch.column(0)):
                where = f"{piece.path}, row {row:,} of row group {group}"
                yield from _paragraphs(
                    _parquet_text(value, where, errors, counts), where, errors, counts
                )


def _parquet_text(value, where, errors, counts):
    try:
        text = value.as_py()
    except UnicodeDecodeError:  # pyarrow does not look at what it reads
        text = _decode(value.as_buffer().to_pybytes(), where, 0, errors, counts)
    if not isinstance(text, str | None):
        raise InputError(
            f"{where}: expected a string in the column 'text'. Received: a {type(text).__name__}."
        )
    return text or ""


def _paragraphs(text, where, errors, counts):
    """Yields the document of a text whose every line is a paragraph: one, unless it is very
    long."""
    if _SURROGATES.search(text):
        if errors == "strict":
            raise InputError(
                f"{where}: expected Unicode. Received: half a surrogate pair; mend it or pass "
                "--errors replace."
            )
        text, count = _SURROGATES.subn(_REPLACEMENT, text)
        counts["replaced_characters"] += count
    sentences = (
        sentence
        for paragraph in _short_paragraphs(text, counts)
        for sentence in break_sentences(paragraph)
    )
    yield from _sentence_documents(sentences, counts)


def _short_paragraphs(text, counts):
    """Yields the lines of a text; one of more than _PARAGRAPH_CHARACTERS in parts, cut at white
    space where there is some."""
    for line in text.split("\n"):
        start = 0
        while len(line) - start > _PARAGRAPH_CHARACTERS:
            counts["broken_lines"] += not start
            end = start + _PARAGRAPH_CHARACTERS
            end = line.rfind(" ", start, end) + 1 or end
            yield line[start:end].strip()
            start = end
        yield line[start:].strip()


def break_sentences(paragraph):
    """Breaks running text into sentences with nupunkt, and at full stops of scripts that it has no
    rules for.

    >>> break_sentences("See e.g. Dr. Smith. It is late!")
    ['See e.g. Dr. Smith.', 'It is late!']
    >>> break_sentences("这是一支笔。那是一本书。")
    ['这是一支笔。', '那是一本书。']
    """
    sentences = (
        part
        for sentence in nupunkt.sent_tokenize(paragraph)
        for part in _OTHER_STOPS.split(sentence)
    )
    return [sentence.strip() for sentence in sentences if sentence.strip()]
