import gzip
import os
import re
import time

import pytest

from tfrecords import read_documents
from tfrecords.documents import break_sentences, input_files


def read(tmp_path, content, format="sentences", errors="strict"):
    path = tmp_path / "text.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_documents([path], format, errors))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("One.\nTwo.\n\nThree.\n", [["One.", "Two."], ["Three."]]),
        ("One.\n\n\n\nTwo.", [["One."], ["Two."]]),
        ("\n\n\nOne.\n\n\n", [["One."]]),
        ("One.\n \t\nTwo.\n", [["One."], ["Two."]]),
        ("  One.\t\n", [["One."]]),
        ("\ufeffOne.\nTwo.\n", [["One.", "Two."]]),
        ("\ufeff\nOne.\n", [["One."]]),
        ("One.\r\nTwo.\r\n\r\nThree.\r\n", [["One.", "Two."], ["Three."]]),
        ("One.\rTwo.\r\r", [["One.\rTwo."]]),
        ("One.\u2028Two.\u2029Three.\x85Four.\x0bFive.\x0cSix.\x1cSeven.\n", 1),
        ("One\0.\nTwo.\n", [["One\0.", "Two."]]),
        ("", []),
        ("\n \n\r\n", []),
    ],
)
def test_one_sentence_per_line(tmp_path, content, expected):
    assert read(tmp_path, content) == ([[content.strip()]] if expected == 1 else expected)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("One is here. Two is\nthere. Three!\n", [["One is here.", "Two is there.", "Three!"]]),
        ("A heading\n\nOne is here. Two is there.\n", [["A heading", "One is here.", "Two is there."]]),
        ("One is here.\n\n\nTwo is there.\n", [["One is here."], ["Two is there."]]),
        ("One is here.\n\n\n\n\nTwo is there.\n\nThree.", [["One is here."], ["Two is there.", "Three."]]),
        ("\n\n\nOne is here.\n\n\n", [["One is here."]]),
        ("\ufeffOne is\r\nhere.\r\n\r\nTwo.\r\n", [["One is here.", "Two."]]),
        ("这是一支笔。那是一本书。\n", [["这是一支笔。", "那是一本书。"]]),
        ("\n\n \n", []),
        ("", []),
    ],
)
def test_running_text(tmp_path, content, expected):
    assert read(tmp_path, content, "text") == expected


@pytest.mark.parametrize("format", ["sentences", "text"])
def test_end_of_a_file_ends_a_document(tmp_path, format):
    for name, content in [("a", "One."), ("b", ""), ("c", "Two.\nThree."), ("d", "\n\n\nFour.")]:
        (tmp_path / name).write_text(content)
    files = [tmp_path / name for name in "abcd"]
    assert [" ".join(document) for document in read_documents(files, format)] == ["One.", "Two. Three.", "Four."]


@pytest.mark.parametrize("format", ["sentences", "text"])
def test_nothing_is_lost_or_empty(corpus, documents, format):
    read = list(read_documents([corpus], format))
    words = [word for document in read for sentence in document for word in sentence.split()]
    if format == "sentences":
        assert read == [[" ".join(sentence) for sentence in document] for document in documents]
    # One empty line is a paragraph's end in running text, so all is one document.
    assert words == [word for document in documents for sentence in document for word in sentence]
    assert all(document and all(document) for document in read)


@pytest.mark.parametrize(
    ("paragraph", "expected"),
    [
        ("See e.g. Dr. Smith. It is late!", ["See e.g. Dr. Smith.", "It is late!"]),
        ("It cost 3.50 dollars. Why? Because!", ["It cost 3.50 dollars.", "Why?", "Because!"]),
        ("彼は「はい。」と言った。次！？終わり。", ["彼は「はい。」と言った。", "次！？", "終わり。"]),
        ("यह है। वह है॥ और।", ["यह है।", "वह है॥", "और।"]),
        ("هل هو؟ نعم۔ لا.", ["هل هو؟", "نعم۔", "لا."]),
        ("no end", ["no end"]),
        ("", []),
        ("  \t ", []),
    ],
)
def test_break_sentences(paragraph, expected):
    assert break_sentences(paragraph) == expected


