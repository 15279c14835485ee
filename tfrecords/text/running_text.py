"""Running text to documents: paragraphs are broken into sentences as they grow, and long documents
are cut into parts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator

from tfrecords.text.decoding import BYTE_ORDER_MARK, Reading, without_surrogates


class Document(list[str]):
    """A non-empty list of non-empty sentences.

    Args:
        first: The first part of the document, of which this is another one.
    """

    def __init__(self, first: Document | None = None):
        super().__init__()
        self._first = first

    @property
    def first(self) -> Document:
        """The first part of a document that was too long and is cut; else this itself."""
        # Kept as None: a reference to itself would leave the text to the garbage collector.
        return self if self._first is None else self._first


_DOCUMENT_CHARACTERS = 1 << 20
_PARAGRAPH_CHARACTERS = 1 << 20


@functools.cache
def _breaker() -> Callable[[str], list[str]]:
    from tfrecords.sentences import break_sentences  # its libraries take a third of a second

    return break_sentences


def break_sentences(paragraph: str, reading: Reading, begun: str = "") -> list[str]:
    """The sentences of a paragraph, see sentences.py; none of one that is not to be kept. `begun`
    is a sentence before it that may go on in it, and always stays."""
    # Asked for every paragraph with text, and for none without: the answers are counted off.
    if not paragraph or not reading.is_kept(paragraph):
        return [begun] if begun else []
    return _breaker()(f"{begun} {paragraph}" if begun else paragraph)


def sentence_documents(blocks: Iterable[list[str]], reading: Reading) -> Iterator[Document]:
    """Groups sentences, which come in lists, to documents, which end at an empty one."""
    document, size = Document(), 0
    for block in blocks:
        for sentences, is_end in _runs(block):
            if BYTE_ORDER_MARK in sentences:
                sentences = [sentence for sentence in sentences if sentence != BYTE_ORDER_MARK]
            # Many at a time: one by one they would take a sixth of the time of tokenization.
            growth = sum(map(len, sentences))
            if size + growth < _DOCUMENT_CHARACTERS:
                document.extend(sentences)
                size += growth
            else:
                for sentence in sentences:
                    if size >= _DOCUMENT_CHARACTERS:
                        yield document
                        document, size = Document(document.first), 0
                        reading.counts["cut_documents"] += 1
                    document.append(sentence)
                    size += len(sentence)
            if is_end and document:
                yield document
                document, size = Document(), 0
    if document:
        yield document


def _runs(block: list[str]) -> Iterator[tuple[list[str], bool]]:
    """The sentences between empty ones, and whether one follows."""
    start = 0
    while True:
        try:
            end = block.index("", start)
        except ValueError:
            yield block[start:], False
            return
        yield block[start:end], True
        start = end + 1


def paragraph_documents(lines: Iterable[str], reading: Reading) -> Iterator[Document]:
    """The documents of lines that end paragraphs at an empty line, and documents at two or more. A
    paragraph may be a whole book, so it is broken into sentences as it grows."""
    paragraph, begun, empty_lines = [], "", 0
    document, size, growth = Document(), 0, 0

    def end_paragraph() -> bool:
        nonlocal paragraph, begun, growth, size
        dropped = reading.counts["duplicate_paragraphs"]
        sentences = break_sentences(" ".join(paragraph), reading, begun)
        document.extend(sentences)
        if reading.counts["duplicate_paragraphs"] > dropped:
            size -= growth  # what is dropped makes no document long
        paragraph, begun, growth = [], "", 0
        return bool(sentences)

    for line in lines:
        if not line:
            end_paragraph()
            empty_lines += 1
            continue

        # Empty lines end a document only here, once a line follows them: how many there are does
        # not matter, and those at the end of a file begin no other document.
        if document and (empty_lines >= 2 or size >= _DOCUMENT_CHARACTERS):
            is_cut = empty_lines < 2
            reading.counts["cut_documents"] += is_cut
            yield document
            document, size = Document(document.first if is_cut else None), 0
        elif empty_lines >= 2:
            document = Document()  # nothing is left of a part of the one before
        empty_lines = 0
        if line == BYTE_ORDER_MARK:
            continue
        paragraph.append(line)
        size += len(line)
        growth += len(line)

        # The last sentence may go on in the next line. One as long as the limit may not, or it
        # would be broken again and again, in quadratic time.
        is_large = growth >= _PARAGRAPH_CHARACTERS
        if is_large and end_paragraph() and len(document[-1]) < _PARAGRAPH_CHARACTERS:
            begun = document.pop()
    end_paragraph()
    if document:
        yield document


def text_documents(text: str, where: str, reading: Reading) -> Iterator[Document]:
    """Yields the document of a text in which every line is a paragraph: one document, unless the
    text is very long; none of a text of white space, which is counted."""
    if not text.strip().strip(BYTE_ORDER_MARK):
        reading.counts["empty_texts"] += 1
        return
    text = without_surrogates(text, where, reading)
    paragraphs = (
        break_sentences(paragraph, reading) for paragraph in _short_paragraphs(text, reading)
    )
    yield from sentence_documents(paragraphs, reading)


def _short_paragraphs(text: str, reading: Reading) -> Iterator[str]:
    """Yields the lines of a text; a line of more than _PARAGRAPH_CHARACTERS in parts, cut at spaces
    where there are some."""
    for line in text.split("\n"):
        start = 0
        while len(line) - start > _PARAGRAPH_CHARACTERS:
            reading.counts["broken_lines"] += not start
            end = start + _PARAGRAPH_CHARACTERS
            end = line.rfind(" ", start, end) + 1 or end
            yield line[start:end].strip()
            start = end
        yield line[start:].strip()
