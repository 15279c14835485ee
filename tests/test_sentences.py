import argparse
import bz2
import collections
import csv
import decimal
import json
import pydoc_data.topics
import random
import re
import sys
import time

import numpy as np
import nupunkt
import pytest
import tensorflow as tf

from tfrecords import Tokenizer, Vocabulary, read_documents
from tfrecords.sentences import break_sentences
from tfrecords.text import running_text, spans
from tfrecords.text.formats import TEXT_FORMATS, span_documents, spans_of
from tfrecords.text.spans import Span
from tfrecords.vocabulary import SPECIAL_TOKENS


def read(tmp_path, content, format="sentences", errors="strict"):
    path = tmp_path / "text.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_documents([path], format, errors))


def read_counted(tmp_path, content, format="sentences", errors="strict"):
    """The documents, and what was counted but for the bytes."""
    path = tmp_path / "text.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    counts = collections.Counter()
    found = list(span_documents(Span(str(path)), format, errors, counts))
    return found, {name: count for name, count in counts.items() if count and name != "bytes_read"}


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
        (
            "A heading\n\nOne is here. Two is there.\n",
            [["A heading", "One is here.", "Two is there."]],
        ),
        ("One is here.\n\n\nTwo is there.\n", [["One is here."], ["Two is there."]]),
        (
            "One is here.\n\n\n\n\nTwo is there.\n\nThree.",
            [["One is here."], ["Two is there.", "Three."]],
        ),
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
    assert [" ".join(document) for document in read_documents(files, format)] == [
        "One.",
        "Two. Three.",
        "Four.",
    ]


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
        (
            "彼は「はい。」と言った。次！？終わり。",
            ["彼は「はい。」と言った。", "次！？", "終わり。"],
        ),
        ("यह है। वह है॥ और।", ["यह है।", "वह है॥", "और।"]),
        ("هل هو؟ نعم۔ لا.", ["هل هو؟", "نعم۔", "لا."]),
        ("គាត់ទៅ។ នាងមក៕ទៅ", ["គាត់ទៅ។", "នាងមក៕", "ទៅ"]),
        ("သူသွားသည်။သူမလာသည်။", ["သူသွားသည်။", "သူမလာသည်။"]),
        ("ཀ ᠮᠣᠩ᠃ ᠭᠣᠯ", ["ཀ ᠮᠣᠩ᠃", "ᠭᠣᠯ"]),
        ("ሰላም። ነው፧ አዎ።", ["ሰላም።", "ነው፧", "አዎ።"]),
        ("円周率は３．１４です．終わり", ["円周率は３．１４です．", "終わり"]),
        ("他说：《好。》然后走了。对", ["他说：《好。》然后走了。", "对"]),
        ("Really‼ Yes⁉ “So.” Then", ["Really‼", "Yes⁉", "“So.”", "Then"]),
        ("no end", ["no end"]),
        ("", []),
        ("  \t ", []),
    ],
)
def test_break_sentences(paragraph, expected):
    assert break_sentences(paragraph) == expected


@pytest.mark.parametrize(
    "sentences",
    [
        ["Am 3. Mai kam Dr. Huber um 8 Uhr.", "Das war gut, bzw. nicht schlecht.", "Gut."],
        ["Sie kam am 4. April.", "Er wohnt im 2. Stock, z. B. im 19. Jahrhundert.", "Vgl. Abb. 3."],
        ["Er kaufte Brot usw. und ging.", "Er kaufte Brot usw.", "Dann ging er.", "Es war 1990."],
        ["Mme Martin est partie.", "La Sra. López y la Dra. Ruiz.", "Los EE. UU. ganaron."],
        ["Il sig. Rossi parla.", "Dhr. Jansen kwam.", "Zie blz. 12.", "Mieszka przy ul. Długiej."],
        ["Přišel 3. května ráno.", "To je např. dobré.", "Se f.eks. her.", "Han kom den 3. maj."],
        ["Hän tuli 3. toukokuuta.", "Se on esim. hyvä.", "Bkz. sayfa.", "См. стр. 12.", "Да."],
        ["Он купил хлеб и т. д. и ушёл.", "Пришли А. С. Пушкин и др. поэты.", "Ул. Ленина."],
    ],
)
def test_abbreviations_and_dates_of_other_languages(sentences):
    assert break_sentences(" ".join(sentences)) == sentences