@pytest.mark.parametrize("paragraph", ["word " * 200_000, "a" * 1_000_000, "." * 200_000, "这是一支笔。" * 100_000])
def test_break_sentences_takes_linear_time(paragraph):
    # Less than a second each; an algorithm of quadratic time would need hours.
    start = time.monotonic()
    assert "".join(break_sentences(paragraph)).replace(" ", "") == paragraph.replace(" ", "")
    assert time.monotonic() - start < 30


@pytest.mark.parametrize(
    ("content", "offset"),
    [(b"\xff", 0), (b"One.\nTw\xc3\x28", 7), (b"One.\n\nTwo \xe4\xb8", 10), ("é\n".encode() + b"a\xed\xa0\x80", 4)],
)
def test_invalid_utf8_is_refused_with_its_offset(tmp_path, refused, content, offset):
    pattern = rf"text\.txt: expected UTF-8\. Received: an invalid byte at offset {offset}; convert .* --errors replace"
    with refused(pattern):
        read(tmp_path, content)


def test_offset_counts_the_byte_order_mark(tmp_path, refused):
    with refused(r"an invalid byte at offset 6;"):
        read(tmp_path, b"\xef\xbb\xbfOne\xff\n")


def test_invalid_utf8_can_be_replaced(tmp_path):
    assert read(tmp_path, b"On\xff.\nTwo\xc3\n", errors="replace") == [["On\ufffd.", "Two\ufffd"]]


def test_unknown_format_is_refused(tmp_path, refused):
    with refused(r"Expected a format among sentences, text\. Received: 'html'"):
        read(tmp_path, "One.", "html")


def test_unreadable_file_is_refused(tmp_path, refused):
    with refused(r"Expected a readable text file\. Received: .*none\.txt \(No such file"):
        list(read_documents([tmp_path / "none.txt"]))
    with refused(r"Expected a readable text file\. Received: .* \(Is a directory\)"):
        list(read_documents([tmp_path]))


def test_input_files_are_all_files_below_in_order(tmp_path):
    for name in ["b/z.txt", "b/a ä.txt", "b/.hidden", "a.txt", "c/d/e.txt", "c.txt"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    below = [tmp_path / name for name in ["b/a ä.txt", "b/z.txt"]]
    assert input_files([tmp_path / "b"]) == below
    assert input_files([str(tmp_path / "c.txt"), str(tmp_path / "b"), tmp_path / "c"]) == [
        tmp_path / "c.txt",
        *below,
        tmp_path / "c/d/e.txt",
    ]


def test_directory_with_something_else_in_it_is_refused(tmp_path, refused):
    (tmp_path / "a.txt").touch()
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    with refused(r"Expected text files in .*\. Received: .*lost, which is none"):
        input_files([tmp_path])


def test_a_file_named_twice_is_refused(tmp_path, refused):
    (tmp_path / "a.txt").touch()
    with refused(r"Expected each text file once\. Received: .*a\.txt"):
        input_files([tmp_path, tmp_path / "a.txt"])


def test_compressed_text_is_refused_by_its_name(tmp_path, refused):
    path = tmp_path / "a.txt"
    path.write_bytes(gzip.compress(b"One.\n"))
    with refused(r"Expected plain text\. Received: .*a\.txt, which is compressed \(gzip\)"):
        list(read_documents([path]))


def test_input_that_is_no_text_is_refused(tmp_path, refused):
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "fifo")
    for name, pattern in [
        ("none*.txt", "Expected a text file or a directory at {}. Received: no such file"),
        ("loop", "Expected a text file or a directory at {}. Received: no such file"),
        ("empty", "Expected text files. Received: {}, a directory without files"),
        ("fifo", "Expected a text file or a directory. Received: {}, which is neither"),
    ]:
        with refused(re.escape(pattern.format(tmp_path / name))):
            input_files([tmp_path / name])
    with refused(r"Expected at least one text file\. Received: none"):
        input_files([])
