import collections
import functools
import json
import random
import subprocess
import sys
import unicodedata

import numpy as np
import plain_tokenizer
import pytest

from tfrecords import RecordsConfig, Vocabulary
from tfrecords.build import tokenizing
from tfrecords.build.tokenizing import COUNTERS, COVERAGE, CorpusTokenizer
from tfrecords.text.formats import span_documents, spans_of
from tfrecords.text.spans import Span
from tfrecords.vocabulary import SPECIAL_TOKENS

LETTERS = [*"abcdefghijkmnopqrstuvwxyABCDEé中!?.,'-0123456789"]  # no l, no z
VOCABULARY = Vocabulary(
    (
        *SPECIAL_TOKENS,
        *LETTERS,
        *(f"##{letter}" for letter in LETTERS),
        "the",
        "##ing",
        "##er",
        "mill",
    )
)
LONGEST = 11


@functools.cache
def tokenizer_of(cased, format="sentences", errors="strict"):
    config = RecordsConfig(sequence_length=LONGEST + 3, max_predictions=2, cased=cased)
    assert config.longest_text == LONGEST
    return CorpusTokenizer(VOCABULARY, config, format, errors)


def nested(documents):
    """Documents as lists of lists of ids."""
    starts, tokens = documents.sentence_starts, documents.tokens
    return [
        [tokens[starts[s] : starts[s + 1]].tolist() for s in range(first, last)]
        for first, last in zip(
            documents.document_starts, documents.document_starts[1:], strict=False
        )
    ]


def random_documents(draw):
    """Text in which simple and other sentences, empty and long ones alternate as they like."""

    def sentence():
        kind = draw.randrange(10)
        if kind == 0:
            return draw.choice(
                ["\0", "\u200b \u00ad", "\ufffd", "\x01\x7f"]
            )  # nothing that is a token
        if kind == 1:
            return draw.choice(["x", "é", "b\u0301"]) * draw.choice([199, 200, 201, 1009])
        words = ["the", "Milling", "mill", "a-b", "zoo", "[MASK]", "Don't!", "~^", "miller"]
        if kind < 5:
            words += ["Été", "中文", "x\u00a0y", "a\tb", "a\0b", "e\u0301t", "ﬁ", "\u2028x", "x\rB"]
        return " ".join(draw.choices(words, k=draw.choice([1, 2, 3, 20])))

    return [[sentence() for _ in range(draw.choice([1, 1, 2, 7]))] for _ in range(101)]


@pytest.fixture
def text(tmp_path):
    """A file of documents, and they."""
    documents = random_documents(random.Random(11))
    path = tmp_path / "text"
    path.write_text(
        "\n".join("".join(f"{sentence}\n" for sentence in document) for document in documents),
        newline="",
    )
    return path, documents


def words_as_typed(sentence, cased):
    """The words of a sentence with all characters that were typed in them, and as they are looked
    up."""
    words, typed = [], ""
    for character in f"{sentence} ":
        apart = plain_tokenizer.split_words(f"x{character}x", cased)
        if len(apart) == 1:
            typed += character
            continue
        words += [typed] if len(apart) == 2 else [typed, character]
        typed = ""
    looked_up = [plain_tokenizer.split_words(word, cased) for word in words]
    return [(word, *found) for word, found in zip(words, looked_up, strict=True) if found]


def plain_coverage(sentence, cased):
    """What is to be counted of a sentence besides its tokens."""
    words = words_as_typed(sentence, cased)
    unknown = [
        typed
        for typed, word in words
        if plain_tokenizer.split_tokens(word, VOCABULARY.ids) == ["[UNK]"]
    ]
    long = [typed for typed, word in words if len(word) > 200]
    marks = sum(
        unicodedata.category(mark) == "Mn" for mark in unicodedata.normalize("NFD", sentence)
    )
    return {
        "characters": sum(not character.isspace() for character in sentence),
        "letters": sum(unicodedata.category(character)[0] == "L" for character in sentence),
        "stripped_marks": 0 if cased else marks,  # all of them are on letters here
        "unknown_characters": sum(map(len, unknown)),
        "long_words": len(long),
        "long_word_characters": sum(map(len, long)),
    }


def plain(documents, cased):
    """The ids of documents without empty sentences and documents, and what is to be counted, in
    plain Python."""
    ids = [
        [
            [
                VOCABULARY.ids[span]
                for span in plain_tokenizer.tokenize(sentence, VOCABULARY.ids, cased)
            ]
            for sentence in document
        ]
        for document in documents
    ]
    full = [[sentence for sentence in document if sentence] for document in ids]
    sentences = [sentence for document in full for sentence in document]
    counts = {
        "documents": sum(map(bool, full)),
        "sentences": len(sentences),
        "tokens": sum(map(len, sentences)),
        "unknown_tokens": sum(sentence.count(VOCABULARY.unk_id) for sentence in sentences),
        "long_sentences": sum(len(sentence) > LONGEST for sentence in sentences),
        "empty_sentences": sum(map(len, ids)) - len(sentences),
        "empty_documents": len(full) - sum(map(bool, full)),
        "longest_document": max(sum(map(len, document)) for document in full),
    }
    of_sentences = [plain_coverage(sentence, cased) for doc in documents for sentence in doc]
    counts |= {name: sum(one[name] for one in of_sentences) for name in of_sentences[0]}
    return [document for document in full if document], counts