def test_english_is_broken_as_nupunkt_breaks_it():
    # Real English: the documentation of modules, with numbers, initials and abbreviations.
    texts = [module.__doc__ for module in (argparse, collections, csv, decimal, random, re)]
    texts += ["She is 42. April came. It was I. The end, no. It was May 3. See Fig. 2. Then go."]
    texts += [pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)[:30]]
    number = 0
    for text in texts:
        for paragraph in text.split("\n\n"):
            paragraph = " ".join(paragraph.split())
            expected = [sentence.strip() for sentence in nupunkt.sent_tokenize(paragraph)]
            if paragraph.isascii():
                assert break_sentences(paragraph) == expected
                number += len(expected)
    assert number > 300


@pytest.mark.parametrize(
    "paragraph", ["word " * 200_000, "a" * 1_000_000, "." * 200_000, "这是一支笔。" * 100_000]
)
def test_break_sentences_takes_linear_time(paragraph):
    # Less than a second each; an algorithm of quadratic time would need hours.
    start = time.monotonic()
    assert "".join(break_sentences(paragraph)).replace(" ", "") == paragraph.replace(" ", "")
    assert time.monotonic() - start < 30


@pytest.mark.parametrize(
    ("content", "offset"),
    [
        (b"\xff", 0),
        (b"One.\nTw\xc3\x28", 7),
        (b"One.\n\nTwo \xe4\xb8", 10),
        ("é\n".encode() + b"a\xed\xa0\x80", 4),
    ],
)
def test_invalid_utf8_is_refused_with_its_offset(tmp_path, refused, content, offset):
    pattern = (
        rf"text\.txt: expected UTF-8\. Received: an invalid byte at offset {offset}; convert .* "
        r"--errors replace"
    )
    with refused(pattern):
        read(tmp_path, content)


def test_offset_counts_the_byte_order_mark(tmp_path, refused):
    with refused(r"an invalid byte at offset 6;"):
        read(tmp_path, b"\xef\xbb\xbfOne\xff\n")


def test_invalid_utf8_can_be_replaced(tmp_path):
    assert read(tmp_path, b"On\xff.\nTwo\xc3\n", errors="replace") == [["On\ufffd.", "Two\ufffd"]]


def test_what_was_replaced_is_counted(tmp_path):
    # Not what was U+FFFD before; Python puts one for every longest beginning of a character.
    content = "a\ufffdb\n".encode() + b"c\xffd\xe4\xb8e\xf0\x9f\n\n\xc3"
    expected = [["a\ufffdb", "c\ufffdd\ufffde\ufffd"], ["\ufffd"]]
    assert read_counted(tmp_path, content, errors="replace") == (
        expected,
        {"replaced_characters": 4},
    )
    assert read_counted(tmp_path, "a\ufffdb\n", errors="replace") == ([["a\ufffdb"]], {})
    assert read_counted(tmp_path, "a\ufffdb\n", errors="strict") == ([["a\ufffdb"]], {})


@pytest.mark.parametrize("format", ["sentences", "text", "jsonl"])
def test_the_offset_is_that_in_the_file(tmp_path, refused, format):
    # Behind the first block of a large file, in a later span, and in an archive.
    line = json.dumps({"text": "word " * 5000}).encode() + b"\n\n\n"
    content = bytearray(line * 83)
    offset = 61 * len(line) + 13
    content[offset] = 0xFF
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    parts = spans_of([path], format, 100_000)
    (broken,) = (span for span in parts if span.start <= offset < span.end)
    assert len(parts) > 15
    assert broken.start > 1 << 20
    pattern = rf"text\.txt: expected UTF-8\. Received: an invalid byte at offset {offset:,};"
    for span in [broken, Span(str(path))]:
        with refused(pattern):
            list(span_documents(span, format, "strict", collections.Counter()))
    with refused(pattern):
        read(tmp_path, bz2.compress(content, 1), format)


def test_the_offset_is_that_in_a_long_line(tmp_path, refused, monkeypatch):
    monkeypatch.setattr(spans, "LINE_BYTES", 16)
    for offset in range(40):
        content = bytearray(b"one two three four five six seven eight\nnine\n")
        content[offset] = 0xFF
        with refused(rf"an invalid byte at offset {offset};"):
            read(tmp_path, bytes(content))


