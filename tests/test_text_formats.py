"""The formats that are more than lines of sentences: documents in full, spans, damage, archives."""

import bz2
import collections
import csv
import gzip
import io
import json
import lzma
import random
import tarfile
import zipfile

import pytest
from model_fixtures import ROOT

from tfrecords import RecordsConfig, Vocabulary, build_records, read_documents
from tfrecords.text import decoding, rows, spans
from tfrecords.text.check import check_files
from tfrecords.text.formats import TEXT_FORMATS, span_documents, spans_of
from tfrecords.text.spans import Span
from tfrecords.vocabulary import SPECIAL_TOKENS


def read(path, content, format, **options):
    """The documents of a file with this content, and what was counted but for the bytes."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    counts = collections.Counter()
    options = {"errors": "strict", "counts": counts} | options
    found = list(span_documents(Span(str(path)), format, **options))
    return found, {name: count for name, count in counts.items() if count and name != "bytes_read"}


def table(rows, delimiter=","):
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows(rows)
    return text.getvalue()


def archive(kind, files):
    """An archive of files, given by their names."""
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in files.items():
                file.writestr(name, content)
        return out.getvalue()
    format = tarfile.USTAR_FORMAT if kind == "ustar" else tarfile.PAX_FORMAT
    with tarfile.open(fileobj=out, mode="w", format=format) as file:
        for name, content in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            file.addfile(header, io.BytesIO(content))
    return out.getvalue()


# Lines.


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("One is. Two is.\n\nThree.\r\n", [["One is.", "Two is."], ["Three."]]),
        ("\ufeffOne.\n \n\ufeff\nTwo.", [["One."], ["Two."]]),
        ("这是。那是。\nTwo.\n", [["这是。", "那是。"], ["Two."]]),
        ("\n\n", []),
    ],
)
def test_a_document_per_line(tmp_path, content, expected):
    assert read(tmp_path / "a", content, "documents") == (expected, {})


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("One is. Two is.\nThree.\n\nFour.\n", [["One is.", "Two is.", "Three."], ["Four."]]),
        ("\n\nOne.\r\n\r\n \t\nTwo.\n\ufeff\nThree.", [["One."], ["Two.", "Three."]]),
        ("\n\n", []),
    ],
)
def test_a_paragraph_per_line(tmp_path, content, expected):
    assert read(tmp_path / "a", content, "paragraphs") == (expected, {})


def test_a_long_line_stays_one_document(tmp_path, monkeypatch):
    monkeypatch.setattr(spans, "LINE_BYTES", 16)
    found, counts = read(tmp_path / "a", b"a b c d e f g h i j k l\nm\n", "documents")
    assert [" ".join(document) for document in found] == ["a b c d e f g h i j k l", "m"]
    assert counts == {"broken_lines": 1}


def test_documents_of_wikiextractor(tmp_path, refused):
    text = (
        '\ufeff<doc id="7" url="x" title="A b">\nA b\n\nOne is. Two is.\n&lt;c&gt;\n\n</doc>\r\n\n'
        '<doc id="8">\n\n</doc>\n<doc id="9">\nThree.\n'
    )
    expected = [["A b", "One is.", "Two is.", "&lt;c&gt;"], ["Three."]]
    assert read(tmp_path / "a", text, "wikiextractor") == (expected, {"empty_texts": 1})
    for wrong in ("One.\n" + text, text.replace("</doc>\r\n", "</doc>\nOne.\n")):
        with refused(r"a: expected text between <doc id=\.\.\.> and </doc>, .* 'One\.' outside"):
            read(tmp_path / "a", wrong, "wikiextractor")
    # Tags need not be lines of their own, and titles may hold anything.
    lines = """\