def counted(counts):
    assert set(counts) <= {*COUNTERS, *COVERAGE}
    return {name: count for name, count in counts.items() if count}


@pytest.mark.parametrize("cased", [True, False], ids=["cased", "uncased"])
def test_tokens_and_counts_as_in_plain_python(text, cased):
    path, documents = text
    expected, expected_counts = plain(documents, cased)
    counts = collections.Counter()
    (part,) = tokenizer_of(cased).parts([Span(str(path))], counts)
    assert nested(part) == expected
    assert counted(counts) == {name: count for name, count in expected_counts.items() if count}
    assert min(count for name, count in expected_counts.items() if name != "stripped_marks") > 5
    assert (expected_counts["stripped_marks"] > 5) == (not cased)
    assert (part.tokens.dtype, part.sentence_starts.dtype, part.document_starts.dtype) == (
        np.int32,
        np.int64,
        np.int64,
    )
    assert part.sentence_starts[-1] == len(part.tokens)
    assert part.document_starts[-1] == len(part.sentence_starts) - 1


def test_parts_are_of_bounded_size_and_one_after_the_other_the_whole(text, monkeypatch):
    path, documents = text
    expected, expected_counts = plain(documents, False)
    monkeypatch.setattr(tokenizing, "PART_TOKENS", 211)
    monkeypatch.setattr(tokenizing, "_SENTENCES_PER_BATCH", 5)
    monkeypatch.setattr(tokenizing, "_CHARACTERS_PER_BATCH", 307)
    monkeypatch.setattr(tokenizing, "_CHARACTERS_PER_CALL", 53)
    counts, reports = collections.Counter(), []
    parts = list(
        tokenizer_of(False).parts(
            [Span(str(path))], counts, report=lambda *what: reports.append(what)
        )
    )
    sizes = [len(part.tokens) for part in parts]
    # A part is full with its last batch, which ends with the document that fills it.
    largest = max(sum(map(len, document)) for document in expected)
    assert min(sizes[:-1]) >= 211
    assert max(sizes) < 211 + 307 + 5 * LONGEST + largest
    assert len(sizes) > 11
    assert [document for part in parts for document in nested(part)] == expected
    assert counted(counts) == expected_counts
    num_bytes, num_documents, num_tokens = map(sum, zip(*reports, strict=True))
    assert (num_documents, num_tokens) == (expected_counts["documents"], expected_counts["tokens"])
    assert 0 < num_bytes <= path.stat().st_size
    assert min(map(min, reports)) >= 0


def test_spans_one_after_the_other_are_the_whole(text):
    path, documents = text
    expected, expected_counts = plain(documents, False)
    counts, found = collections.Counter(), []
    some_spans = spans_of([path], "sentences", 1009)
    for span in some_spans:
        for part in tokenizer_of(False).parts([span], counts):
            found += nested(part)
    assert len(some_spans) > 5
    assert found == expected
    assert counted(counts) == expected_counts


@pytest.mark.parametrize(
    ("content", "documents", "expected"),
    [
        ("", [], {}),
        ("\n\n \n", [], {}),
        ("\0\n\x01\n\n\u200b\n", [], {"empty_sentences": 3, "empty_documents": 2}),
        ("a\n\0\n\n\0\n\n\0\nb c\n", [[["a"]], [["b", "c"]]],
         {"documents": 2, "sentences": 2, "tokens": 3, "empty_sentences": 3, "empty_documents": 1}),
        ("z\n", [[["[UNK]"]]], {"documents": 1, "sentences": 1, "tokens": 1, "unknown_tokens": 1}),
        ("a " * LONGEST, [[["a"] * LONGEST]], {"documents": 1, "sentences": 1, "tokens": LONGEST}),
        ("a " * (LONGEST + 1), [[["a"] * (LONGEST + 1)]],
         {"documents": 1, "sentences": 1, "tokens": LONGEST + 1, "long_sentences": 1}),
    ],
    ids=["nothing", "white", "no token", "empty ones", "unknown", "as long as may be", "too long"],
)  # fmt: skip
def test_small_texts_in_full(tmp_path, content, documents, expected):
    (tmp_path / "a").write_text(content)
    counts = collections.Counter()
    parts = list(tokenizer_of(False).parts([Span(str(tmp_path / "a"))], counts))
    found = [
        [[VOCABULARY.tokens[i] for i in s] for s in document]
        for part in parts
        for document in nested(part)
    ]
    assert found == documents
    assert len(parts) == bool(documents)
    assert {name: n for name, n in counted(counts).items() if name not in COVERAGE} == expected


