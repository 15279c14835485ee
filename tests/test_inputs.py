import bz2
import collections
import gzip
import importlib
import io
import itertools
import json
import lzma
import os
import pathlib
import random
import re
import sys
import time

import pytest

from tfrecords import InputError, read_documents
from tfrecords.decompression import compression, opened
from tfrecords.inputs import input_files, spool
from tfrecords.text import spans
from tfrecords.text.formats import span_documents, spans_of
from tfrecords.text.spans import Span, line_blocks, span_groups

zstd = importlib.import_module(
    "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
)


def list_of_files(inputs):
    return list(input_files(inputs))


def compressed_zstd(content):
    return zstd.compress(content, options={zstd.CompressionParameter.checksum_flag: 1})


COMPRESSORS = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": compressed_zstd,
}
MAGIC_BYTES = {"gzip": 2, "bzip2": 5, "xz": 6, "zstd": 4}


def make(directory, *names):
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).touch()


# Files, directories and patterns.


def test_a_directory_stands_for_all_files_below_it_in_order(tmp_path):
    make(
        tmp_path,
        "b/z.txt",
        "b/a ä.txt",
        "b/.hidden",
        "b/.git/x.txt",
        "a.txt",
        "c/d/e.txt",
        "c.txt",
        "c-d/f.txt",
    )
    (tmp_path / "empty").mkdir()
    below = [tmp_path / name for name in ["b/a ä.txt", "b/z.txt"]]
    assert list_of_files([tmp_path / "b"]) == below
    assert list_of_files([str(tmp_path / "c.txt"), str(tmp_path / "b"), tmp_path / "c"]) == [
        tmp_path / "c.txt",
        *below,
        tmp_path / "c/d/e.txt",
    ]
    everything = ["a.txt", "b/a ä.txt", "b/z.txt", "c/d/e.txt", "c-d/f.txt", "c.txt"]
    assert list_of_files([tmp_path]) == [tmp_path / name for name in everything]


def test_a_hidden_file_is_read_where_it_is_named(tmp_path):
    make(tmp_path, ".hidden")
    assert list_of_files([tmp_path / ".hidden"]) == [tmp_path / ".hidden"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.txt", ["b.txt", "c.txt", "ä ö.txt"]),
        ("?.txt", ["b.txt", "c.txt"]),
        ("[ac].txt", ["c.txt"]),
        ("*", ["a/1.txt", "a/b/2.txt", "a/b/3.md", "b.txt", "c.txt", "ä ö.txt"]),
        ("**/*.txt", ["a/1.txt", "a/b/2.txt", "b.txt", "c.txt", "ä ö.txt"]),
        ("a/**", ["a/1.txt", "a/b/2.txt", "a/b/3.md"]),
        ("**/b*", ["a/b/2.txt", "a/b/3.md", "b.txt"]),
        ("ä ?.txt", ["ä ö.txt"]),
        ("literal[1].txt", None),
    ],
)
def test_a_pattern_stands_for_all_files_that_it_matches(tmp_path, pattern, expected):
    make(
        tmp_path,
        "c.txt",
        "b.txt",
        "ä ö.txt",
        "a/1.txt",
        "a/b/2.txt",
        "a/b/3.md",
        ".hidden.txt",
        "a/.hidden/4.txt",
    )
    if expected is None:  # a file of that very name
        make(tmp_path, pattern)
        expected = [pattern]
    assert list_of_files([tmp_path / pattern]) == [tmp_path / name for name in expected]


def test_a_link_to_a_file_is_a_file(tmp_path):
    make(tmp_path, "elsewhere/a.txt", "here/b.txt")
    (tmp_path / "here/link").symlink_to(tmp_path / "elsewhere/a.txt")
    assert list_of_files([tmp_path / "here"]) == [tmp_path / "here/b.txt", tmp_path / "here/link"]


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("none.txt", "Expected a text file or a directory at {}. Received: no such file."),
        ("none*.txt", "Expected text files. Received: {}, a pattern that matches nothing."),
        ("**/none", "Expected text files. Received: {}, a pattern that matches nothing."),
        (
            "loop",
            "Expected a text file or a directory. Received: {}, a symbolic link that leads "
            "nowhere.",
        ),
        (
            "dangling",
            "Expected a text file or a directory. Received: {}, a symbolic link that leads "
            "nowhere.",
        ),
        ("empty", "Expected text files. Received: {}, a directory without files."),
        ("fifo", "Expected a text file or a directory. Received: {}, which is neither."),
        ("f?fo", "fifo, which is neither."),
        ("dangl*", "dangling, a symbolic link that leads nowhere."),
        ("x" * 300, "Expected readable text files. Received: {} (File name too long)."),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, refused, name, pattern):
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "fifo")
    with refused(re.escape(pattern.format(tmp_path / name))):
        list_of_files([tmp_path / name])


