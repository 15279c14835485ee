"""A look at the beginning of a file finds what its format does not fit, and is silent on prose."""

import codecs
import gzip
import io
import json
import pathlib
import tarfile
import zipfile

import pytest

from tfrecords.text import looks
from tfrecords.text.check import check_files
from tfrecords.text.formats import TEXT_FORMATS

PROSE = "Every boat carries a letter near the mill. The miller counts the stones.\n"
CHINESE = "一条船带着一封信。磨坊主在磨坊数石头。\n"
TOKENS = "".join(f"{number}\tboat\tboat\tNOUN\t_\t_\t0\troot\t_\t_\n" for number in range(1, 6))
TIMES = "1\n00:00:01,000 --> 00:00:02,500\nHello.\n\n2\n00:00:03,000 --> 00:00:04,000\nYes.\n"


def check(path, content, format="sentences", errors="strict", text_field="text", **options):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    check_files([path], format, errors, text_field, **options)


NOT_PROSE = {
    "JSON lines": ('{"id": 7, "text": "\\u0930"}\n' * 3, "JSON lines; pass --format jsonl"),
    "one line of JSON": (json.dumps({"text": PROSE * 2000}), "JSON lines; pass --format jsonl"),
    "array": ('[{"text": "One."},\n {"text": "Two."}]', r"a JSON array; .*jq"),
    "long array": ("[" + '{"text": "One."}, ' * 9000, "a JSON array"),
    "array of strings": ('["One is.",\n"Two is."]', "a JSON array"),
    "printed JSON": (json.dumps({"text": "One.", "n": 1}, indent=2), "JSON over several lines"),
    "JSON strings": ('"\\u0930\\u0940 a"\n"b \\u0930"\n', "JSON strings"),
    "dictionaries": ("{'text': 'One.'}\n" * 3, "Python's dictionaries"),
    "wikiextractor": (
        '<doc id="7" url="x">\nA\n\n</doc>\n',
        "wikiextractor's output; pass --format wikiextractor",
    ),
    "HTML": ("\n<!DOCTYPE html>\n<html><p>One.", "HTML or XML; extract"),
    "XML": ('\ufeff<?xml version="1.0"?>\n<a>One.</a>', "HTML or XML"),
    "paragraphs in tags": (f"<p>{PROSE.strip()}</p>\n" * 9, "HTML or XML"),
    "SGML": (f"<DOC>\n<TEXT>\n{PROSE}</TEXT>\n</DOC>\n" * 3, "HTML or XML"),
    "MediaWiki": ('<mediawiki xmlns="x">\n<page>', "a dump of MediaWiki; .*wikiextractor"),
    "tabs": ("".join(f"{n}\t{PROSE}" for n in range(5)), "a table with tabs; pass --format tsv"),
    "TSV": ('id\ttext\n1\t"One\nis"\n2\t"Two\nis"\n', "a table with tabs"),
    "CSV": (",text\n" + f'7,"{PROSE}, more"\n' * 5, "CSV; pass --format csv"),
    "semicolons": ("id;text\n" + f"7;{PROSE}" * 5, "CSV"),
    "quoted fields": (f'"7","Title","{PROSE.strip()}"\n' * 5, "CSV"),
    "SubRip": (TIMES, "subtitles; keep"),
    "WebVTT": ("WEBVTT\n\n00:01.000 --> 00:02.000\nHello.\n", "subtitles"),
    "CoNLL-U": (f"# text = A b\n{TOKENS}\n{TOKENS}", "CoNLL, a token per line"),
    "CoNLL": ("EU NNP B-ORG\nrejects VBZ O\nGerman JJ B-MISC\n. . O\n", "CoNLL"),
    "vocabulary": ("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##b\n", "a WordPiece vocabulary"),
}


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("name", NOT_PROSE)
def test_what_is_no_prose_is_told(tmp_path, refused, name, pack):
    text, pattern = NOT_PROSE[name]
    content = pack(text.encode())
    for format in ("sentences", "text", "documents", "paragraphs"):
        with refused(
            rf"a: expected .* \(--format {format}\)\. Received: what looks like {pattern}"
        ):
            check(tmp_path / "a", content, format)
    check(tmp_path / "a", content, looks=False)


