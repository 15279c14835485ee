"""What a file looks like, by its first bytes: binary files and other encodings."""

from __future__ import annotations

import codecs
import re
import unicodedata
from typing import NamedTuple

HEAD_BYTES = 1 << 16
"""As many of a file's first bytes, decompressed, are looked at."""

_CONTROLS = [bytes([code]) for code in range(32) if code not in b"\t\n\r"]
_WIDE = ("UTF-32LE", "UTF-32BE", "UTF-16LE", "UTF-16BE")
_WIDE_BYTES = 1 << 12


class Look(NamedTuple):
    """What a file looks like."""

    what: str
    mend: str
    """What to do about it."""
    format: str = ""
    """The format that reads it, if there is one."""


_UNPACK = "unpack it: "
_BINARY = (
    (rb"PAR1", Look("Parquet", "pass --format parquet", "parquet")),
    (rb"ARROW1\0|FEA1\0|\xff{4}.{3}\0", Look("Arrow or Feather", "write it as Parquet, which "
     "datasets and pyarrow can, and pass --format parquet")),
    (rb"ORC[\0-\x1f].*\0", Look("ORC", "write it as Parquet, which pyarrow can, and pass --format "
     "parquet")),
    (rb"Obj\x01", Look("Avro", "write it as JSON lines, which fastavro can, and pass --format "
     "jsonl")),
    (rb"SQLite format 3\0", Look("an SQLite database", "export the text: sqlite3 -csv -header")),
    (rb"%PDF-", Look("PDF", "extract the text, for example with pdftotext")),
    (rb"%!PS", Look("PostScript", "extract the text, for example with ps2ascii")),
    (rb"\{\\rtf", Look("RTF", "convert it: libreoffice --headless --convert-to txt:Text")),
    (rb"\xd0\xcf\x11\xe0", Look("an Office document", "convert it: libreoffice --headless "
     "--convert-to txt:Text")),
    (rb".{60}(BOOKMOBI|TEXtREAd)", Look("a book for a Kindle", "convert it with Calibre: "
     "ebook-convert")),
    (rb"AT&TFORM", Look("DjVu", "extract the text, for example with djvutxt")),
    (rb"ZIM\x04", Look("a ZIM archive", f"{_UNPACK}zimdump dump")),
    (rb"7z\xbc\xaf\x27\x1c", Look("a 7z archive", f"{_UNPACK}7z x")),
    (rb"Rar!\x1a\x07", Look("a RAR archive", f"{_UNPACK}unrar x")),
    (rb"!<arch>\n", Look("an archive by ar, such as a Debian package", f"{_UNPACK}ar x")),
    (rb"MSCF\0{4}", Look("a cabinet file", f"{_UNPACK}cabextract")),
    (rb"07070[17][\da-fA-F]{70}", Look("an archive by cpio", f"{_UNPACK}cpio -i")),
    (rb"(#!|MZ).*?PK\x03\x04", Look("a zip archive that unpacks itself", f"{_UNPACK}unzip")),
    (rb"\x1f\x8b\x08|BZh[1-9]1AY&SY|\xfd7zXZ\0|\x28\xb5\x2f\xfd", Look("a file that was compressed "
     "twice", "decompress it once, for example gzip -d")),
    (rb"\x04\x22\x4d\x18", Look("lz4", f"{_UNPACK}lz4 -d")),
    (rb"LZIP\x01", Look("lzip", f"{_UNPACK}lzip -d")),
    (rb"\x5d\0\0[\0-\xff]{2}", Look("an LZMA file of the old kind", f"{_UNPACK}unlzma")),
    (rb"\x1f[\x9d\xa0]", Look("a file by compress", f"{_UNPACK}uncompress")),
    (rb"\x89PNG|\xff\xd8\xff|GIF8[79]a.[\0-\x1f]|II\*\0|MM\0\*|RIFF.{4}WEBP|BM.{4}\0{4}|\0{2}.{2}ftyp",
     Look("a picture or a film", "leave it out")),
    (rb"ID3[\x02-\x04]|RIFF.{4}WAVE|OggS\0|fLaC\0", Look("sound", "leave it out")),
    (rb"\0+\Z", Look("nothing but NUL bytes, as in an empty tar archive", "leave it out")),
    (rb"\x89HDF|\x93NUMPY|\x80[\x02-\x05]\x95?|\x7fELF|MZ.{1,99}\0|\xca\xfe\xba\xbe",
     Look("a binary file", "leave it out")),
)  # fmt: skip
NULS = Look("text with NUL bytes", "remove them, tr -d '\\000'")
"""Text may have some of these bytes by accident, or at the end of a file after a crash."""
_UNKNOWN = Look("a binary file", "leave it out")
_MAGIC = [(re.compile(magic, re.DOTALL), look) for magic, look in _BINARY]
_OFFICE = Look("an Office document or a book", "convert it: libreoffice --headless --convert-to "
               "txt:Text, or pandoc -t plain")  # fmt: skip


def binary_look(head: bytes) -> Look | None:
    """What a file with these first HEAD_BYTES is if it is no text in UTF-8; None if it may be.

    A few invalid bytes do not count: reading tells where they are."""
    start = head.removeprefix(codecs.BOM_UTF8)
    for magic, look in _MAGIC:
        if magic.match(start):
            return look
    if encoding := _wide_encoding(head):
        return Look(encoding, f"convert it: iconv -f {encoding} -t UTF-8")
    if b"\0" not in head:
        return None
    # Numbers and what is compressed have all bytes; text has hardly a control character.
    controls = sum(map(head.count, _CONTROLS)) - head.count(b"\0")
    return NULS if controls <= 0.01 * len(head) and head.count(0) <= 0.3 * len(head) else _UNKNOWN


def _wide_encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32, with a mark or without."""
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "UTF-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    if b"\0" not in head:
        return None
    # Line feeds and spaces have NULs there. Bytes of Latin, Greek and Cyrillic text are valid UTF-8
    # there too, but many would be control characters.
    controls = sum(map(head.count, _CONTROLS))
    if _is_utf8(head) and controls < 0.1 * len(head):
        return None
    strange = {name: _strange(head[:_WIDE_BYTES], name) for name in _WIDE}
    best = min(strange, key=strange.__getitem__)
    return best if strange[best] <= 0.02 else None


def _strange(head: bytes, encoding: str) -> float:
    """The share of characters that no text has, if these bytes are in the encoding."""
    text = head[: len(head) // 4 * 4].decode(encoding, errors="replace")
    strange = sum(
        character == "\ufffd"
        or (unicodedata.category(character) in ("Cc", "Cn", "Co") and not character.isspace())
        for character in text
    )
    return strange / len(text) if text else 1.0


def _is_utf8(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4  # the last character may be cut
    return True


def other_encoding(head: bytes) -> Look | None:
    """Whether text is in an older encoding: most of what is not ASCII is invalid UTF-8."""
    if _is_utf8(head):
        return None
    text = head.decode(errors="replace")
    invalid = text.count("\ufffd") - head.count(b"\xef\xbf\xbd")
    others = len(text) - len(text.encode("ascii", "ignore")) - invalid
    if invalid < 10 or invalid < others:
        return None
    return Look(
        "text in another encoding, such as Latin-1",
        "convert it: iconv -f WINDOWS-1252 -t UTF-8, or whatever it is in",
    )


def office_look(names: list[str]) -> Look | None:
    """Whether the names in a zip archive are those of an office document or a book."""
    if {"[Content_Types].xml", "mimetype", "META-INF/container.xml"} & set(names[:20]):
        return _OFFICE
    return None