@pytest.mark.parametrize("kind", ["fifo", "loop", "dangling", "directory"])
def test_a_directory_with_something_else_in_it_is_refused(tmp_path, refused, kind):
    make(tmp_path, "in/a.txt", "out/b.txt")
    odd = tmp_path / "in/odd"
    if kind == "fifo":
        os.mkfifo(odd)
    else:
        odd.symlink_to(
            {"loop": odd, "dangling": tmp_path / "nowhere", "directory": tmp_path / "out"}[kind]
        )
    with refused(
        re.escape(f"Expected text files in {tmp_path / 'in'}. Received: {odd}, which is none")
    ):
        list_of_files([tmp_path / "in"])


def test_a_file_named_twice_is_refused(tmp_path, refused):
    make(tmp_path, "a.txt", "b.txt")
    (tmp_path / "link").symlink_to("a.txt")
    file = tmp_path / "a.txt"
    for twice in [
        [file, file],
        [tmp_path / "*.txt", file],
        [file, tmp_path / "a*"],
        [tmp_path / "link", file],
        [tmp_path],
    ]:
        with refused(
            r"Expected each text file once\. Received: .*(a\.txt|link), which is .*(a\.txt|link); "
            r"name it once"
        ):
            list_of_files(twice)


def test_no_input_is_refused(refused):
    with refused(r"Expected at least one text file\. Received: none"):
        list_of_files([])


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_refused(tmp_path, refused):
    make(tmp_path, "a.txt", "d/b.txt")
    (tmp_path / "a.txt").chmod(0)
    with refused(r"Expected a readable text file\. Received: .*a\.txt \(Permission denied\)"):
        list_of_files([tmp_path / "a.txt"])
    (tmp_path / "d").chmod(0)
    try:
        with refused(
            r"Expected a directory that can be read\. Received: .*d \(Permission denied\)"
        ):
            list_of_files([tmp_path / "d"])
        with refused(r"Expected readable text files\. Received: .*b\.txt \(Permission denied\)"):
            list_of_files([tmp_path / "d/b.txt"])
    finally:
        (tmp_path / "d").chmod(0o700)


# Standard input.


def test_standard_input_is_copied_to_a_file(tmp_path, monkeypatch):
    content = "Ein Müller.\n".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    (tmp_path / "a").touch()
    files = input_files([tmp_path / "a", "-=3"])
    assert files == {tmp_path / "a": 1, pathlib.Path("-"): 3}
    assert spool(files, tmp_path / "spooled") == {tmp_path / "a": 1, tmp_path / "spooled": 3}
    assert (tmp_path / "spooled").read_bytes() == content


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_standard_input_may_be_compressed(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BytesIO(COMPRESSORS[kind](b"One.\n\nTwo.\n")))
    )
    files = spool(input_files("-"), tmp_path / "spooled")
    assert list(read_documents(files)) == [["One."], ["Two."]]


def test_without_standard_input_nothing_is_copied(tmp_path):
    files = {pathlib.Path("a"): 1, pathlib.Path("b-"): 2}
    assert spool(files, tmp_path / "spooled") == files
    assert not (tmp_path / "spooled").exists()


# Weights.


def test_an_input_may_have_a_weight(tmp_path):
    make(tmp_path, "de/1", "de/2", "tr/1", "b", "odd=2")
    weights = input_files([f"{tmp_path}/de/=3", tmp_path / "b", f"{tmp_path}/t*=2"])
    named = {str(file.relative_to(tmp_path)): weight for file, weight in weights.items()}
    assert named == {"de/1": 3, "de/2": 3, "b": 1, "tr/1": 2}
    # What is there by that name is that file.
    assert input_files([tmp_path / "odd=2"]) == {tmp_path / "odd=2": 1}
    assert input_files([f"{tmp_path}/odd=2=5"]) == {tmp_path / "odd=2": 5}


@pytest.mark.parametrize("weight", ["0", "-1", "1.5", "x", ""])
def test_a_weight_is_a_whole_number(tmp_path, refused, weight):
    make(tmp_path, "a")
    said = (
        rf"weight of .*a that is a whole number from 1 to 9,999, .* Received: {weight or 'none'}\."
    )
    with refused(said):
        input_files([f"{tmp_path}/a={weight}"])


