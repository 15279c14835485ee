"""Where text comes from: files, directories, patterns and standard input, plain or compressed,
whole or in pieces."""

import bz2
import contextlib
import dataclasses
import errno
import functools
import glob
import gzip
import importlib
import io
import lzma
import os
import pathlib
import re
import shutil
import sys
import zlib

from tfrecords.errors import InputError

FORMATS = ("sentences", "text", "jsonl", "parquet")
STANDARD_INPUT = pathlib.Path("-")
PIECE_BYTES = 1 << 24
LINE_BYTES = 1 << 20
"""A longer line is read in parts, cut at white space where there is some."""

_MAGIC = {
    "gzip": re.compile(rb"\x1f\x8b"),
    "bzip2": re.compile(rb"BZh[1-9][1\x17]"),  # a name may begin with the letters
    "xz": re.compile(rb"\xfd7zXZ\x00"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd"),
}
_UNREADABLE = {
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
}
_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)
# The white lines that part documents; the first line of a document follows so many or more.
_WHITE_LINES = {"sentences": 1, "text": 2, "jsonl": 0}


@dataclasses.dataclass(frozen=True)
class Piece:
    """A run of whole documents in a file: what one process works through at a time.

    Args:
        path: The file.
        start: The offset of its first byte; of a Parquet file, the first row group.
        end: The offset after its last byte, or the row group after its last; None for the end of
            the file.
        size: About how many bytes it stands for, where start and end do not tell.
    """

    path: str
    start: int = 0
    end: int | None = None
    size: int | None = dataclasses.field(default=None, compare=False)

    def __str__(self):
        if not self.start and self.end is None:
            return self.path
        return f"{self.path} from {self.start:,} to {'its end' if self.end is None else f'{self.end:,}'}"

    @property
    def bytes(self):
        """About how many bytes of the file it stands for."""
        if self.size is not None:
            return self.size
        size = pathlib.Path(self.path).stat().st_size
        return size if self.end is None else min(size, self.end - self.start)


