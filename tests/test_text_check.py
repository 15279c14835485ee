"""A look at the beginning of a file finds what its format does not fit, and is silent on prose."""

import codecs
import gzip
import io
import json
import pathlib
import tarfile
import zipfile

import pytest

from tfrecords.text import binary_looks, looks
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
    "array of strings": ('["One is.",\n"Two is."]', r"a JSON array of strings; .*jq -r '\.\[\]'"),
    "array of numbers": ("[\n7,\n8\n]", "a JSON array; "),
    "array of arrays": ('[[7, "One."], [8, "Two."]]', r"a JSON array; .*jq -r '\.\. \| strings'"),
    "long mixed array": ('[7, null, "One", ' + '"Two", ' * 9000, "a JSON array; "),
    "lines of arrays": (
        '[7, null, "\\u0930"]\n' * 3,
        r"JSON arrays, one per line; .* jq -c '\{text: \.\[2\]\}', and pass --format jsonl",
    ),
    "lines of arrays of strings": ('["a", "Two is."]\n' * 3, r"JSON arrays, .* \.\[1\]"),
    "JSON after a comment": (
        "# exported\n" + '{"text": "One."}\n' * 9,
        r"JSON lines after others; keep .* grep '\^ \*\{', and pass --format jsonl",
    ),
    "JSON in a log": (
        '2024-01-01 INFO {"text": "\\u0930"}\n' * 3,
        r"a log with JSON at the end .* sed 's/\^\[\^\{\]\*//', and pass --format jsonl",
    ),
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
    "a header with spaces": ("id, text ,b\n" + f'7,"{PROSE.strip()}",x\n' * 5, "CSV; pass"),
    "short rows": ("id,text,b\n" + f'7\n8,"{PROSE}",x\n' * 5, "CSV; pass --format csv"),
    "short rows of texts": ("text,b\n" + f'"One, two."\n"{PROSE}",x\n"Yes.",y\n' * 5, "CSV; pass"),
    "texts not quoted": ("id,text\n" + f"7,Well, one, {PROSE}8,Well, {PROSE}" * 5, "CSV; pass"),
    "pipes": (
        "id|text|b\n" + f'7|"{PROSE}"|x\n' * 5,
        r"CSV with \| between the columns; .* tr '\|' '\\t', and pass --format tsv",
    ),
    "backslashes": (
        "id,text\n" + '7,"He said \\"go\\", and went."\n' * 5,
        r"""CSV with backslashes .* sed 's/\\\\"/""/g', and pass --format csv""",
    ),
    "Excel": (
        "sep=;\nid;text\n" + f"7;{PROSE}" * 5,
        "CSV by Excel, .* remove that line, sed 1d, and pass --format csv",
    ),
    "no header": (
        f'7,"{PROSE}\nThe end.",x\n' * 5,
        r"CSV without a first row .*\(echo 'column1,text,column3'; cat FILE\), and pass --f",
    ),
    "backslashes without a header": (
        f'"7","He said \\"go\\", and went. {PROSE.strip()}"\n' * 5,
        "CSV without a first row",
    ),
    "scores without a header": (f'0.7,"Well, {PROSE.strip()}"\n' * 5, "CSV without a first row"),
    "a long field without a header": (f'7;"{PROSE}"\n' * 5 + f'8;"{PROSE * 999}"', "CSV without"),
    "carriage returns": (PROSE.replace("\n", "\r") * 3, r"text whose .* tr '\\r' '\\n'"),
    "carriage returns and an end": (PROSE.replace("\n", "\r") * 3 + "\n", "text whose lines end"),
    "SubRip": (TIMES, "subtitles; keep"),
    "WebVTT": ("WEBVTT\n\n00:01.000 --> 00:02.000\nHello.\n", "subtitles"),
    "SubStation": ("[Script Info]\nDialogue: 0,,,,,,,,,Hi.\n", "subtitles; .* cut -d, -f 10-"),
    "YouTube": ("0:00:01.000,0:00:02.500\nHello.\n\n" * 3, r"subtitles; .* '/\^\[0-9:\.,\]\+"),
    "SubViewer": ("00:00:01.00,00:00:02.50\nHello.\n\n" * 3, "subtitles"),
    "MicroDVD": ("{0}{50}Hello.\n{50}{90}Yes.|No.\n", r"subtitles; .* 's/.\{\["),
    "lyrics with times": ("[ar:Ann]\n[00:12.00]la la\n[00:15.10]la\n", r"subtitles; .* 's/.\[\["),
    "a mailbox": (
        f"From ann@b.c Mon Jan  1 00:00:00 2024\nFrom: Ann <ann@b.c>\nTo: d\n\n{PROSE}",
        "a mailbox; .*mailbox module",
    ),
    "a list's archive": (
        f"From ann at b.c  Tue Jan 12 09:00:00 2024\nFrom: ann at b.c (Ann)\n\n{PROSE}",
        "a mailbox",
    ),
    "mail": (
        "Received: from a\n\tby b\nFrom: Ann <ann@b.c>\nTo: d\nSubject: x\n\n" + PROSE,
        "mail; .*email module",
    ),
    "wiki markup": (
        f"== Boat ==\n'''The boat''' of the [[mill|Mill]].{{{{cite|a}}}} {PROSE}" * 3,
        "MediaWiki's markup; .*mwparserfromhell",
    ),
    "entities": (f"Caf&eacute; &#2352;&#x930; {PROSE}{PROSE}" * 3, "text with entities of HTML"),
    "gettext": ('msgid ""\nmsgstr ""\n"a: b\\n"\n\n#: a.c:7\nmsgid "a"\nmsgstr "b"\n', "gettext's"),
    "a line per tree": ("(S (NP (DT The) (NN boat)) (VP (VBZ is)))\n" * 3, "syntax trees"),
    "trees": (
        "( (S \n    (NP-SBJ (DT The) (NN boat) )\n    (VP (VBZ is) )))\n" * 3,
        "syntax trees",
    ),
    "LaTeX": ("% a\n\\documentclass{article}\n\\begin{document}\nOne.\n", "LaTeX; .*pandoc"),
    "wikiextractor after words": (
        "One.\n" + '<doc id="7" url="x">\nA\n\n</doc>\nTwo.\n' * 3,
        "wikiextractor's output",
    ),
    "CoNLL-U": (f"# text = A b\n{TOKENS}\n{TOKENS}", "CoNLL, a token per line"),
    "tags": ("A DT\nmiller NN\npaints VBZ\n. .\n\n" * 3, "CoNLL"),
    "universal tags": ("A DET\nmiller NOUN\npaints VERB\n" * 3, "CoNLL"),
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
    "RTF after a mark": (b"\xef\xbb\xbf{\\rtf1\\ansi One.}", "RTF"),
    "ORC": (b"ORC\x0a\6\x12\4\0\0", "ORC; .*pyarrow can, and pass --format parquet"),
    "Avro": (b"Obj\1\4\x16avro.schema\0", "Avro; .*JSON lines"),
    "deb": (b"!<arch>\ndebian-binary   1410122664  0     0\0", "an archive by ar, .*: ar x"),
    "cabinet": (b"MSCF\0\0\0\0\x2c", "a cabinet file"),
    "cpio": (b"070701" + b"0123456B" * 13 + b".\0", "an archive by cpio"),
    "MOBI": (b"Book".ljust(60, b"\0") + b"BOOKMOBI\0\0", "a book for a Kindle"),
    "ZIM": (b"ZIM\4\6\0\1\0", "a ZIM archive"),
    "DjVu": (b"AT&TFORM\0\0\x10\0DJVM", "DjVu; .*djvutxt"),
    "an unpacking zip": (b"#!/bin/sh\nexit\nPK\3\4\x14\0", "a zip archive that .*: unzip"),
    "compressed twice": (gzip.compress(gzip.compress(b"a")), "a file that was compressed twice"),
    "an empty tar": (
        b"\0" * 10240,
        "nothing but NUL bytes, as in an empty tar archive; leave it out",
    ),
    "NUL": (PROSE.encode() + b"a\0b", r"text with NUL bytes; .*tr -d .* or --no-check"),
    "NULs at the end": (PROSE.encode() * 9 + b"\0" * 99, "text with NUL bytes; .* or --no-check"),
    "numbers": (b"\x05\x00\x07\x00\x0b\x00\x0d\x01" * 99, r"a binary file; leave it out\.$"),
    "zeros and names": (b"\x07name" + b"\0" * 99, r"a binary file; leave it out\.$"),
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
    "a log": "2024-01-01 00:00:01,001 INFO [main-1] com.example.Foo - Started 1 in 3ms\n" * 9,
    "verses": "1 The river counts the stones in the cold morning.\n2 Every boat carries a letter "
    "near the old mill.\n3 The old bridge follows the road in the rain.\n",
    "references": "[1] Ann, The Mill, 1984.\n[2, 3] Bob, The Boat.\n[4]\n[5]\n" * 3,
    "footnotes": "[[1]](a) says so.\n[[2]](b) too.\n",
    "a quotation in brackets": '["One is enough," he said.]\n["Two," she said.]\n' * 3,
    "JSON after prose": "An example:\n" + '{"text": "One."}\n' * 4,
    "sets": 'The set {"a": 7} has one.\nThis one, {"b": 8}, too.\n' * 5,
    "a regular expression": 'Write \\n or \\u0930 between {"a": ...} and the end.\n' * 5,
    "states": "Gary IN\nTowson MD\nElkhart IN\nBowie MD\n" * 3,
    "capitals": "COME IN\nGO OUT\nSIT DOWN\nRUN TO\nTHE SEA\n" * 3,
    "two words": "The boat\nA mill\nMy road\n" * 3,
    "lines with dashes": "The mill|the boat\nThe road is long|and so am I\nOne|two|three\n" * 3,
    "a bare table of Markdown": "a|b\n-|-\n1|2\n3|4\n",
    "verses with commas": "春眠不觉晓,处处闻啼鸟\n夜来风雨声,花落知多少\n" * 5,
    "rhymes with commas": "Roses are red,violets are blue.\nSugar is sweet,and so are you.\n" * 5,
    "Hindi with pipes": "राम घर गया|सीता आई|\nनदी बहती है|\n" * 5,
    "a list of names": "Ann, Bob, Tom\nAnn is here, Bob is not, Tom is\n7, 8, 9\n" * 3,
    "speech without spaces": 'He said,"Go now."\nShe said,"No, you go."\n' * 5,
    "quoted speech": '"One, two.","Three."\n"Yes,"he said.\n"No"\n' * 5,
    "numbered lines": "1, the boat\n2, the mill and the road, too\n3, the sea\n" * 3,
    "a line with carriage returns": "One.\rTwo.\rThree.\n" + PROSE * 9,
    "a Windows line": "One is enough.\r\n",
    "a chat with times": "[12:30] ann: hi\n[12:31:07] bob: hello\n12:32 ann: {0} is a number\n" * 9,
    "times of a day": "0:30, 1:30 and 2:30 are times.\n7:00, the mill opens.\n" * 9,
    "a letter": f"From: Ann\nTo: Bob\nSubject: the mill\nDate: Monday\n\n{PROSE * 9}",
    "a start with From": f"From Ann Mon Dieu came a letter.\nNote: it was wet.\n\n{PROSE}",
    "a play": "ANN: Who goes?\nBOB: A miller.\nTo: is no name.\n" * 9,
    "notes with links": f"# Boat\n\nSee [[mill]] and [[road|the road]].\n{PROSE}" * 9,
    "a template": "Dear {{name}},\n" + "you owe {{sum}} for {{thing}}.\n" * 9,
    "a shell script": "if [[ -f x ]]; then\n  echo '''a'''\nfi\n" * 9,
    "headings of a wiki": "== Boat ==\nA boat is ''small''.\n" * 9,
    "WikiText": " = Boat = \n\n The 3 @-@ foot boat , '' a boat '' , is <unk> . \n = = Use = = \n"
    * 9,
    "ampersands": "R&D; and B&B; are short.\nAT&T & Co; and p = &x;\n" * 9,
    "about HTML": "Write &amp; for an ampersand.\n" + PROSE * 20,
    "about gettext": 'msgid "a"\nmsgstr "b"\n' + PROSE * 3,
    "Lisp": "(DEFUN F (X)\n  (CAR X))\n(X (CAR Y))\n(S (CAR Y))\n" * 9,
    "parentheses": "(SO he said.)\n(NP is a class (NP hard).)\n(X marks the spot.)\n" * 9,
    "about LaTeX": "Begin with \\documentclass{article}, or\n\\documentclass{book}.\n" * 3,
    "about wikiextractor": '<bob> It writes\n<doc id="7" url="x">\nA\n</doc>\n' + PROSE * 9,
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
        head = path.read_bytes()[: binary_looks.HEAD_BYTES]
        assert binary_looks.binary_look(head) is looks.text_look(head) is None, path


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


def test_what_is_packed_and_cannot_be_read_so_is_told(tmp_path, refused):
    parquet = BINARY["Parquet"][0]
    for content, mend in [
        (gzip.compress(parquet), "decompress it"),
        (archive("tar", one=parquet), "unpack it"),
    ]:
        for format in ("parquet", "sentences"):
            with refused(f"Received: what looks like Parquet; {mend} and pass --format parquet"):
                check(tmp_path / "a", content, format)


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
        "ORC\nis a format, and Obj another.",
        "MSCF, ZIM and AT&TFORM. Also BOOKMOBI.",
        "070701 is a number.",
        "!<arch> begins a library.",
        "MZ and PK are letters.",
    ],
)
def test_words_that_begin_files_of_another_kind_are_text(text):
    assert binary_looks.binary_look(f"{text}\nAnd a line.\n".encode()) is None