BINARY = {
    "Parquet": (b"PAR1\x15\4", "Parquet; pass --format parquet"),
    "Arrow": (b"ARROW1\0\0\xff\xff\xff\xff", "Arrow or Feather"),
    "Arrow stream": (b"\xff\xff\xff\xff\x70\1\0\0\x10\0", "Arrow or Feather"),
    "SQLite": (b"SQLite format 3\0\x10", "an SQLite database"),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3", "PDF; .*pdftotext"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4", "a 7z archive; unpack it: 7z x"),
    "RAR": (b"Rar!\x1a\7\1\0", "a RAR archive"),
    "RTF": (b"{\\rtf1\\ansi One.}", "RTF"),
    "Word": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Office document"),
    "PNG": (b"\x89PNG\r\n\x1a\n", "a picture"),
    "JPEG": (b"\xff\xd8\xff\xe0\0\x10JFIF", "a picture"),
    "NUL": (PROSE.encode() + b"a\0b", r"a binary file, with NUL bytes; .*tr -d .* or --no-check"),
    "others": (bytes(range(256)) * 9, "a binary file"),
}


@pytest.mark.parametrize("errors", ["strict", "replace"])
@pytest.mark.parametrize("name", BINARY)
def test_what_is_binary_is_told(tmp_path, refused, name, errors):
    content, pattern = BINARY[name]
    for format in ("sentences", "jsonl"):
        with refused(f"a: expected .* Received: what looks like {pattern}") as caught:
            check(tmp_path / "a", content, format, errors)
        assert "replace" not in str(caught)


@pytest.mark.parametrize("text", [PROSE * 9, CHINESE * 9, "Лодка несёт письмо.\n" * 9, "Öl ab\n"])
def test_wide_encodings_are_told_with_and_without_a_mark(tmp_path, refused, text):
    marks = {"UTF-16LE": codecs.BOM_UTF16_LE, "UTF-16BE": codecs.BOM_UTF16_BE}
    marks |= {"UTF-32LE": codecs.BOM_UTF32_LE, "UTF-32BE": codecs.BOM_UTF32_BE}
    for encoding, mark in marks.items():
        content = text.encode(encoding)
        with refused(rf"like {encoding}; convert it: iconv -f {encoding} -t UTF-8\.$"):
            check(tmp_path / "a", content)
        with refused(rf"like {encoding[:6]}; convert it: iconv -f {encoding[:6]} -t UTF-8\.$"):
            check(tmp_path / "a", mark + content, errors="replace")


@pytest.mark.parametrize("encoding", ["latin-1", "koi8-r", "gbk", "shift-jis", "euc-kr"])
def test_older_encodings_are_told(tmp_path, refused, encoding):
    text = {"latin-1": "Größere Öle für Müller.\n", "koi8-r": "Лодка.\n", "euc-kr": "편지를.\n"}
    content = (text.get(encoding, CHINESE.replace("带", "本")) * 9).encode(encoding, "ignore")
    with refused(r"a: .* another encoding, such as Latin-1; convert it: iconv .* is in\.$"):
        check(tmp_path / "a", content)
    # Who replaces has decided; and a few invalid bytes are told with their offset by the reading.
    check(tmp_path / "a", content, errors="replace")
    check(tmp_path / "a", PROSE.encode() * 9 + b"caf\xe9\n")