def test_unknown_format_or_errors_are_refused(tmp_path, refused):
    with refused(rf"Expected a format among {', '.join(TEXT_FORMATS)}\. Received: 'html'"):
        read(tmp_path, "One.", "html")
    with refused(r"Expected errors among strict, replace\. Received: 'ignore'"):
        read(tmp_path, "One.", errors="ignore")


def test_a_file_that_is_not_there_is_refused(tmp_path, refused):
    for format in ["sentences", "text", "jsonl"]:
        with refused(r"Expected a readable text file\. Received: .*none\.txt \(No such file"):
            list(read_documents([tmp_path / "none.txt"], format))
        with refused(r"Expected a readable text file\. Received: .* \(Is a directory\)"):
            list(read_documents([tmp_path], format))


# Characters that are not seen.

PLAIN = ["ab cb\nabc\n\nb a\nc ab\n", "ab cb abc\n\n\nb a\nc ab"]


@pytest.mark.parametrize("text", PLAIN)
@pytest.mark.parametrize("format", ["sentences", "text", "jsonl"])
@pytest.mark.parametrize(
    ("clean", "odd"),
    [
        ("\n", "\r\n"),
        ("\nc", "\n\ufeffc"),
        ("\n", " \x85\u2028\n"),
        (" ", "\r"),
        (" ", " \r "),
        (" ", "\u2028"),
        (" ", "\u2029"),
        (" ", "\x85 "),
        (" ", "\x0b \x0c"),
        (" ", "\x1c \x1d \x1e"),
        ("b", "\0b"),
        ("b", "b\0\x01\x7f"),
        ("b", "\ufeffb"),
        ("b", "b\u200b\u00ad"),
    ],
)
def test_odd_characters_change_no_token_and_end_no_line(tmp_path, text, format, clean, odd):
    tokenizer = Tokenizer(Vocabulary((*SPECIAL_TOKENS, "a", "b", "c", "##a", "##b", "##c")))

    def tokens(mark="", new=clean):
        content = text.replace(clean, new)
        if format == "jsonl":
            content = "".join(
                json.dumps({"text": part.replace(clean, new)}) + "\n" for part in text.split("\n\n")
            )
        ids = (
            tokenizer(tf.constant(document)).to_list()
            for document in read(tmp_path, mark + content, format)
        )
        return [[sentence for sentence in document if sentence] for document in ids]

    expected = tokens()
    ids = [index for document in expected for sentence in document for index in sentence]
    assert ids == [5, 9, 7, 9, 5, 9, 10, 6, 5, 7, 5, 9]
    assert tokens(new=odd) == expected
    assert tokens("\ufeff", odd) == expected


# What is very long.


@pytest.mark.parametrize("mark", ["\ufeff", "\ufeff\r", "\ufeff \t"])
def test_a_line_of_a_byte_order_mark_alone_is_neither_text_nor_an_empty_line(tmp_path, mark):
    path = tmp_path / "a"

    def documents(text, format="sentences"):
        path.write_text(text, newline="")
        return list(read_documents([path], format))

    one, two, three = ["One.", "Two."], ["Three."], [["One."], ["Two."]]
    assert documents(f"{mark}\n\ufeffOne.\n{mark}\nTwo.\n\n{mark}\nThree.\n{mark}") == [one, two]
    assert documents(f"One.\n\n{mark}\n\nTwo.") == three
    # In running text it is not the second of two empty lines, and empty lines around it do not add
    # up to two.
    for between in (f"{mark}\n", f"\n{mark}\n", f"\n{mark}\n\n"):
        assert documents(f"One.\n{between}Two.\n", "text") == [one]
    assert documents(f"One.\n\n\n{mark}\nTwo.\n", "text") == three
    text = json.dumps({"text": f"One.\n{mark}\nTwo."})
    assert documents(text, "jsonl") == [one]
    assert documents(mark) == documents(mark, "text") == []


def test_long_documents_are_cut_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(running_text, "_DOCUMENT_CHARACTERS", 10)
    lines = "aaaa\nbbbb\ncccc\ndddd\n\neeee\nffff\ngggg\n\nhhhh\niiiiiiiiiiii\njjjjjjjjjjjj\nk\n"
    expected = [
        ["aaaa", "bbbb", "cccc"],
        ["dddd"],
        ["eeee", "ffff", "gggg"],
        ["hhhh", "iiiiiiiiiiii"],
        ["jjjjjjjjjjjj"],
        ["k"],
    ]
    assert read_counted(tmp_path, lines) == (expected, {"cut_documents": 3})
    # The same as paragraphs of running text, and as lines of JSON.
    text = "".join(line + "\n\n" if line else "\n" for line in lines.split("\n"))
    assert read_counted(tmp_path, text, "text") == (expected, {"cut_documents": 3})
    objects = "".join(json.dumps({"text": part}) + "\n" for part in lines.split("\n\n"))
    assert read_counted(tmp_path, objects, "jsonl") == (expected, {"cut_documents": 3})


