"""Where text comes from: files, directories, patterns and standard input; and the spans that they
are read in.

A span is a run of whole documents in one file: a whole small file, or about 16 MiB of a large one.
Spans are what the work is divided by, so that one large file keeps many processes busy."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import glob
import io
import os
import pathlib
import shutil
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from tfrecords.decompression import UNREADABLE, compression
from tfrecords.errors import InputError

if TYPE_CHECKING:
    import pyarrow.parquet

TEXT_FORMATS = ("sentences", "text", "jsonl", "parquet")
ERRORS = ("strict", "replace")
"""What invalid UTF-8 does: it stops the reading, or is replaced and counted."""
STANDARD_INPUT = pathlib.Path("-")
SPAN_BYTES = 1 << 24
LINE_BYTES = 1 << 20
"""A longer line is read in parts, cut at white space where there is some."""

# The number of white lines that separate documents: a document begins after that many or more.
_WHITE_LINES = {"sentences": 1, "text": 2, "jsonl": 0}


@dataclasses.dataclass(frozen=True)
class Span:
    """A run of whole documents in a text file.

    Args:
        path: The file.
        start: The offset of its first byte; in a Parquet file, the first row group.
        end: The offset after its last byte, or the row group after its last; None for the end of
            the file.
        size: About how many bytes it stands for, where start and end do not tell.
    """

    path: str
    start: int = 0
    end: int | None = None
    size: int | None = dataclasses.field(default=None, compare=False)

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


def input_files(inputs: str | os.PathLike | Iterable[str | os.PathLike]) -> list[pathlib.Path]:
    """Expands files, directories and patterns to a list of files.

    A directory stands for all files below it, sorted by path, except those whose names begin with
    a dot. A pattern (`*`, `?`, `[]`, and `**` for any number of directories) stands for all files
    that it matches or that are below a directory that it matches, sorted by path. "-", standard
    input, is returned as it is; see `spool`.

    Args:
        inputs: One path, or several.

    Raises:
        InputError: An input does not exist, is no regular file, cannot be read, or is named twice.
    """
    if isinstance(inputs, str | os.PathLike):
        inputs = [inputs]
    try:
        files = [file for path in inputs for file in _files_of(pathlib.Path(path))]
    except OSError as error:
        raise InputError(
            f"Expected readable text files. Received: {error.filename} ({error.strerror})."
        ) from None
    if not files:
        raise InputError("Expected at least one text file. Received: none.")
    # Twice the same file, also by a link, would be the same documents in training and validation.
    seen = {}
    for file in files:
        other = seen.setdefault(file.resolve(), file)
        if other is not file:
            raise InputError(
                f"Expected each text file once. Received: {file}, which is {other}; name it once."
            )
        if file != STANDARD_INPUT and not os.access(file, os.R_OK):
            raise InputError(
                f"Expected a readable text file. Received: {file} (Permission denied)."
            )
    return files


def _files_of(path: pathlib.Path) -> list[pathlib.Path]:
    if path == STANDARD_INPUT:
        return [path]
    if path.is_dir():
        return _files_below(path)
    if path.is_file():
        return [path]
    if path.exists():
        raise InputError(
            f"Expected a text file or a directory. Received: {path}, which is neither."
        )
    if path.is_symlink():
        raise InputError(
            f"Expected a text file or a directory. Received: {path}, a symbolic link that leads "
            "nowhere."
        )
    if glob.has_magic(str(path)):
        matches = glob.glob(str(path), recursive=True)
        if not matches:
            raise InputError(
                f"Expected text files. Received: {path}, a pattern that matches nothing."
            )
        # A set, since a directory may match as well as what is in it.
        return sorted({file for match in matches for file in _files_of(pathlib.Path(match))})
    raise InputError(f"Expected a text file or a directory at {path}. Received: no such file.")


def _files_below(directory: pathlib.Path) -> list[pathlib.Path]:
    def refuse(error):
        raise InputError(
            f"Expected a directory that can be read. Received: {error.filename} ({error.strerror})."
        ) from None

    files = []
    for parent, directories, names in os.walk(directory, onerror=refuse):
        directories[:] = [name for name in directories if not name.startswith(".")]
        paths = [pathlib.Path(parent, name) for name in names if not name.startswith(".")]
        # os.walk does not follow links to directories, and says nothing about them.
        links = [
            pathlib.Path(parent, name)
            for name in directories
            if pathlib.Path(parent, name).is_symlink()
        ]
        for path in paths + links:
            if not path.is_file():
                raise InputError(
                    f"Expected text files in {directory}. Received: {path}, which is none; name "
                    "what it points to."
                )
        files += paths
    if not files:
        raise InputError(f"Expected text files. Received: {directory}, a directory without files.")
    return sorted(files)


def spool(files: list[pathlib.Path], path: str | os.PathLike) -> list[pathlib.Path]:
    """Returns `files` with "-" replaced by `path`, after copying standard input there: it is read
    twice, once to identify it and once for its text."""
    if STANDARD_INPUT not in files:
        return files
    with open(path, "wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
    return [pathlib.Path(path) if one == STANDARD_INPUT else one for one in files]


def spans_of(
    files: Iterable[str | os.PathLike], format: str, span_bytes: int = SPAN_BYTES
) -> list[Span]:
    """Cuts files into spans of about `span_bytes`, each of whole documents; a compressed file is
    one span.

    However the files are cut, the spans one after the other hold the same documents in the same
    order."""
    return [span for path in files for span in _spans_of_file(str(path), format, span_bytes)]


@dataclasses.dataclass(frozen=True)
class SpanGroup:
    """Spans in a row, the task of one process: a corpus may be a million small files."""

    spans: tuple[Span, ...]

    def __str__(self) -> str:
        return " to ".join(map(str, dict.fromkeys([self.spans[0], self.spans[-1]])))

    @functools.cached_property
    def bytes(self) -> int:
        """About how many bytes of files it stands for."""
        return sum(span.bytes for span in self.spans)


def span_groups(spans: Iterable[Span], group_bytes: int = SPAN_BYTES) -> Iterator[SpanGroup]:
    """Groups spans to SpanGroups of about `group_bytes`."""
    group, size = [], 0
    for span in spans:
        num_bytes = span.bytes
        if group and size + num_bytes > group_bytes:
            yield SpanGroup(tuple(group))
            group, size = [], 0
        group.append(span)
        size += num_bytes
    if group:
        yield SpanGroup(tuple(group))


def _spans_of_file(path: str, format: str, span_bytes: int) -> list[Span]:
    if format == "parquet":
        with parquet_file(path) as file:
            sizes = [
                file.metadata.row_group(group).total_byte_size
                for group in range(file.num_row_groups)
            ]
            return [Span(path, group, group + 1, size) for group, size in enumerate(sizes)]
    size = pathlib.Path(path).stat().st_size
    with open(path, "rb") as file:
        if size <= span_bytes or compression(file):
            return [Span(path, size=size)]
        starts, target = [0], span_bytes
        while target < size:
            start = _document_start(file, target, _WHITE_LINES[format])
            if start is None:
                break
            starts.append(start)
            # From where the search ended, or one document of many GB would be searched again for
            # every span that it could have been.
            target = max(target, start) + span_bytes
    return [Span(path, start, end) for start, end in zip(starts, [*starts[1:], size], strict=True)]


def _document_start(file: io.BufferedIOBase, offset: int, white_lines: int) -> int | None:
    """The offset of the first line after `offset` that has at least `white_lines` white lines
    before it, or None; found in one reading.

    Only ASCII white space counts here. A line that is white for the parser alone makes fewer cuts,
    never one inside a document."""
    file.seek(offset)
    # Whether a line begins here: `offset` may be inside one, and a long line comes in parts.
    count, begins = 0, False
    while line := file.readline(LINE_BYTES):
        if begins:
            if line.strip() and count >= white_lines:
                return file.tell() - len(line)
            count = count + 1 if line.endswith(b"\n") and not line.strip() else 0
        begins = line.endswith(b"\n")
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


@contextlib.contextmanager
def parquet_file(path: str | os.PathLike) -> Iterator[pyarrow.parquet.ParquetFile]:
    """Opens a Parquet file (pyarrow.parquet.ParquetFile).

    Raises:
        InputError: pyarrow is not installed, or the file is no Parquet file with a column "text".
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            "Expected the package pyarrow, which reads Parquet. Received: none; pip install "
            "'.[parquet]' in the clone."
        ) from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if "text" not in file.schema_arrow.names:
                names = ", ".join(file.schema_arrow.names)
                raise InputError(
                    f"{path}: expected a column 'text'. Received: columns {names}; rename the one "
                    "with the text."
                )
            yield file
    # What the disk says stays as it is; what pyarrow says of the content is an InputError.
    except MemoryError:  # pyarrow's own is an ArrowException too
        raise
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None and error.errno not in UNREADABLE:
            raise
        raise InputError(
            f"{path}: expected a Parquet file. Received: {str(error).splitlines()[0]}."
        ) from None