NO_FAULT = {
    "prose": PROSE * 9,
    "Chinese": CHINESE * 9,
    "nothing": "",
    "a word": "One",
    "a poem": "Tyger, tyger,\n  burning bright,\nIn the forests\n\tof the night;\n" * 9,
    "dialogue": '"Hello," he said. "How are you?"\n"Fine, thanks," she said.\n"Good."\n' * 9,
    "quotations": '"One."\n"Two."\n"Three."\n',
    "names": "Smith, John\nMiller, Anna\nBaker, Tom\nCook, Ann\n",
    "a chat": "<bob> hi there\n<ann> hello\n<bob> fine\n" * 9,
    "Markdown": f"# Title\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n{PROSE}\n<br>\n* [a](b)\n",
    "links": '["a"](http://example.org)\n[1] "Foo", there.\n[2] Other\n',
    "lyrics": "[Verse 1]\nla la\n[Chorus]\nla\n" * 3,
    "breaks in HTML": "A film. <br /><br />It was good, <i>very</i> good.\n" * 9,
    "code": "use strict;\nuse warnings;\n\ndef f(x):\n\treturn {\n\t\t'a': [1, 2],\n\t}\n" * 3,
    "a Makefile": "all:\n\tcc x\n\tcc y\n\tcc z\n",
    "JSON in prose": '{"a": 1}\n' + PROSE * 20,
    "a table in prose": PROSE * 9 + "1\t2\n3\t4\n5\t6\n",
    "contents": f"Chapter 1\t3\nChapter 2\t9\n{PROSE * 3}",
    "times": "00:10 --> 00:20 is an interval.\n" + PROSE * 20,
    "tokens": "O\nO\nI-beam\n" + PROSE * 3,
    "a markup of Wikipedia": " = Robert = \n\n Robert <unk> is an English film .\n" * 9,
    "semicolons": "He came; she went;\nThey ate; they drank;\nIt ended; so be it;\n",
    "special tokens": "[CLS] and [SEP] and [MASK] and [UNK] are tokens.\n",
    "a cut character": "é" * 40_001,
}


@pytest.mark.parametrize("name", NO_FAULT)
@pytest.mark.parametrize("format", ["sentences", "text", "documents", "paragraphs"])
def test_prose_passes(tmp_path, name, format):
    check(tmp_path / "a", NO_FAULT[name], format)
    check(tmp_path / "a", "\ufeff" + NO_FAULT[name].replace("\n", "\r\n"), format)


def test_code_and_documentation_pass(tmp_path):
    # Real files, not made for this: the modules of the standard library.
    files = sorted(pathlib.Path(json.__file__).parent.parent.glob("*.py"))[:100]
    for path in files:
        head = path.read_bytes()[: looks.HEAD_BYTES]
        assert looks.binary_look(head) is looks.text_look(head) is None, path


def test_text_in_rows_may_look_like_anything(tmp_path):
    for text, _ in NOT_PROSE.values():
        check(tmp_path / "a", json.dumps({"text": text}), "jsonl")
        quoted = text.replace('"', '""')
        check(tmp_path / "a", f'text\n"{quoted}"\n', "csv")


@pytest.mark.parametrize(
    ("format", "name", "pattern"),
    [
        ("jsonl", "CSV", "CSV; pass --format csv"),
        ("jsonl", "array", "a JSON array"),
        ("csv", "TSV", "a table with tabs; pass --format tsv"),
        ("tsv", "semicolons", "CSV; pass --format csv"),
        ("csv", "JSON lines", "JSON lines; pass --format jsonl"),
        ("wikiextractor", "JSON lines", "JSON lines; pass --format jsonl"),
        ("parquet", "JSON lines", "JSON lines; pass --format jsonl"),
    ],
)
def test_the_right_format_is_named(tmp_path, refused, format, name, pattern):
    if format == "parquet":
        pytest.importorskip("pyarrow")
    with refused(rf"expected .*\(--format {format}\)\. Received: what looks like {pattern}"):
        check(tmp_path / "a", NOT_PROSE[name][0], format)


def test_wikiextractor_is_not_prose(tmp_path, refused):
    with refused(r"expected .* \(--format wikiextractor\)\. Received: what looks like other text"):
        check(tmp_path / "a", PROSE, "wikiextractor")
    check(tmp_path / "a", NOT_PROSE["wikiextractor"][0], "wikiextractor")