def input_files(inputs):
    """Expands files, directories and patterns to a list of files.

    A directory stands for all files below it, sorted by path, but for those whose names begin with
    a dot; a pattern (`*`, `?`, `[]`, and `**` for any directories) stands for all files that it
    matches or that are below what it matches, sorted by path. "-", standard input, stays what it
    is; see `spool`.

    Args:
        inputs: Paths, or one.

    Raises:
        InputError: Nothing is there, it is not a regular file, it cannot be read, or a file is
            there twice.
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


def _files_of(path):
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
        # A directory may match as well as what is in it.
        return sorted({file for match in matches for file in _files_of(pathlib.Path(match))})
    raise InputError(f"Expected a text file or a directory at {path}. Received: no such file.")


def _files_below(directory):
    def refuse(error):
        raise InputError(
            f"Expected a directory that can be read. Received: {error.filename} ({error.strerror})."
        ) from None

    files = []
    for parent, directories, names in os.walk(directory, onerror=refuse):
        directories[:] = [name for name in directories if not name.startswith(".")]
        paths = [pathlib.Path(parent, name) for name in names if not name.startswith(".")]
        links = [
            pathlib.Path(parent, name)
            for name in directories
            if pathlib.Path(parent, name).is_symlink()
        ]
        for path in paths + links:
            if not path.is_file():
                raise InputError(
                    f"Expected text files in {directory}. Received: {path}, which is none; name "
                    "what it stands for."
                )
        files += paths
    if not files:
        raise InputError(f"Expected text files. Received: {directory}, a directory without files.")
    return sorted(files)


def spool(files, path):
    """Returns `files` with "-" replaced by `path`, a file that standard input is copied to: it has
    to be read twice."""
    if STANDARD_INPUT not in files:
        return files
    with open(path, "wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
    return [pathlib.Path(path) if one == STANDARD_INPUT else one for one in files]


@contextlib.contextmanager
def opened(path):
    """Opens a file of text for reading bytes, decompressed if its first bytes are those of gzip,
    bzip2, xz or zstd.

    Yields:
        The file to read from, and the one on the disk, which tells how far the reading is.

    Raises:
        InputError: It cannot be read, or what is read inside the block turns out damaged or cut.
    """
    kind = None
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open(path, "rb"))
            kind = compression(file)
            yield (file if kind is None else stack.enter_context(_decompressed(file, kind))), file
    except OSError as error:
        if error.errno in _UNREADABLE:
            raise InputError(
                f"Expected a readable text file. Received: {path} ({error.strerror})."
            ) from None
        if kind and error.errno is None:
            raise _damaged(path, kind, error) from None
        error.filename = error.filename or str(
            path
        )  # of a disk or a network: nothing that another text would mend
        raise
    except Exception as error:
        # The errors of zstd are of a module that is loaded only when it is needed.
        if kind and (isinstance(error, _DAMAGE) or type(error).__name__ == "ZstdError"):
            raise _damaged(path, kind, error) from None
        raise


def _damaged(path, kind, error):
    return InputError(
        f"{path}: expected a whole {kind} file. Received: one that is cut or damaged ({error}); "
        "fetch or compress it again."
    )


def compression(file):
    """Tells by its first bytes what an open file is compressed with: gzip, bzip2, xz, zstd or
    None."""
    start = file.peek(6)
    return next((kind for kind, magic in _MAGIC.items() if magic.match(start)), None)


def _decompressed(file, kind):
    if kind == "gzip":
        return gzip.open(file)
    if kind == "bzip2":
        return io.BufferedReader(_Streams(file, bz2.BZ2Decompressor), 1 << 16)
    if kind == "xz":
        return io.BufferedReader(_Streams(file, lzma.LZMADecompressor), 1 << 16)
    module = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    return importlib.import_module(module).open(file)


class _Streams(io.RawIOBase):
    """Compressed streams, one after the other, as one file; bz2.open and lzma.open take a damaged
    one for the end."""

    def __init__(self, file, decompressor):
        self._file = file
        self._new = decompressor
        self._decompressor = decompressor()

    def readable(self):
        return True

    def readinto(self, buffer):
        data = b""
        while not data:
            more = b""
            if self._decompressor.eof:
                more = self._decompressor.unused_data.lstrip(b"\0")  # padding
                while not more:
                    if not (read := self._file.read(1 << 16)):
                        return 0
                    more = read.lstrip(b"\0")
                self._decompressor = self._new()
            elif self._decompressor.needs_input and not (more := self._file.read(1 << 16)):
                raise EOFError("it ends too early")
            data = self._decompressor.decompress(more, len(buffer))
        buffer[: len(data)] = data
        return len(data)


def pieces(files, format, piece_bytes=PIECE_BYTES):
    """Cuts files into pieces of about `piece_bytes`, each of whole documents; a compressed file is
    one piece.

    However the documents are cut into pieces, the pieces one after the other are the documents in
    their order."""
    return [piece for path in files for piece in _pieces_of(str(path), format, piece_bytes)]


@dataclasses.dataclass(frozen=True)
class Batch:
    """Pieces in a row, the task of one process: a corpus may be a million small files."""

    pieces: tuple[Piece, ...]

    def __str__(self):
        return " to ".join(map(str, dict.fromkeys([self.pieces[0], self.pieces[-1]])))

    @functools.cached_property
    def bytes(self):
        """About how many bytes of files it stands for."""
        return sum(piece.bytes for piece in self.pieces)


def batches(the_pieces, batch_bytes=PIECE_BYTES):
    """Groups pieces to Batches of about `batch_bytes`."""
    batch, size = [], 0
    for piece in the_pieces:
        num_bytes = piece.bytes
        if batch and size + num_bytes > batch_bytes:
            yield Batch(tuple(batch))
            batch, size = [], 0
        batch.append(piece)
        size += num_bytes
    if batch:
        yield Batch(tuple(batch))


def _pieces_of(path, format, piece_bytes):
    if format == "parquet":
        with parquet_file(path) as file:
            sizes = [
                file.metadata.row_group(group).total_byte_size
                for group in range(file.num_row_groups)
            ]
            return [Piece(path, group, group + 1, size) for group, size in enumerate(sizes)]
    size = pathlib.Path(path).stat().st_size
    with open(path, "rb") as file:
        if size <= piece_bytes or compression(file):
            return [Piece(path, size=size)]
        starts, target = [0], piece_bytes
        while target < size:
            start = _document_start(file, target, _WHITE_LINES[format])
            if start is None:
                break
            starts.append(start)
            target = max(target, start) + piece_bytes
    return [Piece(path, start, end) for start, end in zip(starts, [*starts[1:], size], strict=True)]


def _document_start(file, offset, white_lines):
    """The offset of the first line after `offset` that has so many white lines before it, or None;
    found in one reading."""
    file.seek(offset)
    count, begins = (
        0,
        False,
    )  # whether a line begins here: `offset` may be inside one, and a long line comes in parts
    while line := file.readline(LINE_BYTES):
        if begins:
            if line.strip() and count >= white_lines:
                return file.tell() - len(line)
            count = count + 1 if line.endswith(b"\n") and not line.strip() else 0
        begins = line.endswith(b"\n")
    return None


def line_blocks(file, piece):
    """Yields the bytes of a piece as (offset, bytes, part): whole lines, many at a time, or a part
    of a long line.

    A line of more than LINE_BYTES comes in parts, numbered from 1, none of which is white unless
    the whole line is; whole lines have the part 0. Where a line is cut depends on nothing but the
    line."""
    if piece.start:
        file.seek(piece.start)
    offset, rest, part = piece.start, b"", 0
    while True:
        want = LINE_BYTES if piece.end is None else min(LINE_BYTES, piece.end - offset)
        read = file.read(want - len(rest))
        block = rest + read
        if not block:
            return
        line_end = block.find(b"\n") if part else block.rfind(b"\n")
        if line_end >= 0 or not read:
            cut = line_end + 1 or len(block)
            ends = True
        elif len(block) == LINE_BYTES:
            cut, part, ends = _cut(block), part or 1, False
        else:
            rest = block
            continue
        block, rest = block[:cut], block[cut:]
        if not part:
            yield offset, block, 0
        elif block.decode(errors="replace").strip() or (ends and part == 1):
            yield offset, block, part
            part += 1
        if ends:
            part = 0
        offset += cut


def _cut(line):
    """Where to cut the first LINE_BYTES of a long line: after white space, or else where the last
    character begins."""
    cut = max(line.rfind(b" "), line.rfind(b"\t")) + 1
    if cut:
        return cut
    cut = len(line) - 1
    while cut > len(line) - 4 and line[cut] & 0xC0 == 0x80:
        cut -= 1
    return cut


@contextlib.contextmanager
def parquet_file(path):
    """Opens a Parquet file (pyarrow.parquet.ParquetFile).

    Raises:
        InputError: pyarrow is not installed, or it is no Parquet file with a column "text".
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
    except MemoryError:  # pyarrow's is an ArrowException too
        raise
    except (pyarrow.ArrowException, OSError) as error:
        if (
            isinstance(error, OSError)
            and error.errno is not None
            and error.errno not in _UNREADABLE
        ):
            raise
        raise InputError(
            f"{path}: expected a Parquet file. Received: {str(error).splitlines()[0]}."
        ) from None
