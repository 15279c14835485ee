"""What a file looks like, by its first bytes and lines: binary files, other encodings, and text
that is data or markup and not prose."""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

HEAD_BYTES = 1 << 16
"""As many of a file's first bytes, decompressed, are looked at."""

_LINES = 300
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
    (rb"SQLite format 3\0", Look("an SQLite database", "export the text: sqlite3 -csv -header")),
    (rb"%PDF-", Look("PDF", "extract the text, for example with pdftotext")),
    (rb"%!PS", Look("PostScript", "extract the text, for example with ps2ascii")),
    (rb"\{\\rtf", Look("RTF", "convert it: libreoffice --headless --convert-to txt:Text")),
    (rb"\xd0\xcf\x11\xe0", Look("an Office document", "convert it: libreoffice --headless "
     "--convert-to txt:Text")),
    (rb"7z\xbc\xaf\x27\x1c", Look("a 7z archive", f"{_UNPACK}7z x")),
    (rb"Rar!\x1a\x07", Look("a RAR archive", f"{_UNPACK}unrar x")),
    (rb"\x04\x22\x4d\x18", Look("lz4", f"{_UNPACK}lz4 -d")),
    (rb"LZIP\x01", Look("lzip", f"{_UNPACK}lzip -d")),
    (rb"\x5d\0\0[\0-\xff]{2}", Look("an LZMA file of the old kind", f"{_UNPACK}unlzma")),
    (rb"\x1f[\x9d\xa0]", Look("a file by compress", f"{_UNPACK}uncompress")),
    (rb"\x89PNG|\xff\xd8\xff|GIF8[79]a.[\0-\x1f]|II\*\0|MM\0\*|RIFF.{4}WEBP|BM.{4}\0{4}|\0{2}.{2}ftyp",
     Look("a picture or a film", "leave it out")),
    (rb"ID3[\x02-\x04]|RIFF.{4}WAVE|OggS\0|fLaC\0", Look("sound", "leave it out")),
    (rb"\x89HDF|\x93NUMPY|\x80[\x02-\x05]\x95?|\x7fELF|MZ.{1,99}\0|\xca\xfe\xba\xbe",
     Look("a binary file", "leave it out")),
)  # fmt: skip
NULS = Look("a binary file, with NUL bytes", "leave it out, or remove them, tr -d '\\000'")
"""Text may have some of these bytes by accident."""
_MAGIC = [(re.compile(magic, re.DOTALL), look) for magic, look in _BINARY]
_OFFICE = Look("an Office document or a book", "convert it: libreoffice --headless --convert-to "
               "txt:Text, or pandoc -t plain")  # fmt: skip


def binary_look(head: bytes) -> Look | None:
    """What a file with these first HEAD_BYTES is if it is no text in UTF-8; None if it may be.

    A few invalid bytes do not count: reading tells where they are."""
    for magic, look in _MAGIC:
        if magic.match(head):
            return look
    if encoding := _wide_encoding(head):
        return Look(encoding, f"convert it: iconv -f {encoding} -t UTF-8")
    return NULS if b"\0" in head else None


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


def text_look(head: bytes) -> Look | None:
    """What text with these first HEAD_BYTES looks like if it is data or markup; None for prose, and
    for everything that is not clearly something else."""
    text = head.decode(errors="replace").removeprefix("\ufeff")
    lines = text.split("\n", 2 * _LINES)
    if len(lines) > 1 and (len(head) >= HEAD_BYTES or len(lines) > 2 * _LINES):
        del lines[-1]  # it may be cut, or is all the rest
    lines = [line.rstrip("\r") for line in lines if not line.isspace() and line][:_LINES]
    if not lines:
        return None
    return next((look for looks in _TEXT if (look := looks(text, lines))), None)


def _share(lines: list[str], fits: Callable[[str], object]) -> float:
    return sum(map(bool, map(fits, lines))) / len(lines)


_JSON_KEY = re.compile(r'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:')
_JSON_ARRAY = re.compile(r'\s*\[\s*(\{\s*["}]|\[\s*["\[]|"(?:[^"\\]|\\.)*"\s*(,|\]\s*\Z))')
_PYTHON_DICT = re.compile(r"\s*\{\s*'\w+'\s*:")


def _json(text: str, lines: list[str]) -> Look | None:
    if _JSON_ARRAY.match(text):
        return Look("a JSON array", "write its elements one per line, jq -c '.[]', and pass "
                    "--format jsonl")  # fmt: skip
    if lines[0].lstrip().startswith('"'):
        # Dialogue has quotation marks as well, but no escapes.
        quoted = _share(lines, lambda line: line.strip()[-1:] in '",' and line.strip()[0] == '"')
        if quoted == 1 and re.search(r"\\u[0-9a-fA-F]{4}|\\n", text):
            return Look("JSON strings", "write their texts without escapes: jq -r")
    if _PYTHON_DICT.match(text) and _share(lines, _PYTHON_DICT.match) >= 0.9:
        return Look("Python's dictionaries", "write them with json.dumps, and pass --format jsonl")
    if not _JSON_KEY.match(text):
        return None
    if _share(lines, _JSON_KEY.match) >= 0.9 and (len(lines) > 1 or text.count("\n") <= 1):
        return Look("JSON lines", "pass --format jsonl", "jsonl")
    try:
        json.loads(lines[0])
    except ValueError:
        return Look("JSON over several lines", "write an object per line, jq -c ., and pass "
                    "--format jsonl")  # fmt: skip
    return None


