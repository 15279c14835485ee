"""The files inside of tar and zip archives, one after the other, in bounded memory."""

from __future__ import annotations

import contextlib
import io
import lzma
import pathlib
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from tarfile import EOFHeaderError, HeaderError, ReadError  # pyright: ignore
from typing import Any, cast

from tfrecords.errors import InputError, one_line

ARCHIVE_BYTES = tarfile.BLOCKSIZE
"""As many of a file's first bytes tell whether it is an archive."""

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_TAR_CHECKSUM = re.compile(rb"[0-7 \0]{8}")
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError)


def archive_kind(start: bytes) -> str | None:
    """The kind of archive that a file with these first bytes is: "tar", "zip" or None."""
    if start.startswith(_ZIP):
        return "zip"
    header = start[: tarfile.BLOCKSIZE]
    # Old archives have no magic bytes, but every header has a sum of its bytes.
    if len(header) == tarfile.BLOCKSIZE and _TAR_CHECKSUM.fullmatch(header[148:156]):
        with contextlib.suppress(tarfile.HeaderError):
            tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
            return "tar"
    return None


def members(file: io.BufferedIOBase, kind: str) -> Iterator[tuple[str, io.BufferedIOBase]]:
    """Yields the names of the regular files of an archive, and each opened for reading until the
    next one is asked for.

    Names that begin with a dot and the folder __MACOSX are passed over, as they are not part of
    what was packed; so are links, whose content is somewhere else in the archive.

    Args:
        file: The archive, at its beginning; to be read within `archive_errors`. A tar archive need
            not be able to seek.
        kind: What `archive_kind` says of it.
    """
    if kind == "tar":
        yield from _tar_members(file)
        return
    with zipfile.ZipFile(cast("io.BytesIO", file)) as archive:
        for info in archive.infolist():
            if not info.is_dir() and not _is_hidden(info.filename):
                with archive.open(info) as member:
                    # Of a zip archive's own file `peek` gives no more than 512 bytes.
                    yield info.filename, io.BufferedReader(cast("io.RawIOBase", member))


class _Member(tarfile.TarInfo):
    """A header that raises an error if it is damaged or missing: `tarfile` takes it for the end of
    the archive."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Any:
        try:
            return super().fromtarfile(tarfile)
        except EOFHeaderError:
            raise
        except HeaderError as error:
            raise ReadError(str(error)) from None


def _tar_members(file: io.BufferedIOBase) -> Iterator[tuple[str, io.BufferedIOBase]]:
    with tarfile.open(fileobj=file, mode="r|", tarinfo=_Member) as archive:
        while (member := archive.next()) is not None:
            # Without this, an archive of a million files would fill the memory.
            cast("Any", archive).members.clear()
            if member.isreg() and not _is_hidden(member.name):
                content = archive.extractfile(member)
                yield member.name, cast("io.BufferedIOBase", content)
        # Zeros fill the last block. Archives one after the other lose all but the first otherwise.
        stream = cast("io.BufferedIOBase", archive.fileobj)
        while block := stream.read(1 << 16):
            if block.strip(b"\0"):
                raise tarfile.ReadError("something follows its end")


def _is_hidden(name: str) -> bool:
    parts = pathlib.PurePosixPath(name).parts
    return any(part == "__MACOSX" or (part[0] == "." and part.strip(".")) for part in parts)


@contextlib.contextmanager
def archive_errors(path: str, kind: str) -> Iterator[None]:
    """Raises an InputError for what is wrong with the archive at `path` that the block reads."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        if kind != "zip" or isinstance(error, RecursionError):
            raise
        # Of zipfile: a password, or a way of compressing that it does not know.
        raise InputError(
            f"{path}: expected a zip archive that can be read without more. Received: "
            f"{one_line(error)}; unpack it."
        ) from None
    except _DAMAGE as error:
        raise InputError(
            f"{path}: expected a whole {kind} archive. Received: one that is cut or damaged "
            f"({one_line(error)}); fetch or pack it again."
        ) from None