<doc id="1" title="a > b">One is. Two is.</doc>
<doc id="2" title="One "of" many"> Three is.
Four is of </doc> tags.</doc><doc id="3">Five is.</doc>
<doc id="4" title="5" disc">
Six is.
</doc>
"""
    expected = [
        ["One is.", "Two is."],
        ["Three is.", "Four is of </doc> tags."],
        ["Five is."],
        ["Six is."],
    ]
    assert read(tmp_path / "a", lines, "wikiextractor") == (expected, {})


def random_lines(draw, format):
    def paragraph():
        return " ".join(draw.choices(["One is.", "Müller.", "中文。", "\ufeffa", "é" * 13], k=3))

    text = "".join(
        draw.choice([paragraph(), paragraph(), "", " ", "\r", "\ufeff"]) + "\n" for _ in range(31)
    )
    if format != "wikiextractor":
        return text.encode()
    documents = (f'<doc id="{n}">\n{part}\n</doc>\n' for n, part in enumerate(text.split("\n\n")))
    return "".join(documents).encode()


# tests/test_inputs.py has the spans of the first three, tests/test_sentences.py those of Parquet.
ELSEWHERE = ("sentences", "text", "jsonl", "parquet")


@pytest.mark.parametrize("line_bytes", [41, 1 << 20])
@pytest.mark.parametrize(
    "format",
    [
        name
        for name, one in TEXT_FORMATS.items()
        if one.spans is not spans.whole_file and name not in ELSEWHERE
    ],
)
def test_any_spans_give_the_same_documents(tmp_path, monkeypatch, format, line_bytes):
    monkeypatch.setattr(spans, "LINE_BYTES", line_bytes)
    draw = random.Random(line_bytes)
    path = tmp_path / "a"
    most = 0
    for _ in range(31):
        whole, counts = read(path, random_lines(draw, format), format)
        for span_bytes in (1, 7, 101):
            parts = spans_of([path], format, span_bytes)
            there = collections.Counter()
            found = [
                document
                for span in parts
                for document in span_documents(span, format, "strict", there)
            ]
            assert found == whole
            assert {name: there[name] for name in counts} == counts
            most = max(most, len(parts))
    assert most > 7


# Rows.


def test_rows_of_csv_and_tsv(tmp_path):
    texts = ['One is. "Two", is.\nThree.', "", "a,b;c\td", " \n", "Six."]
    expected = [["One is.", '"Two", is.', "Three."], ["a,b;c\td"], ["Six."]]
    lines = [["id", "text"], *([n, text] for n, text in enumerate(texts))]
    for format, delimiter in [("csv", ","), ("csv", ";"), ("tsv", "\t")]:
        found = read(tmp_path / "a", "\ufeff\n" + table(lines, delimiter), format)
        assert found == (expected, {"empty_texts": 2})
    unix = table(lines).replace("\r\n", "\n")
    assert read(tmp_path / "a", gzip.compress(unix.encode()), "csv")[0] == expected
    assert spans_of([tmp_path / "a"], "csv", 1) == [Span(str(tmp_path / "a"))]


def test_a_header_may_go_on_over_lines(tmp_path):
    assert read(tmp_path / "a", '"text","a\nb"\nOne.,2\n', "csv") == ([["One."]], {})
    assert read(tmp_path / "a", "text\n", "csv") == read(tmp_path / "a", "\n", "csv") == ([], {})


def test_short_rows_are_empty_and_long_ones_refused(tmp_path, refused):
    text = "id,text,c\n1\n\n2,One.\n3,Two.,x,,\n"
    assert read(tmp_path / "a", text, "csv") == ([["One."], ["Two."]], {"empty_texts": 1})
    with refused(r"a, line 3: expected 3 columns, as in the first row\. Received: 4; put quot"):
        read(tmp_path / "a", 'id,text,c\n1,"a\n2,One, two,x\n'.replace('"', ""), "csv")


@pytest.mark.parametrize(
    ("text", "line"),
    [('text\n"a b\nc\n', 2), ('text\nx\n"a" b\n', 3), ('text,b\n"a\nb",c\n"d"e,f\n', 4)],
)
def test_quotation_marks_without_their_match_are_refused(tmp_path, refused, text, line):
    with refused(rf"a, line {line}: expected a row in which a field with quotation marks is quo"):
        read(tmp_path / "a", text, "csv")


def test_rows_of_tsv_that_quotation_marks_join_are_refused(tmp_path, refused):
    rows = [f"{n}\tx\tThe {n}." for n in range(1, 6)]
    rows[1], rows[3] = '2\tx\t"The 2.', '4\tx\tThe 4."'
    with refused(r"a, line 3: expected a row per line.*holds lines with as many tabs as a row"):
        read(tmp_path / "a", "\n".join(["id\tx\ttext", *rows]), "tsv")
    for text in ("One\ttab is.\nTwo is.\na\tb", "One is.\n\tTwo is.\n\tThree is.", "A\nb\tc"):
        (found,), _ = read(tmp_path / "a", f'id\ttext\n1\t"{text}"\n', "tsv")
        assert found == [line.strip() for line in text.split("\n")]


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_a_line_that_would_fill_the_memory_is_refused(tmp_path, refused, monkeypatch, format):
    monkeypatch.setattr(spans, "LINE_BYTES", 16)
    for module in (decoding, rows):
        monkeypatch.setattr(module, "RECORD_BYTES", 64)
    short = {"csv": "text\n" + "a " * 31, "jsonl": json.dumps({"text": "a " * 19})}[format]
    assert len(read(tmp_path / "a", short, format)[0]) == 1
    with refused(r"a, at byte \d: expected lines of at most .*; part its text"):
        read(tmp_path / "a", short.replace("a a", "a a" * 31) + "\n", format)


def test_an_array_of_json_is_told_before_it_is_read(tmp_path, refused, monkeypatch):
    monkeypatch.setattr(spans, "LINE_BYTES", 16)
    (tmp_path / "a").write_text("[" + ", ".join(['{"text": "One."}'] * 100_003) + "]")

    class File(io.BytesIO):
        def readline(self, size=-1):
            assert 0 < size <= 16
            return super().readline(size)

    reading = decoding.Reading()
    with (
        open(tmp_path / "a", "rb") as file,
        refused(r"a, at byte 0: expected a line with a JSON object\. Received: a JSON array; .*jq"),
    ):
        list(rows.json_rows(File(file.read()), Span(str(tmp_path / "a")), reading))


def test_a_field_may_be_inside_of_another(tmp_path):
    lines = [
        {"a": {"b": "One."}},
        {"a": {"b": "No."}, "a.b": "Two."},
        {"a": {"b": None}},
        {"a": "x"},
        {"a": {"b": {"c": "x"}}, "a.b": ""},
        {},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    found = read(tmp_path / "a", text, "jsonl", text_field="a.b")
    assert found == ([["One."], ["Two."]], {"empty_texts": 4})
    assert read(tmp_path / "a", '{"ä": "One."}', "jsonl", text_field="ä")[0] == [["One."]]


def test_a_column_of_parquet_may_be_inside_of_another(tmp_path, refused):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    path = tmp_path / "a"

    def documents(field, **columns):
        parquet.write_table(pyarrow.table(columns), path)
        return read(path, path.read_bytes(), "parquet", text_field=field)

    nested = [{"b": {"c": "One."}}, None, {"b": None}, {"b": {"c": None}}, {"b": {"c": "Two."}}]
    assert documents("a.b.c", a=nested, x=list(range(5))) == (
        [["One."], ["Two."]],
        {"empty_texts": 3},
    )
    literal = {"a": [{"b": "No."}], "a.b": ["One."]}
    assert documents("a.b", **literal) == ([["One."]], {})
    for field, columns in {"a.d": {"a": nested}, "a.element": {"a": [["x"]]}}.items():
        with refused(rf"a: expected a field '{field}' with text\. Received: 'a'; name"):
            documents(field, **columns)


def test_nothing_but_rows_has_fields(tmp_path, refused):
    for format, one in TEXT_FORMATS.items():
        if not one.rows:
            with refused(rf"Expected a format with fields, jsonl, .* Received: '{format}'"):
                list(read_documents([tmp_path / "a"], format, text_field="body"))


# Archives.

MEMBERS = {
    "./b/1.txt": b"One.\nTwo.",
    "b/.hidden": b"\0",
    "__MACOSX/b/._1.txt": b"\0",
    "a/" + "ä" * 120: b"Drei.\n\nVier.\n",
    "c.gz": gzip.compress(b"Five.\n"),
    "empty": b"",
}
IN_MEMBERS = [["One.", "Two."], ["Drei."], ["Vier."], ["Five."]]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_the_files_of_an_archive_are_read_one_after_the_other(tmp_path, refused, kind, pack):
    content = pack(archive(kind, MEMBERS))
    if kind == "zip" and pack is not bytes:
        with refused(r"a: expected text\. Received: a compressed zip archive; decompress it"):
            read(tmp_path / "a", content, "sentences")
        return
    assert read(tmp_path / "a", content, "sentences") == (IN_MEMBERS, {})
    assert spans_of([tmp_path / "a"], "sentences", 1) == [Span(str(tmp_path / "a"))]


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_every_format_is_read_from_archives(tmp_path, kind):
    texts = {"csv": b"text\nOne.\n", "jsonl": b'{"text": "One."}', "documents": b"One.\n"}
    for format, content in texts.items():
        packed = archive(kind, {"1": content, "2": content})
        assert read(tmp_path / "a", packed, format)[0] == [["One."]] * 2


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_what_is_no_corpus_is_left_out_of_archives(tmp_path, refused, kind):
    others = {
        "README.md": b"About.\n",
        "b/_SUCCESS": b"",
        "b/_temporary/0": b"Half.\n",
        # As Google's, whose special tokens come after 99 unused ones.
        "vocab.txt": b"[PAD]\n"
        + b"".join(b"[unused%d]\n" % n for n in range(99))
        + b"[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\n",
        "readme.gz": gzip.compress(b"About.\n"),
    }
    packed = archive(kind, {"a": b"One.\n"} | others | {"c": b"The README.\n"})
    documents, counts = read(tmp_path / "a", packed, "text")
    assert documents == [["One."], ["The README."]]
    assert counts == {"left_out_members": 5}
    with pytest.warns(UserWarning, match=r"a: files in it are left out as no corpus.*; unpack it"):
        check_files([tmp_path / "a"], "text", "strict", "text")
    (tmp_path / "a").write_bytes(archive(kind, others))
    with refused(r"a: expected text files in an archive\. Received: nothing but files left out"):
        check_files([tmp_path / "a"], "text", "strict", "text")


def test_old_tar_archives_have_no_magic_bytes(tmp_path):
    content = bytearray(archive("ustar", {"1": b"One.\n"}))
    content[257:265] = bytes(8)
    content[148:156] = b"%06o\0 " % (sum(content[:148]) + 8 * 32 + sum(content[156:512]))
    assert read(tmp_path / "a", bytes(content), "text") == ([["One."]], {})


def test_an_error_names_the_file_in_the_archive(tmp_path, refused):
    content = archive("tar", {"b.txt": b"One\xff"})
    with refused(r"a: b\.txt: expected UTF-8\. Received: an invalid byte at offset 3;"):
        read(tmp_path / "a", content, "text")
    for kind in ("tar", "zip"):
        nested = archive(kind, {"b.tar": archive("tar", MEMBERS)})
        with refused(r"a: b\.tar: expected text files in an archive\. Received: another archive;"):
            read(tmp_path / "a", nested, "text")
        damaged = archive(kind, {"b.gz": gzip.compress(b"One.\n")[:-3]})
        with refused(r"a: b\.gz: expected a whole gzip file\."):
            read(tmp_path / "a", damaged, "text")


def test_an_archive_cut_anywhere_is_refused(tmp_path, refused):
    whole = archive("ustar", {str(number): b"One.\n" * 211 for number in range(5)})
    end = len(whole.rstrip(b"\0"))
    for cut in range(512, end, 256):
        with refused(r"a: expected a whole tar archive\. Received: one that is cut or damaged"):
            read(tmp_path / "a", whole[:cut], "text")
    # A damaged header is not the end, and nothing is read behind it without a word.
    damaged = whole.replace(b"3\0", b"4\0", 1)
    for content in (damaged, whole + whole):
        with refused(r"a: expected a whole tar archive\."):
            read(tmp_path / "a", content, "text")
    zipped = archive("zip", MEMBERS)
    for cut in (40, len(zipped) - 30):
        with refused(r"a: expected a whole zip archive\."):
            read(tmp_path / "a", zipped[:cut], "text")


def test_a_zip_with_a_password_is_refused(tmp_path, refused):
    content = bytearray(archive("zip", {"a": b"One.\n"}))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    with refused(r"a: expected a zip archive that can be read without more\. Received: .*encrypt"):
        read(tmp_path / "a", bytes(content), "text")


# The table.


def test_the_docs_have_a_row_for_every_format():
    page = (ROOT / "docs" / "records.md").read_text()
    rows = page.split("| `--format` |")[1].split("\n\n")[0].split("\n")[2:]
    assert [row.split("`")[1] for row in rows] == list(TEXT_FORMATS)


@pytest.mark.parametrize("deduplicate", [False, True])
def test_a_parquet_file_without_any_rows_is_no_text(tmp_path, refused, deduplicate):
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([("text", pyarrow.string())])
    pyarrow.parquet.ParquetWriter(tmp_path / "e.parquet", schema).close()
    config = RecordsConfig(deduplicate=deduplicate)
    vocabulary = Vocabulary((*SPECIAL_TOKENS, "a"))
    with refused("Received: input files without a single word"):
        build_records(
            tmp_path / "e.parquet", vocabulary, tmp_path / "out", config, format="parquet"
        )
    assert not (tmp_path / "out").exists()