def test_counts_of_reading_are_added(tmp_path, monkeypatch):
    monkeypatch.setattr("tfrecords.text.running_text._DOCUMENT_CHARACTERS", 3)
    monkeypatch.setattr("tfrecords.text.spans.LINE_BYTES", 8)
    (tmp_path / "a").write_bytes(b"a\xff\nb c d e f g h i j k\n")
    counts = collections.Counter(documents=100)
    tokenizer = tokenizer_of(False, errors="replace")
    for _ in range(2):
        list(tokenizer.parts([Span(str(tmp_path / "a"))], counts))
    assert {name: n for name, n in counted(counts).items() if name not in COVERAGE} == {
        "documents": 106, "sentences": 8, "tokens": 22,
        "replaced_characters": 2, "broken_lines": 2, "cut_documents": 4,
    }  # fmt: skip


@pytest.mark.parametrize("format", ["text", "jsonl"])
def test_other_formats(tmp_path, format):
    content = {
        "text": "The mill. A\nmiller.\n\n\nA b.",
        "jsonl": '{"text": "The mill. A miller."}\n{"text": "A b."}',
    }
    (tmp_path / "a").write_text(content[format])
    counts = collections.Counter()
    (part,) = tokenizer_of(False, format).parts([Span(str(tmp_path / "a"))], counts)
    assert nested(part) == plain([["The mill.", "A miller."], ["A b."]], False)[0]


def test_error_names_the_file_and_the_offset(tmp_path, refused):
    (tmp_path / "a.txt").write_bytes(b"a\n\n" * 1000 + b"b\xff")
    with refused(r"a\.txt: expected UTF-8\. Received: an invalid byte at offset 3,001"):
        for span in spans_of([tmp_path / "a.txt"], "sentences", 100):
            list(tokenizer_of(False).parts([span], collections.Counter()))


LONG_LINE = """
import collections, json, resource, sys
from tfrecords import RecordsConfig, Vocabulary
from tfrecords.build.tokenizing import CorpusTokenizer
from tfrecords.text.spans import Span
from tfrecords.vocabulary import SPECIAL_TOKENS

vocabulary = Vocabulary((*SPECIAL_TOKENS, "word", "##s"))
tokenizer = CorpusTokenizer(vocabulary, RecordsConfig(), "sentences", "strict")
for path in sys.argv[1:]:
    counts, longest = collections.Counter(), 0
    for part in tokenizer.parts([Span(path)], counts):
        longest = max(longest, len(part.tokens))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(json.dumps({"peak": peak, "longest": longest, **counts}))
"""


@pytest.mark.parametrize(
    "megabytes",
    [
        pytest.param(20, marks=pytest.mark.small),
        pytest.param(100, marks=pytest.mark.long),
    ],
)
def test_a_line_of_many_megabytes_takes_bounded_memory_and_linear_time(tmp_path, megabytes):
    # Of 100 MB ten seconds, and 150 MB more than a small text (x86, 2 cores, 2026-11); an algorithm
    # of quadratic time would need hours.
    unit = b"x" * 1_000_000 + b" " + b"words " * 167_000
    (tmp_path / "small").write_bytes(unit[1_000_000 - 5 :])
    units = megabytes // 2
    with open(tmp_path / "large", "wb") as file:
        for _ in range(units):
            file.write(unit)
    assert (tmp_path / "large").stat().st_size > megabytes * 1_000_000
    run = subprocess.run(
        [sys.executable, "-c", LONG_LINE, tmp_path / "small", tmp_path / "large"],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    small, large = map(json.loads, run.stdout.splitlines())
    # Every word of a million characters is one [UNK].
    assert (small["unknown_tokens"], small["tokens"]) == (1, 1 + 2 * 167_000)
    assert (large["unknown_tokens"], large["tokens"]) == (units, units * (1 + 2 * 167_000))
    assert (large["broken_lines"], large["cut_documents"] > 0) == (1, True)
    assert large["longest"] < tokenizing.PART_TOKENS + (1 << 24)
    assert large["peak"] < small["peak"] + 300


def test_a_word_of_a_million_characters_is_unknown_once(tmp_path):
    (tmp_path / "a").write_text("the " + "x" * 1_000_000 + " mill\n")
    counts = collections.Counter()
    (part,) = tokenizer_of(False).parts([Span(str(tmp_path / "a"))], counts)
    assert [VOCABULARY.tokens[index] for index in part.tokens] == ["the", "[UNK]", "mill"]
    assert list(span_documents(Span(str(tmp_path / "a")), "sentences", "strict", counts)) == [
        ["the " + "x" * 1_000_000 + " mill"]
    ]


def test_spans_of_a_group_and_those_without_text(tmp_path):
    texts = ["one two\n\nthree\n", "", "one\n", "\n \n", "two\n\n\none\n"]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}").write_text(text)
    counts, without_text, reports = collections.Counter(), [], []
    some_spans = [Span(str(tmp_path / f"{number}")) for number in range(len(texts))]
    (part,) = tokenizer_of(False).parts(
        some_spans, counts, without_text, lambda *what: reports.append(what)
    )
    assert len(part) == counts["documents"] == 5
    assert without_text == [1, 3]
    assert [sum(values) for values in zip(*reports, strict=True)] == [
        sum(map(len, texts)) - 3,
        5,
        len(part.tokens),
    ]
