"""Bytes to lines of text: UTF-8, byte order marks, and what invalid bytes do."""

from __future__ import annotations

import codecs
import collections
import dataclasses
import io
import re
from collections.abc import Callable, Iterator

from tfrecords.errors import InputError
from tfrecords.text import spans
from tfrecords.text.spans import Span, line_blocks

ERRORS = ("strict", "replace")
"""What invalid UTF-8 does: it stops the reading, or is replaced and counted."""
TEXT_FIELD = "text"
BYTE_ORDER_MARK = "\ufeff"
RECORD_BYTES = 1 << 28
"""The longest line of JSON, CSV or TSV, which has to be in memory as a whole."""

PASSED_OVER = {
    "empty_texts": (
        "row or document without text was passed over",
        "rows or documents without text were passed over",
    ),
    "left_out_members": (
        "file in an archive was left out as no corpus",
        "files in archives were left out as no corpus",
    ),
    "replaced_characters": (
        "character stands for invalid UTF-8, which tokenization drops",
        "characters stand for invalid UTF-8, which tokenization drops",
    ),
}
"""What reading passes over and counts, in words for one and for several."""
INVALID = (
    "of the text's characters stand for invalid UTF-8, which is lost; --errors replace is for a "
    "few damaged bytes: convert the text from the encoding that it is in, such as iconv -f "
    "WINDOWS-1252 -t UTF-8"
)
"""What is said of a share that is large."""

_REPLACEMENT = "\ufffd"
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclasses.dataclass(frozen=True)
class Reading:
    """How text is read, and what was counted.

    Args:
        errors: "strict" or "replace".
        field: The name of the field or column with the text.
        counts: What is counted; see `formats.span_documents`.
        keeps: Whether a paragraph is to be kept, asked once for each, in order; None: all are.
    """

    errors: str = ERRORS[0]
    field: str = TEXT_FIELD
    counts: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    keeps: Callable[[str], bool] | None = None

    def is_kept(self, paragraph: str) -> bool:
        """Whether a paragraph that is not empty is to be kept; else it is counted."""
        if self.keeps is None or self.keeps(paragraph):
            return True
        self.counts["duplicate_paragraphs"] += 1
        self.counts["duplicate_characters"] += len(paragraph)
        return False


def text_lines(
    file: io.BufferedIOBase, span: Span, reading: Reading
) -> Iterator[tuple[list[str], int]]:
    """Yields the lines of a span without white space around them, as (lines, part): many lines, or
    one part of a long line; see `line_blocks`."""
    for offset, block, part in line_blocks(file, span):
        reading.counts["broken_lines"] += part == 2  # once per line
        text = decode(block, span.path, offset, reading)
        # A line feed alone ends a line, and the last line of a file may do without.
        lines = [text] if part else text.removesuffix("\n").split("\n")
        yield list(map(str.strip, lines)), part


def whole_lines(
    file: io.BufferedIOBase, span: Span, reading: Reading, refused: bytes | None = None
) -> Iterator[tuple[int, str]]:
    """Yields (offset, line) for the lines of a span, with their line feeds.

    Args:
        file: The file.
        span: The span.
        reading: How to read.
        refused: A byte with which no line may begin: told before a line is read to its end, which
            may be that of a large file.
    """
    if span.start:
        file.seek(span.start)
    offset = span.start
    while (span.end is None or offset < span.end) and (line := file.readline(spans.LINE_BYTES)):
        if refused and line.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(refused):
            raise InputError(
                f"{span.path}, at byte {offset:,}: expected a line with a JSON object. Received: a "
                "JSON array; write its elements one per line: jq -c '.[]'."
            )
        if len(line) == spans.LINE_BYTES and not line.endswith(b"\n"):
            line += file.readline(RECORD_BYTES)
            if len(line) > RECORD_BYTES and not line.endswith(b"\n"):
                raise InputError(
                    f"{span.path}, at byte {offset:,}: expected lines of at most "
                    f"{RECORD_BYTES >> 20} MiB. Received: a longer one; part its text."
                )
        yield offset, decode(line, span.path, offset, reading)
        offset += len(line)


def decode(block: bytes, name: str, offset: int, reading: Reading) -> str:
    """Decodes whole lines, or a part of one, without byte order marks at the beginning of lines."""
    try:
        text = block.decode()
    except UnicodeDecodeError as error:
        if reading.errors == "strict":
            raise invalid_byte(name, offset + error.start) from None
        text = block.decode(errors="replace")
        reading.counts["replaced_characters"] += text.count(_REPLACEMENT) - block.count(
            _REPLACEMENT.encode()
        )
    if BYTE_ORDER_MARK in text:
        text = "\n".join(map(_without_mark, text.split("\n")))
    return text


def invalid_byte(name: str, offset: int) -> InputError:
    """The error for a byte that is no UTF-8."""
    return InputError(
        f"{name}: expected UTF-8. Received: an invalid byte at offset {offset:,}; convert the file "
        "or pass --errors replace."
    )


class Utf8:
    """Checks that bytes are UTF-8, block by block; `name` is what an error calls them."""

    def __init__(self, name: str):
        self._name = name
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._offset = 0

    def check(self, block: bytes, is_last: bool = False) -> None:
        """Checks the next block; unless it is the last one, a character may go on after it.

        Raises:
            InputError: A byte is invalid.
        """
        # The decoder keeps the beginning of a character, and counts from there.
        kept = len(self._decoder.getstate()[0])
        try:
            self._decoder.decode(block, is_last)
        except UnicodeDecodeError as error:
            raise invalid_byte(self._name, self._offset - kept + error.start) from None
        self._offset += len(block)


def _without_mark(line: str) -> str:
    # The mark alone stays, or the line would look like an empty one and end a document.
    rest = line.removeprefix(BYTE_ORDER_MARK)
    return rest if rest.strip() else line


def without_surrogates(text: str, where: str, reading: Reading) -> str:
    """The text with U+FFFD in the place of halves of surrogate pairs, which JSON can write.

    Raises:
        InputError: There are some, and errors are strict.
    """
    if not _SURROGATES.search(text):
        return text
    if reading.errors == "strict":
        raise InputError(
            f"{where}: expected Unicode. Received: half a surrogate pair; correct it or "
            "pass --errors replace."
        )
    text, count = _SURROGATES.subn(_REPLACEMENT, text)
    reading.counts["replaced_characters"] += count
    return text
