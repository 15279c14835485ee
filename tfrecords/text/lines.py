"""The formats in which lines are sentences, paragraphs or documents."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator

from tfrecords.errors import InputError
from tfrecords.text.decoding import BYTE_ORDER_MARK, Reading, text_lines
from tfrecords.text.running_text import (
    Document,
    break_sentences,
    paragraph_documents,
    sentence_documents,
)
from tfrecords.text.spans import Beginning, Span

_WIKI_BEGINS = re.compile(rb"\s*<doc\s+id=")
# Tags may stand beside text, which may speak of tags. With a single quotation mark in its title, a
# tag has to be a line of its own.
_WIKI_TAG = re.compile(
    r'((?:^|(?<=</doc>)|(?<=</doc> ))<doc\s+id=(?:"[^"]*"|[^">])*>'
    r"|^<doc\s+id=.*>$|</doc>(?=\s*(?:$|<doc\s)))"
)


def _every_line(file: io.BufferedIOBase, span: Span, reading: Reading) -> Iterator[str]:
    return itertools.chain.from_iterable(lines for lines, _ in text_lines(file, span, reading))


def sentence_per_line(file: io.BufferedIOBase, span: Span, reading: Reading) -> Iterator[Document]:
    """Lines are sentences; an empty line ends a document. Of paragraphs nothing is known, so that a
    document is kept or not as one."""
    blocks = (lines for lines, _ in text_lines(file, span, reading))
    documents = sentence_documents(blocks, reading)
    if reading.keeps is None:
        return documents
    return (document for document in documents if reading.is_kept("\n".join(document)))


def paragraphs_of_lines(
    file: io.BufferedIOBase, span: Span, reading: Reading
) -> Iterator[Document]:
    """An empty line ends a paragraph, two end a document."""
    return paragraph_documents(_every_line(file, span, reading), reading)


def paragraph_per_line(file: io.BufferedIOBase, span: Span, reading: Reading) -> Iterator[Document]:
    """Lines are paragraphs; an empty line ends a document."""
    paragraphs = (
        break_sentences(line, reading) if line else [""]
        for line in _every_line(file, span, reading)
    )
    return sentence_documents(paragraphs, reading)


def document_per_line(file: io.BufferedIOBase, span: Span, reading: Reading) -> Iterator[Document]:
    """Lines are documents; empty lines are nothing."""

    def paragraphs():
        for lines, part in text_lines(file, span, reading):
            for line in lines:
                if part <= 1:  # the other parts of a long line go on with its document
                    yield [""]
                yield break_sentences(line, reading)

    return sentence_documents(paragraphs(), reading)


def begins_after(white_lines: int) -> Beginning:
    """Where documents begin that are set apart by this many white lines, for `spans_of_lines`."""
    return lambda line, white: white >= white_lines


def wiki_begins(line: bytes, white: int) -> bool:
    """Whether a document of wikiextractor begins at a line, for `spans_of_lines`."""
    return _WIKI_BEGINS.match(line) is not None


def wikiextractor(file: io.BufferedIOBase, span: Span, reading: Reading) -> Iterator[Document]:
    """Documents stand between `<doc id=...>` and `</doc>`, most often lines of their own; lines are
    paragraphs."""

    def paragraphs():
        inside, empty = False, True
        for line in _every_line(file, span, reading):
            # Text, a tag, text, a tag, ..., text.
            for place, part in enumerate(_WIKI_TAG.split(line)):
                text = part.strip()
                if place % 2:
                    reading.counts["empty_texts"] += inside and empty
                    inside, empty = part != "</doc>", True
                    yield [""]
                elif text and text != BYTE_ORDER_MARK:
                    if not inside:
                        raise InputError(
                            f"{span.path}: expected text between <doc id=...> and </doc>, as "
                            f"wikiextractor writes it. Received: {text[:60]!r} outside of them."
                        )
                    empty = False
                    yield break_sentences(text, reading)
        reading.counts["empty_texts"] += inside and empty

    return sentence_documents(paragraphs(), reading)