# Fields.


@pytest.mark.parametrize("looking", [True, False])
def test_a_field_that_no_row_has_is_told_with_those_there_are(tmp_path, refused, looking):
    rows = '{"id": 1, "body": "One."}\n{"id": 2, "text": null}\n'
    with refused(r"a: expected a field 'text' with text in at least one row\. Received: 'id', 'bo"):
        check(tmp_path / "a", rows, "jsonl", looks=looking)
    check(tmp_path / "a", rows + '{"text": ""}\n', "jsonl", looks=looking)
    check(tmp_path / "a", rows, "jsonl", text_field="body")
    for rows in ("id,text\n1,\n2\n", "id,body\n1,One.\n"):
        with refused(r"a: expected a field 'text' with text in .* row\. Received: 'id', '"):
            check(tmp_path / "a", rows, "csv", looks=looking)
    check(tmp_path / "a", "", "csv", looks=looking)
    with refused(r"a, at byte 0: expected a string in the field 'id'\. Received: a int; name"):
        check(tmp_path / "a", '{"id": 1}', "jsonl", text_field="id")
    many = json.dumps({f"field {number}": 1 for number in range(50)})
    with refused(r"'field 19', \.\.\.; name the one with the text by --text-field\.$"):
        check(tmp_path / "a", many, "jsonl")


def test_a_column_of_parquet_of_nulls_is_told(tmp_path, refused):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    table = pyarrow.table({"text": pyarrow.array([None, None], pyarrow.string()), "b": ["x", "y"]})
    parquet.write_table(table, tmp_path / "a")
    with refused(
        r"a: expected a field 'text' with text in at least one row\. Received: 'text', 'b"
    ):
        check_files([tmp_path / "a"], "parquet", "strict", "text")
    check_files([tmp_path / "a"], "parquet", "strict", "b")


# Archives.


def archive(kind, **files):
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w") as file:
            for name, content in files.items():
                file.writestr(name, content)
    else:
        with tarfile.open(fileobj=out, mode="w") as file:
            for name, content in files.items():
                header = tarfile.TarInfo(name)
                header.size = len(content)
                file.addfile(header, io.BytesIO(content))
    return out.getvalue()


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_the_files_of_an_archive_are_looked_at(tmp_path, refused, kind):
    check(tmp_path / "a", archive(kind, one=PROSE.encode(), two=b""))
    with refused(r"a: two: expected .* like JSON lines; pass --format jsonl"):
        check(tmp_path / "a", archive(kind, one=PROSE.encode(), two=b'{"text": "One."}'))
    with refused(r"a: two: expected .* like a picture"):
        check(tmp_path / "a", archive(kind, one=PROSE.encode(), two=b"\x89PNG\r\n"))


def test_office_documents_are_told(tmp_path, refused):
    for name in ("[Content_Types].xml", "mimetype"):
        with refused(r"a: expected .* like an Office document or a book; convert it: libreoffice"):
            check(tmp_path / "a", archive("zip", **{name: b"<a/>"}))


def test_the_expected_is_what_the_format_says(tmp_path, refused):
    for format, one in TEXT_FORMATS.items():
        if not one.rows:
            with refused(f"a: expected {one.document}"):
                check(tmp_path / "a", BINARY["PDF"][0], format)


@pytest.mark.parametrize(
    "text",
    [
        "ID3 tags hold the title.",
        "The ftyp box of a film.",
        "OggS begins a page, fLaC a stream.",
        "fLaC begins a stream.",
        "GIF89a is a version of GIF.",
        "ARROW1 and FEA1 are formats.",
        "FEA1 is a format.",
    ],
)
def test_words_that_begin_files_of_another_kind_are_text(text):
    assert looks.binary_look(f"{text}\nAnd a line.\n".encode()) is None