_WIKI = re.compile(r"\s*<doc\s+id=")
_MARKUP = re.compile(
    r"\s*<(\?xml|!doctype|html|mediawiki|tei(corpus)?|tmx|xliff|rss|svg)\b", re.IGNORECASE
)
_TAG = re.compile(r"\s*</?[A-Za-z!][^<>]*>")
_HTML_TAG = re.compile(r"</(p|div|span|td|tr|li|ul|a|table|script|body|head)>", re.IGNORECASE)


def _markup(text: str, lines: list[str]) -> Look | None:
    if _WIKI.match(text):
        return Look("wikiextractor's output", "pass --format wikiextractor", "wikiextractor")
    if text.startswith("WARC/"):
        return Look("a web archive", "extract the text, for example with trafilatura")
    # Speakers of a chat are in such brackets too, but nothing ends with </...> there; and Markdown
    # has tables in HTML.
    shown = "\n".join(lines)
    closing = shown.count("</")
    share = 0.5 if lines[0].lstrip().startswith("<") else 0.8
    marked = closing > 0.2 * len(lines) and _share(lines, _TAG.match) >= share
    html = closing >= 0.8 * len(lines) and len(_HTML_TAG.findall(shown)) >= 0.5 * closing
    if marked or html or _MARKUP.match(text):
        if "<mediawiki" in text[:1000]:
            return Look("a dump of MediaWiki", "extract the text with wikiextractor")
        return Look("HTML or XML", "extract the text, for example with trafilatura or html2text")
    return None


_TIME = re.compile(r"\s*(\d+:)?\d{1,2}:\d\d[.,]\d{1,3}\s+-->\s")


def _subtitles(text: str, lines: list[str]) -> Look | None:
    if text.startswith(("WEBVTT", "[Script Info]")) or (
        "-->" in text and _share(lines, _TIME.match) >= 0.1
    ):
        return Look("subtitles", "keep their text alone, for example sed -E '/^[0-9]+.?$|-->/d'")
    return None


_LABEL = re.compile(r"(O|[BIESLU]-[A-Za-z_-]+)$")


def _tokens(text: str, lines: list[str]) -> Look | None:
    """CoNLL and other formats with a token per line."""
    rows = [line.split("\t" if "\t" in line else None) for line in lines[:100] if line[0] != "#"]
    same = len({len(row) for row in rows}) <= 2 and len(rows) >= 3
    universal = same and len(rows[0]) == 10 and all(row[0][:1].isdigit() for row in rows)
    labels = sum(len(row) > 1 and _LABEL.match(row[-1]) is not None for row in rows)
    if universal or (same and labels >= 0.9 * len(rows)) or text.startswith("-DOCSTART-"):
        return Look("CoNLL, a token per line", "write sentences; those of CoNLL-U are in its "
                    "lines '# text = ...'")  # fmt: skip
    return None


_TABLE = Look("a table with tabs", "pass --format tsv --text-field NAME if its first row names "
              "the columns, else keep one: cut -f N", "tsv")  # fmt: skip


def _tabs(text: str, lines: list[str]) -> Look | None:
    if "\t" not in text or len(lines) < 3:
        return None
    # Indentation does not count.
    columns = [line.strip().count("\t") for line in lines]
    usual = max(set(columns), key=columns.count)
    if usual and columns.count(usual) >= 0.9 * len(lines) and columns.count(0) <= 0.05 * len(lines):
        return _TABLE
    return None


_NAME = r'("[^",;\t]{1,40}"|\w[\w .\-/()]{0,39})'
_HEADER = re.compile(rf"({_NAME})?([,;\t]{_NAME})+")


def _commas(text: str, lines: list[str]) -> Look | None:
    # The first row has names, or all fields of all rows are quoted: text has commas as well.
    quoted = '","' in lines[0] and _share(lines, lambda line: line[0] == '"') == 1
    if not quoted and (not _HEADER.fullmatch(lines[0]) or ", " in lines[0]):
        return None
    delimiter = max(",;\t", key=lines[0].count)
    try:
        rows = list(csv.reader(lines, delimiter=delimiter))
    except csv.Error:
        return None
    # A quoted text may be cut at the end of what is looked at.
    columns = [len(row) for row in rows[: max(3, len(rows) - 1)]]
    if len(rows) < 3 or columns[0] < 2 or columns.count(columns[0]) < 0.95 * len(columns):
        return None
    if delimiter == "\t":
        return _TABLE
    return Look("CSV", "pass --format csv --text-field NAME if its first row names the columns",
                "csv")  # fmt: skip


def _vocabulary(text: str, lines: list[str]) -> Look | None:
    if {"[UNK]", "[CLS]", "[SEP]", "[MASK]"} <= set(lines):
        return Look("a WordPiece vocabulary", "leave it out")
    return None


_TEXT = (_vocabulary, _json, _markup, _subtitles, _tokens, _tabs, _commas)


def office_look(names: list[str]) -> Look | None:
    """Whether the names in a zip archive are those of an office document or a book."""
    if {"[Content_Types].xml", "mimetype", "META-INF/container.xml"} & set(names[:20]):
        return _OFFICE
    return None