def test_long_paragraphs_are_broken_as_they_grow(tmp_path, monkeypatch):
    # A sentence goes on where a part of the paragraph ended, so the sentences do not depend on the
    # limit.
    draw = random.Random(3)
    words = ["river", "mill", "stone", "water", "miller", "counts", "passes,", "the"]
    paragraphs = [
        [
            " ".join([draw.choice(words).title(), *draw.choices(words, k=draw.randint(1, 9))])
            + draw.choice(".!?")
            for _ in range(29)
        ]
        for _ in range(5)
    ]
    text = "\n\n".join(
        re.sub(" ", lambda _: draw.choice(" \n"), " ".join(paragraph)) for paragraph in paragraphs
    )
    expected = [[sentence for paragraph in paragraphs for sentence in paragraph]]
    assert read(tmp_path, text, "text") == expected
    for limit in [100, 211, 1009]:
        monkeypatch.setattr(running_text, "_PARAGRAPH_CHARACTERS", limit)
        assert read(tmp_path, text, "text") == expected


def test_a_paragraph_without_a_full_stop_takes_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(running_text, "_PARAGRAPH_CHARACTERS", 100)
    sizes = []
    monkeypatch.setattr(
        running_text,
        "_breaker",
        lambda: lambda text: sizes.append(len(text)) or break_sentences(text),
    )
    text = "One is here. " + "word word\n" * 1009
    (document,) = read(tmp_path, text, "text")
    assert " ".join(document).split() == text.split()
    # Without a bound the last sentence would be looked through again with every line.
    assert max(sizes) < 2 * 100 + 3 * len("word word ")
    assert sum(sizes) < 3 * len(text)


# JSON lines.


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"text": "One is here. Two is\\nthere."}\n', [["One is here.", "Two is", "there."]]),
        (
            '{"text": "One."}\n{"id": 7, "text": "Two.\\n\\n\\nThree."}',
            [["One."], ["Two.", "Three."]],
        ),
        ('\ufeff{"text": "One."}\r\n\r\n \n{"text": "Two."}\r\n', [["One."], ["Two."]]),
        ('{"text": ""}\n{"text": " \\n "}\n{"text": "One."}\n', [["One."]]),
        ('{"text": "\\ud83d\\udc4d \\u00e9\\r\\nTwo"}\n', [["👍 é", "Two"]]),
        ('{"text": "One\u2028is\\u2028here"}\n', [["One\u2028is\u2028here"]]),
        ("", []),
        ("\n \n", []),
    ],
)
def test_json_lines(tmp_path, content, expected):
    assert read(tmp_path, content, "jsonl") == expected


@pytest.mark.parametrize(
    ("line", "pattern"),
    [
        ("{", r"expected a line with a JSON object\. Received: Expecting property name"),
        ("One is here.", r"expected a line with a JSON object\. Received: Expecting value"),
        (
            '{"text": "One."} {"text": "Two."}',
            r"expected a line with a JSON object\. Received: Extra data",
        ),
        ('{"a":[' + "[" * 100_000, r"expected a line with a JSON object\. Received: .*recursion"),
        (
            '{"id": ' + "9" * 5000 + "}",
            r"expected a line with a JSON object\. Received: Exceeds the limit",
        ),
        ('{"text": 7}', r"expected a string in the field 'text'\. Received: a int;"),
        ('{"text": ["One"]}', r"expected a string in the field 'text'\. Received: a list;"),
        ('["text"]', r"expected a line with a JSON object\. Received: a JSON array;"),
        ('"text"', r"expected a line with a JSON object\. Received: a str\."),
    ],
    ids=["cut", "prose", "two", "deep", "digits", "number", "strings", "list", "string"],
)
def test_a_line_that_is_not_as_it_should_be_is_refused_with_its_offset(
    tmp_path, refused, line, pattern
):
    before = '{"text": "é"}\n\n' * 101
    with refused(r"text\.txt, at byte 1,616: " + pattern):
        read(tmp_path, before + line + "\n", "jsonl")


