"""The spans that text is read in: runs of whole documents in one file.

A span is a whole small file, or about 16 MiB of a large one. Spans are what the work is divided by,
so that one large file keeps many processes busy."""

from __future__ import annotations

import dataclasses
import functools
import io
import pathlib
from collections.abc import Callable, Iterable, Iterator

from tfrecords.decompression import compression
from tfrecords.text.archives import ARCHIVE_BYTES, archive_kind

SPAN_BYTES = 1 << 24
LINE_BYTES = 1 << 20
"""A longer line is read in parts, cut at white space where there is some."""

Beginning = Callable[[bytes, int], bool]
"""Whether a document begins at a line that is not white, given the line (of a long one the first
LINE_BYTES) and the number of white lines before it."""


@dataclasses.dataclass(frozen=True)
class Span:
    """A run of whole documents in a text file.

    Args:
        path: The file; for a file inside an archive, what errors call it.
        start: The offset of its first byte; in a Parquet file, the first row group.
        end: The offset after its last byte, or the row group after its last; None for the end of
            the file.
        size: About how many bytes it stands for, where start and end do not tell.
        weight: How many times as often as others its documents are passed over.
    """

    path: str
    start: int = 0
    end: int | None = None
    size: int | None = dataclasses.field(default=None, compare=False)
    weight: int = 1

    def __str__(self) -> str:
        if not self.start and self.end is None:
            return self.path
        end = "its end" if self.end is None else f"{self.end:,}"
        return f"{self.path} from {self.start:,} to {end}"

    @property
    def bytes(self) -> int:
        """About how many bytes of the file it stands for."""
        if self.size is not None:
            return self.size
        size = pathlib.Path(self.path).stat().st_size
        return size if self.end is None else min(size, self.end - self.start)


@dataclasses.dataclass(frozen=True)
class SpanGroup:
    """Spans in a row of one weight, the task of one process: a corpus may be a million small
    files."""

    spans: tuple[Span, ...]

    def __str__(self) -> str:
        return " to ".join(map(str, dict.fromkeys([self.spans[0], self.spans[-1]])))

    @property
    def weight(self) -> int:
        """The weight of its spans."""
        return self.spans[0].weight

    @functools.cached_property
    def bytes(self) -> int:
        """About how many bytes of files it stands for."""
        return sum(span.bytes for span in self.spans)


def span_groups(spans: Iterable[Span], group_bytes: int = SPAN_BYTES) -> Iterator[SpanGroup]:
    """Groups spans to SpanGroups of about `group_bytes`."""
    group, size = [], 0
    for span in spans:
        num_bytes = span.bytes
        if group and (size + num_bytes > group_bytes or span.weight != group[0].weight):
            yield SpanGroup(tuple(group))
            group, size = [], 0
        group.append(span)
        size += num_bytes
    if group:
        yield SpanGroup(tuple(group))


def whole_file(path: str, span_bytes: int) -> list[Span]:
    """One span: a file in which nothing tells, without reading it from its beginning, where a
    document begins."""
    return [Span(path, size=pathlib.Path(path).stat().st_size)]


def spans_of_lines(path: str, span_bytes: int, begins: Beginning) -> list[Span]:
    """Cuts a file of lines into spans of about `span_bytes`; a compressed file is one span, and so
    is an archive, in whose headers no document begins."""
    size = pathlib.Path(path).stat().st_size
    with open(path, "rb") as file:
        if size <= span_bytes or compression(file) or archive_kind(file.peek(ARCHIVE_BYTES)):
            return whole_file(path, span_bytes)
        starts, target = [0], span_bytes
        while target < size:
            start = _document_start(file, target, begins)
            if start is None:
                break
            starts.append(start)
            # From where the search ended, or one document of many GB would be searched again for
            # every span that it could have been.
            target = max(target, start) + span_bytes
    return [Span(path, start, end) for start, end in zip(starts, [*starts[1:], size], strict=True)]


def _document_start(file: io.BufferedIOBase, offset: int, begins: Beginning) -> int | None:
    """The offset of the first line after `offset` at which a document begins, or None; found in one
    reading.

    Only ASCII white space counts here. A line that is white for the parser alone makes fewer cuts,
    never one inside a document."""
    file.seek(offset)
    # Whether a line begins here: `offset` may be inside one, and a long line comes in parts.
    count, at_line = 0, False
    while line := file.readline(LINE_BYTES):
        if at_line:
            if line.strip() and begins(line, count):
                return file.tell() - len(line)
            count = count + 1 if line.endswith(b"\n") and not line.strip() else 0
        at_line = line.endswith(b"\n")
    return None


def line_blocks(file: io.BufferedIOBase, span: Span) -> Iterator[tuple[int, bytes, int]]:
    """Yields the bytes of a span as (offset, bytes, part): whole lines, many at a time, or a part
    of a long line.

    A line of more than LINE_BYTES comes in parts, numbered from 1, none of which is white unless
    the whole line is; whole lines have the part 0. Where a line is cut depends on nothing but the
    line, so that the documents do not depend on the spans."""
    if span.start:
        file.seek(span.start)
    offset, rest, part = span.start, b"", 0
    while True:
        # Reading never gets ahead of what is yielded by more than LINE_BYTES, which bounds memory.
        want = LINE_BYTES if span.end is None else min(LINE_BYTES, span.end - offset)
        read = file.read(want - len(rest))
        block = rest + read
        if not block:
            return

        # Whole lines end at the last line feed; inside a long line, its own end is the first one.
        line_end = block.find(b"\n") if part else block.rfind(b"\n")
        if line_end >= 0 or not read:
            cut = line_end + 1 or len(block)
            ends = True
        elif len(block) == LINE_BYTES:
            cut, part, ends = _cut(block), part or 1, False
        else:
            rest = block
            continue

        # A white part would look like an empty line, so it is left out of a line with text.
        block, rest = block[:cut], block[cut:]
        if not part:
            yield offset, block, 0
        elif block.decode(errors="replace").strip() or (ends and part == 1):
            yield offset, block, part
            part += 1
        if ends:
            part = 0
        offset += cut


def _cut(line: bytes) -> int:
    """Where to cut the first LINE_BYTES of a long line: after white space, or else where the last
    character begins."""
    cut = max(line.rfind(b" "), line.rfind(b"\t")) + 1
    if cut:
        return cut
    cut = len(line) - 1
    # A byte 10xxxxxx continues a character of UTF-8, of which there are at most three in a row.
    while cut > len(line) - 4 and line[cut] & 0xC0 == 0x80:
        cut -= 1
    return cut