def test_spans_have_the_weight_of_their_file_and_groups_have_one(tmp_path):
    make(tmp_path, "a", "b", "c", "d")
    files = input_files([f"{tmp_path}/a", f"{tmp_path}/b=2", f"{tmp_path}/c=2", f"{tmp_path}/d"])
    groups = list(span_groups(spans_of(files, "sentences")))
    assert [group.weight for group in groups] == [1, 2, 1]
    assert [len(group.spans) for group in groups] == [1, 2, 1]


# What is no corpus.


def test_what_is_no_corpus_is_left_out_of_a_directory_and_named(tmp_path):
    texts = ["a.txt", "b/part-0.txt", "b/readme-notes.txt", "b/_a.txt", "models/config.json"]
    others = ["README.md", "b/_SUCCESS", "b/x.crc", "b/_temporary/0", "c/manifest.json"]
    others += ["c/train-0.tfrecord", "c/vocab.txt", "d/config.json", "d/model.safetensors"]
    others += ["d/checkpoints/1/x", "e/words.txt"]
    make(tmp_path, *texts, *others)
    (tmp_path / "e/words.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    expected = sorted(tmp_path / name for name in texts)
    for path in (tmp_path, f"{tmp_path}/*"):
        with pytest.warns(UserWarning, match=r"left out as no corpus: .*README\.md.* and 8 more;"):
            assert sorted(list_of_files(path)) == expected
    # Who names a file has it read.
    for name in ("README.md", "e/words.txt", "c/manifest.json"):
        assert list_of_files([tmp_path / name]) == [tmp_path / name]


def test_a_directory_of_nothing_but_others_is_refused(tmp_path, refused):
    make(tmp_path, "README", "_SUCCESS")
    with refused(
        r"Received: .*, with nothing but .*README, .*_SUCCESS, which looks like no corpus"
    ):
        list_of_files(tmp_path)


# Compression.


@pytest.mark.parametrize("name", ["a.txt", "a.gz", "a.bz2", "no extension"])
@pytest.mark.parametrize("kind", [*COMPRESSORS, None])
def test_compression_is_told_by_the_first_bytes(tmp_path, kind, name):
    content = b"One.\n\n" + b"".join(b"%d is a number.\n" % number for number in range(50_021))
    path = tmp_path / name
    path.write_bytes(COMPRESSORS[kind](content) if kind else content)
    with open(path, "rb") as file:
        assert compression(file) == kind
        assert file.tell() == 0
    with opened(path) as (text, raw):
        assert text.read(7) == content[:7]
        assert 0 < raw.tell() <= path.stat().st_size
        assert text.read() == content[7:]
        assert raw.tell() == path.stat().st_size


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_members_one_after_the_other_are_one_text(tmp_path, kind):
    parts = [b"One", b".\nTwo.\n", b"", b"\nThree.\n" * 30_011]
    (tmp_path / "a").write_bytes(b"".join(map(COMPRESSORS[kind], parts)))
    with opened(tmp_path / "a") as (text, _):
        assert text.read() == b"".join(parts)


@pytest.mark.parametrize("kind", ["bzip2", "xz"])
def test_zeros_between_and_behind_members_are_padding(tmp_path, kind):
    one, two = COMPRESSORS[kind](b"One.\n"), COMPRESSORS[kind](b"Two.\n")
    (tmp_path / "a").write_bytes(one + bytes(100_000) + two + bytes(1000))
    assert list(read_documents([tmp_path / "a"])) == [["One.", "Two."]]


@pytest.mark.parametrize("content", [b"BZhang is here.\n", b"BZh\n", b"P", b""])
def test_text_that_looks_a_little_compressed_is_text(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    assert list(read_documents([tmp_path / "a"])) == [[content.decode().strip()]] * bool(content)


def outcome(path):
    """The documents of a file, or None if it is refused, which names it in one line."""
    try:
        return list(read_documents([path]))
    except InputError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)
        return None


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_an_archive_cut_anywhere_is_refused(tmp_path, refused, kind):
    draw = random.Random(5)
    whole = COMPRESSORS[kind]("".join(f"{draw.random()}\n" for _ in range(101)).encode())
    path = tmp_path / "cut.txt"
    for end in [
        *range(MAGIC_BYTES[kind], 40),
        *range(40, len(whole), 29),
        *range(len(whole) - 13, len(whole)),
    ]:
        path.write_bytes(whole[:end])
        with refused(
            rf"cut\.txt: expected a whole {kind} file\. Received: one that is cut or damaged "
            r"\(.+\); fetch"
        ):
            list(read_documents([path]))


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_a_flipped_bit_is_noticed(tmp_path, kind):
    # Of two members, so that the second one is not dropped when its first bytes are damaged.
    whole = COMPRESSORS[kind](b"One is here.\n") + COMPRESSORS[kind](b"\nTwo is there.\n")
    path = tmp_path / "flipped.txt"
    outcomes = []
    for index in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[index // 8] ^= 1 << index % 8
        path.write_bytes(flipped)
        outcomes.append(outcome(path))
    # Some bits mean nothing, such as the time in the header of gzip.
    assert all(documents in (None, [["One is here."], ["Two is there."]]) for documents in outcomes)
    assert outcomes.count(None) > 0.6 * len(outcomes)


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_what_follows_an_archive_is_not_dropped_in_silence(tmp_path, refused, kind):
    (tmp_path / "a.txt").write_bytes(COMPRESSORS[kind](b"One.\n") + b"Two.\n")
    with refused(rf"a\.txt: expected a whole {kind} file"):
        list(read_documents([tmp_path / "a.txt"]))


def test_zstd_with_the_longest_windows_is_read(tmp_path):
    content = b"One is here.\n" * 1000
    for log in (28, 30):
        options = {zstd.CompressionParameter.window_log: log}
        packer = zstd.ZstdCompressor(options=options)
        (tmp_path / "a").write_bytes(packer.compress(content) + packer.flush())
        assert len(next(read_documents([tmp_path / "a"]))) == 1000


# Spans.


def documents_of(some_spans, format, errors="strict"):
    counts = collections.Counter()
    return [
        document for span in some_spans for document in span_documents(span, format, errors, counts)
    ]


WHITE = [
    "",
    "",
    "",
    " ",
    "\t ",
    "\u00a0",
    "\r",
    "\ufeff",
    " \u3000\r",
    "\x0b",
    "\u2028",
    "\ufeff\r",
]


def random_text(draw, format):
    def line():
        words = [
            draw.choice(
                ["One", "Müller.", "\ufeffa", "is it?", "中文。", "x\ry", "\u2028b", "é" * 13]
            )
            for _ in range(7)
        ]
        text = " ".join(words[: draw.randint(1, 7)])
        return (
            json.dumps({"text": text}, ensure_ascii=draw.random() < 0.5)
            if format == "jsonl"
            else text
        )

    whites = [*([" ", "", "\r"] if format == "jsonl" else WHITE)]
    if draw.random() < 0.1:
        whites = []  # not one blank line
    lines = [
        draw.choice(whites) if whites and draw.random() < 0.5 else line()
        for _ in range(draw.randint(0, 31))
    ]
    lines = draw.choice([[], ["", ""]]) + lines + draw.choice([[], ["", "", ""]])
    return ("\n".join(lines) + draw.choice(["", "\n"])).encode()


def plain_documents(content):
    """What `sentences` means, in few words: only a line feed ends a line, and a white one ends a
    document; a line of a byte order mark alone is neither text nor white."""
    lines = [line.strip() for line in content.decode().split("\n")]
    found = [
        [line.removeprefix("\ufeff").strip() for line in group if line != "\ufeff"]
        for full, group in itertools.groupby(lines, bool)
        if full
    ]
    return [document for document in found if document]


@pytest.mark.parametrize("line_bytes", [11, 61, 1 << 20])
@pytest.mark.parametrize("format", ["sentences", "text", "jsonl"])
def test_documents_of_spans_are_those_of_the_file(tmp_path, monkeypatch, format, line_bytes):
    monkeypatch.setattr(spans, "LINE_BYTES", line_bytes)
    draw = random.Random(line_bytes)
    path = tmp_path / "text"
    numbers = collections.Counter()
    for _ in range(61):
        content = random_text(draw, format)
        path.write_bytes(content)
        whole = documents_of([Span(str(path))], format)
        if format == "sentences" and line_bytes == 1 << 20:
            assert whole == plain_documents(content)
        for span_bytes in [1, 2, 7, 100, len(content) - 1, len(content)]:
            parts = spans_of([path], format, max(1, span_bytes))
            assert documents_of(parts, format) == whole, (content, span_bytes)
            ends = [0, *(part.end for part in parts)]
            assert [part.start for part in parts] == ends[:-1]
            assert ends[-1] in (None, len(content))
            numbers[span_bytes] += len(parts)
    assert numbers[1] >= numbers[2] > numbers[7] > numbers[100] > 61


def test_spans_are_whole_documents_in_full(tmp_path):
    (tmp_path / "a").write_bytes(b"One.\nTwo.\n\n\nThree.\n\nFour.\n")
    (tmp_path / "b").write_bytes(b"Five.\n\nSix.")
    (tmp_path / "c").touch()
    a, b, c = (str(tmp_path / name) for name in "abc")
    assert spans_of([tmp_path / "a", b, c], "sentences", 1) == [
        Span(a, 0, 12), Span(a, 12, 20), Span(a, 20, 26),
        Span(b, 0, 7), Span(b, 7, 11), Span(c),
    ]  # fmt: skip
    assert spans_of([a], "sentences", 12) == [Span(a, 0, 20), Span(a, 20, 26)]
    assert spans_of([a], "sentences", 10) == [Span(a, 0, 12), Span(a, 12, 26)]
    assert spans_of([a], "sentences", 26) == [Span(a)]
    assert spans_of([a], "text", 1) == [Span(a, 0, 12), Span(a, 12, 26)]
    assert spans_of([a], "jsonl", 8) == [Span(a, 0, 12), Span(a, 12, 26)]
    assert [span.bytes for span in spans_of([a, c], "sentences", 1)] == [12, 8, 6, 0]
    assert [str(span) for span in (Span("a"), Span("a", 0, 1234), Span("a", 5))] == [
        "a", "a from 0 to 1,234", "a from 5 to its end"
    ]  # fmt: skip


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_a_compressed_file_is_one_span(tmp_path, kind):
    (tmp_path / "a").write_bytes(COMPRESSORS[kind](b"One.\n\nTwo.\n\n" * 101))
    parts = spans_of([tmp_path / "a"], "sentences", 1)
    assert parts == [Span(str(tmp_path / "a"))]
    assert documents_of(parts, "sentences") == [["One."], ["Two."]] * 101


@pytest.mark.parametrize("format", ["sentences", "text", "jsonl"])
@pytest.mark.parametrize(
    "content", [b"One is here.\n" * 400_000, b"x" * 5_000_000, b" " * 5_000_000, b"a\n\n" * 100_000]
)
def test_spans_take_linear_time(tmp_path, format, content):
    # Less than a second each; looking through the rest of the file again for every span would take
    # hours.
    (tmp_path / "a").write_bytes(content)
    start = time.monotonic()
    assert spans_of([tmp_path / "a"], format, 100)[-1].end == len(content)
    assert time.monotonic() - start < 30


# Blocks of lines.


def blocks_of(tmp_path, content, start=0, end=None):
    (tmp_path / "text").write_bytes(content)
    with open(tmp_path / "text", "rb") as file:
        return list(line_blocks(file, Span(str(tmp_path / "text"), start, end)))


def test_long_lines_come_in_parts_in_full(tmp_path, monkeypatch):
    monkeypatch.setattr(spans, "LINE_BYTES", 16)
    assert blocks_of(tmp_path, b"short\nabc def ghi jkl m no\nend\nof it") == [
        (0, b"short\n", 0), (6, b"abc def ghi jkl ", 1), (22, b"m no\n", 2),
        (27, b"end\n", 0), (31, b"of it", 0),
    ]  # fmt: skip
    # At a tab; a line of 16 bytes with its end is whole, one of 17 is not.
    assert blocks_of(tmp_path, b"abc\tdefghijklmno\n") == [
        (0, b"abc\t", 1),
        (4, b"defghijklmno\n", 2),
    ]
    assert blocks_of(tmp_path, b"abc\tdefghijklmn\nb") == [
        (0, b"abc\tdefghijklmn\n", 0),
        (16, b"b", 0),
    ]
    # Without white space where a character begins, of 1 to 4 bytes.
    for character, first in [("x", 15), ("é", 7), ("中", 5), ("👍", 3)]:
        size = len(character.encode())
        assert blocks_of(tmp_path, (character * (first + 2)).encode()) == [
            (0, (character * first).encode(), 1), (first * size, (character * 2).encode(), 2)
        ]  # fmt: skip
    # What is no UTF-8 is cut as well.
    assert blocks_of(tmp_path, b"\x80" * 20) == [(0, b"\x80" * 12, 1), (12, b"\x80" * 8, 2)]


def test_a_span_ends_where_it_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(spans, "LINE_BYTES", 16)
    content = b"a\n" * 10 + b"x" * 40 + b"\n" + b"b\n" * 10
    assert blocks_of(tmp_path, content, 18, 65) == [
        (18, b"a\n", 0), (20, b"x" * 15, 1), (35, b"x" * 15, 2),
        (50, b"x" * 10 + b"\n", 3), (61, b"b\nb\n", 0),
    ]  # fmt: skip


@pytest.mark.parametrize("white", [" ", "\t", "\r", "\u00a0", "\u3000"])
def test_a_long_white_line_ends_a_document_once(tmp_path, monkeypatch, white):
    monkeypatch.setattr(spans, "LINE_BYTES", 16)
    (tmp_path / "a").write_text(f"One.\n{white * 101}\nTwo.\n", newline="")
    assert list(read_documents([tmp_path / "a"])) == [["One."], ["Two."]]
    # One white line ends a paragraph, two a document.
    assert list(read_documents([tmp_path / "a"], "text")) == [["One.", "Two."]]
    (tmp_path / "a").write_text(f"One.\n{white * 101}\n{white * 53}\nTwo.\n", newline="")
    assert list(read_documents([tmp_path / "a"], "text")) == [["One."], ["Two."]]


@pytest.mark.parametrize("white", [" ", "\t", "\u00a0", "\u3000"])
@pytest.mark.parametrize("format", ["sentences", "text"])
def test_white_space_inside_a_long_line_ends_nothing(tmp_path, monkeypatch, white, format):
    monkeypatch.setattr(spans, "LINE_BYTES", 16)
    (tmp_path / "a").write_text(f"{white * 53}One{white * 101}two{white * 53}\nthree")
    (document,) = read_documents([tmp_path / "a"], format)
    assert " ".join(document).split() == ["One", "two", "three"]


def test_blocks_are_the_file_wherever_its_lines_stand(tmp_path, monkeypatch):
    monkeypatch.setattr(spans, "LINE_BYTES", 31)
    draw = random.Random(7)
    for _ in range(101):
        lines = [
            "".join(draw.choices("ab é中👍", k=draw.choice([3, 29, 31, 40, 200]))) + "."
            for _ in range(11)
        ]
        lines[4] = " " * draw.choice([30, 31, 200]) + "x"
        content = ("\n".join(lines) + draw.choice(["", "\n"])).encode()
        ways = set()
        for lead in (0, 1, 17, 30):
            led = b"x" * lead + b"\n" + content
            position, line_part = 0, 0
            parts = []
            for offset, block, part in blocks_of(tmp_path, led):
                assert not led[position:offset].strip(
                    b" "
                )  # white parts of long lines are left out
                assert led[offset:].startswith(block)
                assert len(block) <= 31
                assert block.decode().strip() or not part
                assert part in ((0, 1) if line_part == 0 else (line_part + 1,))
                line_part = 0 if block.endswith(b"\n") else part
                position = offset + len(block)
                parts += [(offset - lead, block, part)] * (part > 0)
            assert not led[position:].strip(b" ")
            ways.add(tuple(parts))
        assert len(ways) == 1


def test_memory_for_long_words_is_bounded(tmp_path, monkeypatch):
    # Words of more than half a part: reading must not run ahead of what is given out.
    monkeypatch.setattr(spans, "LINE_BYTES", 1000)
    (tmp_path / "a").write_bytes((b"x" * 599 + b" ") * 503)
    with open(tmp_path / "a", "rb", buffering=0) as file:
        for offset, block, _ in line_blocks(file, Span("a")):
            assert block == b"x" * 599 + b" "
            assert file.tell() <= offset + 1000
    assert offset == 502 * 600


def test_small_spans_share_a_group(tmp_path):
    sizes = [3, 5, 0, 7, 31, 2, 2]
    for number, size in enumerate(sizes):
        (tmp_path / f"{number}").write_bytes(b"x" * size)
    some_spans = [Span(str(tmp_path / f"{number}")) for number in range(len(sizes))]
    found = list(span_groups(some_spans, 11))
    assert [[sizes[some_spans.index(span)] for span in group.spans] for group in found] == [
        [3, 5, 0],
        [7],
        [31],
        [2, 2],
    ]
    assert [group.bytes for group in found] == [8, 7, 31, 4]
    assert str(found[0]) == f"{tmp_path / '0'} to {tmp_path / '2'}"
    assert str(found[1]) == f"{tmp_path / '3'}"
    assert list(span_groups([])) == []