def test_half_a_surrogate_pair_is_refused_or_replaced(tmp_path, refused):
    content = '{"text": "One"}\n{"text": "a\\ud83d b\\udc4d\\ud83d c\\ufffd"}\n'
    with refused(
        r"text\.txt, at byte 16: expected Unicode\. Received: half a surrogate pair; .* --errors "
        r"replace"
    ):
        read(tmp_path, content, "jsonl")
    expected = [["One"], ["a\ufffd b\ufffd\ufffd c\ufffd"]]
    assert read_counted(tmp_path, content, "jsonl", "replace") == (
        expected,
        {"replaced_characters": 3},
    )
    invalid = b'{"text": "One\xff"}\n'
    assert read_counted(tmp_path, invalid, "jsonl", "replace") == (
        [["One\ufffd"]],
        {"replaced_characters": 1},
    )


# Parquet.


@pytest.fixture
def parquet():
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    return pyarrow


def write_parquet(pyarrow, path, texts, **options):
    column = texts if isinstance(texts, pyarrow.Array) else pyarrow.array(texts)
    table = pyarrow.table({"id": list(range(len(column))), "text": column})
    pyarrow.parquet.write_table(table, path, **options)
    return path


def test_rows_of_parquet_are_documents(tmp_path, parquet):
    texts = [
        "One is here. Two is\nthere.",
        "",
        None,
        "Three.\r\n\nFour\u2028five.",
        " \n",
        "Six.",
        "七。八。",
    ]
    expected = [
        ["One is here.", "Two is", "there."],
        ["Three.", "Four\u2028five."],
        ["Six."],
        ["七。", "八。"],
    ]
    path = write_parquet(parquet, tmp_path / "a ä.parquet", texts, row_group_size=2)
    assert list(read_documents([path], "parquet")) == expected
    some_spans = spans_of([path], "parquet", 1)
    assert some_spans == [Span(str(path), group, group + 1) for group in range(4)]
    counts = collections.Counter()
    by_span = [list(span_documents(span, "parquet", "strict", counts)) for span in some_spans]
    assert by_span == [expected[:1], expected[1:2], expected[2:3], expected[3:]]
    assert +counts == {"empty_texts": 3}


def test_many_rows_and_every_kind_of_string(tmp_path, parquet):
    texts = [f"Row {number}" for number in range(3001)]
    for kind in [
        parquet.string(),
        parquet.large_string(),
        parquet.dictionary(parquet.int32(), parquet.string()),
    ]:
        path = write_parquet(parquet, tmp_path / "a", parquet.array(texts).cast(kind))
        assert list(read_documents([path], "parquet")) == [[text] for text in texts]


def test_parquet_without_rows_has_no_documents(tmp_path, parquet):
    path = write_parquet(parquet, tmp_path / "a", parquet.array([], parquet.string()))
    assert list(read_documents([path], "parquet")) == []
    assert [
        document
        for span in spans_of([path], "parquet")
        for document in span_documents(span, "parquet", "strict", {})
    ] == []


def test_parquet_of_nulls_has_no_documents(tmp_path, parquet):
    path = write_parquet(parquet, tmp_path / "a", [None, None])
    assert list(read_documents([path], "parquet")) == []


def test_parquet_that_is_not_as_it_should_be_is_refused(tmp_path, refused, parquet):
    path = tmp_path / "a.parquet"
    parquet.parquet.write_table(parquet.table({"id": [1], "content": ["One."]}), path)
    with refused(r"a\.parquet: expected a field 'text' with text\. Received: 'id', 'content';"):
        list(read_documents([path], "parquet"))
    for column, kind in [([7], "int"), ([b"One."], "bytes"), ([["One."]], "list")]:
        write_parquet(parquet, path, column)
        with refused(
            r"a\.parquet, row 0 of row group 0: expected a string in the field 'text'\. "
            rf"Received: a {kind}"
        ):
            list(read_documents([path], "parquet"))
    for content in [b"", b"One is here.\n", b"PAR1" + bytes(100), b"PAR1"]:
        path.write_bytes(content)
        for reading in (spans_of, lambda files, format: list(read_documents(files, format))):
            with refused(r"a\.parquet: expected a Parquet file\. Received: .+\."):
                reading([path], "parquet")
    with refused(r"none: expected a Parquet file\. Received: .*No such file"):
        list(read_documents([tmp_path / "none"], "parquet"))


def test_a_cut_or_damaged_parquet_file_is_refused(tmp_path, refused, parquet):
    whole = write_parquet(
        parquet, tmp_path / "a", [f"Row {number} is here." for number in range(1009)]
    ).read_bytes()
    for end in range(4, len(whole), 1009):
        (tmp_path / "a").write_bytes(whole[:end])
        with refused(r"a: expected a Parquet file\. Received"):
            list(read_documents([tmp_path / "a"], "parquet"))
    half = len(whole) // 2
    (tmp_path / "a").write_bytes(
        whole[:half] + bytes(half - 3000) + whole[-(len(whole) - 2 * half + 3000) :]
    )
    with refused(r"a: expected a Parquet file\. Received"):
        list(read_documents([tmp_path / "a"], "parquet"))


def test_parquet_that_is_not_utf8_is_refused_or_replaced(tmp_path, refused, parquet):
    data = [b"One", b"Tw\xff", b"", b"a\xe4\xb8 \xef\xbf\xbd"]
    for kind, offset_type in [(parquet.string(), "i4"), (parquet.large_string(), "i8")]:
        offsets = np.cumsum([0, *map(len, data)]).astype(offset_type)
        buffers = [None, parquet.py_buffer(offsets.tobytes()), parquet.py_buffer(b"".join(data))]
        path = write_parquet(
            parquet,
            tmp_path / "a",
            parquet.Array.from_buffers(kind, len(data), buffers),
            row_group_size=3,
        )
        with refused(
            r"a, row 1 of row group 0: expected UTF-8\. Received: an invalid byte at offset 2;"
        ):
            list(read_documents([path], "parquet"))
        with refused(
            r"a, row 0 of row group 1: expected UTF-8\. Received: an invalid byte at offset 1;"
        ):
            list(span_documents(Span(str(path), 1, 2), "parquet", "strict", collections.Counter()))
        counts = collections.Counter()
        found = list(span_documents(Span(str(path)), "parquet", "replace", counts))
        assert found == [["One"], ["Tw\ufffd"], ["a\ufffd \ufffd"]]
        assert counts == {"replaced_characters": 2, "empty_texts": 1}


def test_parquet_needs_pyarrow(tmp_path, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for reading in (spans_of, lambda files, format: list(read_documents(files, format))):
        with refused(
            r"Expected the package pyarrow, .* Received: none; pip install '.\[parquet\]' in the "
            r"clone"
        ):
            reading([tmp_path / "a"], "parquet")


# Counting.


def test_bytes_read_tell_how_far_the_reading_is(tmp_path):
    (tmp_path / "a").write_bytes(b"One.\n\n" * 400_001)
    for span in [Span(str(tmp_path / "a")), Span(str(tmp_path / "a"), 600_000, 2_400_000)]:
        counts, seen = collections.Counter(), []
        for _ in span_documents(span, "sentences", "strict", counts):
            seen.append(counts["bytes_read"])
        assert seen == sorted(seen)
        assert len(set(seen)) >= 2
        assert 0 < seen[0] <= 1 << 20
        assert seen[-1] == span.bytes


def test_lines_read_in_parts_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(spans, "LINE_BYTES", 16)
    content = (
        b"one two three four five\nsix\n"
        + b"x" * 50
        + b"\n"
        + b" " * 50
        + b"\n"
        + b"seven"
        + b" " * 50
    )
    expected = [
        ["one two three", "four five", "six", "x" * 15, "x" * 15, "x" * 15, "x" * 5],
        ["seven"],
    ]
    assert read_counted(tmp_path, content) == (expected, {"broken_lines": 2})


def test_a_long_line_of_json_comes_in_short_sentences(tmp_path, monkeypatch):
    monkeypatch.setattr(running_text, "_PARAGRAPH_CHARACTERS", 11)
    (tmp_path / "a").write_text(
        json.dumps({"text": "one two three four\nfive\n" + 29 * "x" + "\n sixteen."})
    )
    counts = collections.Counter()
    (document,) = span_documents(Span(str(tmp_path / "a")), "jsonl", "strict", counts)
    assert document == ["one two", "three four", "five", 11 * "x", 11 * "x", 7 * "x", "sixteen."]
    assert counts["broken_lines"] == 2
