import collections
import gzip
import io
import itertools
import random
import sys
import tempfile
import warnings

import plain_tokenizer
import pytest
import tokenizers

from tfrecords import (
    Normalization,
    Vocabulary,
    learn_vocabulary,
    python_documents,
    vocabulary_learning,
    word_counting,
    word_counts,
)
from tfrecords.text.formats import spans_of
from tfrecords.text.spans import span_groups
from tfrecords.vocabulary import SPECIAL_TOKENS
from tfrecords.word_counts import WordCounts

# Most texts here have some letters with accents, whatever becomes of them.
pytestmark = pytest.mark.filterwarnings("ignore:--accents strip takes away")

TEXT = """The river runs past the old mill, and the miller's daughter counts the running water.
Nobody counts the stones; the stones count the years!

Ein Müller mahlt Mehl. Die Mühle mahlt, der Fluß fließt.
Die Mühlen mahlen langsam, aber die Müller mahlen schnell.
"""


SENTENCES = [
    'The quick brown fox, 3.14 times faster (or so), said: "I don\'t know"!',
    "Ein Müller mahlt Mehl; der FLUSS fließt. ÆØÅ æøå Łódź, naïve façade, x² + y² ≤ 1½ €",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. ЁЖИК",
    "敏捷的棕色狐狸跳过了懒狗。これはペンです、カタカナ。다람쥐 헌 쳇바퀴에 타고파",
    "नमस्ते दुनिया। اَلسَّلَامُ عَلَيْكُمْ؟ שָׁלוֹם עוֹלָם",
    "e-mail@host.example/path?x=1&y=2#z `code` ~tilde~ ^caret^ $5 <tag> a_b {c} [MASK] |e| \\f",
    "zero\u200bwidth, soft\u00adhyphen, no\u00a0break, thin\u2009space, a\0b\tc\x85d "
    "e\u2028f\u2029g \ufeffh",
    "x" * 200 + " " + "y" * 201 + " " + "é" * 200,
]


@pytest.fixture(scope="module")
def real_text():
    """Documents of English prose, and of other scripts."""
    prose = list(itertools.islice(python_documents(), 40))
    assert sum(map(len, prose)) > 1000
    return [*prose, SENTENCES, [sentence.title() for sentence in SENTENCES]]


def plain_counts(documents, cased):
    """How often each word stands there, by the `tokenizers` library."""
    normalizer = tokenizers.normalizers.BertNormalizer(lowercase=not cased, strip_accents=not cased)
    splitter = tokenizers.pre_tokenizers.BertPreTokenizer()
    texts = (normalizer.normalize_str(sentence) for document in documents for sentence in document)
    counts = collections.Counter(
        word for text in texts for word, _ in splitter.pre_tokenize_str(text)
    )
    return collections.Counter({word: count for word, count in counts.items() if len(word) <= 200})


def write(path, documents, compress=bytes):
    path.write_bytes(
        compress("\n".join("\n".join(document) + "\n" for document in documents).encode())
    )
    return path


def count_words(some_spans, cased=False, workers=1):
    tasks = list(span_groups(some_spans, 150_000))
    with tempfile.TemporaryDirectory() as directory:
        return word_counting.count_words(
            tasks,
            Normalization(cased),
            ("sentences", "strict", "text", None),
            workers,
            False,
            directory,
            word_counting.Found(),
        )


def learn(tmp_path, text, size, **options):
    path = tmp_path / "text.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return learn_vocabulary([path], size, **options)


def test_small_vocabulary_in_full(tmp_path):
    # ab is merged first. "ab" then stands there three times, "b" once, "a" and "##b" never.
    vocabulary = learn(tmp_path, "ab ab b ab\n", 100)
    assert vocabulary.tokens == (
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "ab",
        "b",
        "##b",
        "a",
    )


@pytest.mark.parametrize("cased", [False, True])
@pytest.mark.parametrize("size", [61, 83, 1009])
def test_order_is_special_tokens_then_frequency_then_text(tmp_path, cased, size):
    vocabulary = learn(tmp_path, TEXT, size, cased=cased)
    counts = collections.Counter(plain_tokenizer.tokenize(TEXT, vocabulary.ids, cased))
    tokens = vocabulary.tokens[5:]
    assert vocabulary.tokens[:5] == SPECIAL_TOKENS
    assert tokens == tuple(sorted(tokens, key=lambda token: (-counts[token], token)))
    assert counts["[UNK]"] == 0
    assert len(vocabulary) <= size
    assert vocabulary.cased is cased


def test_text_too_small_for_the_size_gives_a_smaller_vocabulary(tmp_path):
    small, large, all_there_is = (len(learn(tmp_path, TEXT, size)) for size in (61, 71, 1009))
    assert 55 < small <= 61 < 65 < large <= 71 < all_there_is < 100


def test_uncased_has_neither_capitals_nor_accents(tmp_path):
    uncased, cased = (
        set("".join(learn(tmp_path, TEXT, 1009, cased=c).tokens[5:])) for c in (False, True)
    )
    assert not uncased & set("TNEMDFü")
    assert uncased | set("TNEMDFü") == cased


def test_min_frequency_bounds_the_merges(tmp_path):
    assert "stone" in " ".join(learn(tmp_path, TEXT, 1009, min_frequency=2).tokens)
    assert all(
        len(token.removeprefix("##")) == 1
        for token in learn(tmp_path, TEXT, 1009, min_frequency=101).tokens[5:]
    )


def test_counts_cover_every_batch_of_sentences(tmp_path):
    # More sentences than fit one batch; the rare word of the first batch is the frequent one of the
    # last.
    text = "one two\n" * 4096 + "two\n" * 7
    assert learn(tmp_path, text, 100).tokens[5:7] == ("two", "one")


def test_special_token_typed_in_the_text_is_no_second_token(tmp_path):
    vocabulary = learn(tmp_path, "[MASK] [MASK] mask [CLS]\n" * 3, 100)
    assert [token for token in vocabulary.tokens if "MASK" in token.upper()] == ["[MASK]", "mask"]


def test_saved_vocabulary_loads_as_it_was(tmp_path):
    vocabulary = learn(tmp_path, TEXT, 83)
    vocabulary.save(tmp_path / "vocab.txt")
    assert Vocabulary.load(tmp_path / "vocab.txt") == vocabulary


def test_invalid_utf8_is_refused_or_replaced(tmp_path, refused):
    with refused(r"text\.txt: expected UTF-8\. Received: an invalid byte at offset 3"):
        learn(tmp_path, b"ab \xff ab\n", 100)
    said = "1 character stands for invalid UTF-8, .*; 20.0% of the text's characters .*iconv"
    with pytest.warns(UserWarning, match=said):
        learned = learn(tmp_path, b"ab \xff ab\n", 100, errors="replace")
    assert learned.tokens[5:] == ("ab", "##b", "a", "b")


@pytest.mark.parametrize("workers", [1, 2])
def test_what_was_passed_over_is_said(tmp_path, quick_workers, workers):
    (tmp_path / "a.jsonl").write_text('{"text": "ab ab"}\n{"other": 1}\n{"text": null}\n' * 2)
    (tmp_path / "b.jsonl").write_text('{"text": ""}\n')
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        learn_vocabulary([tmp_path], 100, format="jsonl", workers=workers)
    assert [str(one.message) for one in caught] == [
        "5 rows or documents without text were passed over.",
        f"{tmp_path / 'b.jsonl'}: no text in there",
    ]


@pytest.mark.parametrize(
    ("text", "size", "pattern"),
    [
        (TEXT, 5, r"Expected a vocabulary size above the 5 special tokens\. Received: 5"),
        (
            TEXT,
            23,
            r"Expected a vocabulary size with room for every character of the text\. Received: "
            r"23, where .* take \d\d;",
        ),
        (
            "",
            100,
            r"Expected text to learn a vocabulary from\. Received: input files without a single "
            r"word",
        ),
        (" \n\n\x01\n", 100, r"Received: input files without a single word"),
    ],
)
def test_text_or_size_that_cannot_do_is_refused(tmp_path, refused, text, size, pattern):
    with refused(pattern):
        learn(tmp_path, text, size)


def test_a_script_of_many_characters_is_learned(tmp_path):
    # A quarter of a large vocabulary may be characters, not only the 1,000 that the library takes
    # by itself.
    path = tmp_path / "text.txt"
    path.write_text("\n".join(chr(0x4E00 + index) * 2 for index in range(1500)))
    vocabulary = learn_vocabulary([path], size=6000)
    assert sum(len(token) == 1 for token in vocabulary.tokens) == 1500


@pytest.mark.parametrize("cased", [False, True])
def test_words_are_counted_as_the_library_does(tmp_path, real_text, cased):
    expected = plain_counts(real_text, cased)
    assert len(expected) > 1000
    path = write(tmp_path / "text", real_text)
    assert count_words(spans_of([path], "sentences"), cased) == expected


def test_counts_do_not_depend_on_files_spans_and_groups(tmp_path, real_text, monkeypatch):
    expected = plain_counts(real_text, False)
    whole = write(tmp_path / "whole", real_text)
    for span_bytes in [10_007, 100_003]:
        assert count_words(spans_of([whole], "sentences", span_bytes)) == expected
    monkeypatch.setattr(word_counting, "_CHARACTERS_PER_BATCH", 3001)
    files = [
        write(tmp_path / str(number), real_text[number::3], gzip.compress if number else bytes)
        for number in range(3)
    ]
    assert count_words(spans_of(files, "sentences", 50_021)) == expected


def test_two_processes_learn_what_one_does(tmp_path, real_text):
    files = [write(tmp_path / str(number), real_text[number::3]) for number in range(3)]
    one, two = (
        count_words(spans_of(files, "sentences", 100_003), workers=workers) for workers in (1, 2)
    )
    assert one == two == plain_counts(real_text, False)


def most_words(monkeypatch, number):
    """At most so many different words in memory, and in the end."""
    for home in (word_counting, word_counts):
        monkeypatch.setattr(home, "MAX_WORDS", number)


def test_the_rarest_words_are_forgotten(tmp_path, monkeypatch):
    text = "a " * 5 + "b " * 4 + "c " * 3 + "d " * 2 + "e " * 2 + "f g"
    (tmp_path / "text").write_text(text)
    some_spans = spans_of([tmp_path / "text"], "sentences")
    counts = {"a": 5, "b": 4, "c": 3, "d": 2, "e": 2, "f": 1, "g": 1}
    for most in range(1, 9):
        most_words(monkeypatch, most)
        assert count_words(some_spans) == {word: counts[word] for word in "abcdefg"[:most]}


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_counts_are_exact_however_many_words_there_are(tmp_path, monkeypatch, compress, workers):
    # Words that are rare in every part of the text and frequent in the whole of it: what forgot the
    # rarest in each part would lose them.
    draw = random.Random(3)
    common = [f"w{number}" for number in range(80)]
    sentences = [f"the mill {draw.random()} turns {draw.choice(common)}" for _ in range(5003)]
    documents = [sentences[i : i + 7] for i in range(0, 5003, 7)]
    expected = plain_counts(documents, False)
    assert len(expected) > 5000
    kept = sorted(expected, key=lambda word: (-expected[word], word))[:101]
    assert set(common) < set(kept)
    most_words(monkeypatch, 101)
    monkeypatch.setattr(word_counting, "_CHARACTERS_PER_BATCH", 1009)
    for parts in (documents, documents[::-1]):
        some_spans = spans_of([write(tmp_path / "text", parts, compress)], "sentences", 30_011)
        assert count_words(some_spans, workers=workers) == {word: expected[word] for word in kept}


def test_different_words_without_end_take_bounded_memory(tmp_path, monkeypatch):
    most_words(monkeypatch, 101)
    counts = WordCounts(tmp_path)
    for number in range(1000):
        counts.add({f"{number}-{word}": 1 for word in range(50)} | {"the": 2})
        assert len(counts._words) <= 101
    kept = counts.most_frequent()
    assert len(kept) == 101
    assert kept["the"] == 2000
    files = [path.stat().st_size for path in tmp_path.iterdir()]
    assert max(files) < 3 * sum(files) / len(files)  # each of them fits in memory


ALPHABETS = ("abcdefgh", "αβγδεζηθ", "бвгдежзи")


def tied_text(seed):
    """A text in which almost every count occurs many times over: every word stands there twice."""
    draw = random.Random(seed)
    words = {
        "".join(draw.choices(draw.choice(ALPHABETS), k=draw.randint(1, 9))) for _ in range(1500)
    }
    return sorted(words) * 2


@pytest.mark.filterwarnings("ignore:.*-two. no text in there")
def test_the_same_words_give_the_same_vocabulary(tmp_path):
    # Ties between merges are broken alike, whatever a process takes its hashes from.
    words = tied_text(seed=5)
    learned = set()
    for turn in range(10):
        random.Random(turn).shuffle(words)
        lines = [" ".join(words[start : start + 7]) for start in range(0, len(words), 7)]
        half = len(lines) // (turn % 3 + 1)
        files = [tmp_path / f"{turn}-{name}" for name in ("one", "two")]
        for file, part in zip(files, (lines[:half], lines[half:]), strict=True):
            file.write_text("\n".join(part) + "\n")
        learned.add(learn_vocabulary(files[:: (-1) ** turn], 613).text)
    assert len(learned) == 1
    assert 600 < len(learned.pop().splitlines()) <= 613


def test_the_number_of_workers_makes_no_difference(tmp_path, real_text):
    files = [write(tmp_path / str(number), real_text[number::5]) for number in range(5)]
    vocabularies = [
        learn_vocabulary(files, 1500, check=False, workers=workers) for workers in (1, 2, 5)
    ]
    assert vocabularies[0] == vocabularies[1] == vocabularies[2]


def test_rare_characters_are_left_out_alike(tmp_path, monkeypatch):
    # Of five equally frequent ones, the first in the order of their text.
    monkeypatch.setattr(vocabulary_learning, "_CHARACTERS", 4)
    text = "ab ab ab xa ya za va wa\n"
    assert learn(tmp_path, text, 12).tokens[5:] == ("ab", "##a", "v", "w", "##b", "a", "b")


def test_counts_of_a_large_corpus_are_scaled_down(tmp_path, monkeypatch):
    # 4,000 words of which 400 are learned from; what stands there fewer than 5 times is rounded to
    # nothing.
    text = "\n".join(["ab"] * 3000 + ["cd"] * 844 + ["xy"] * 150 + ["qr"] * 4 + ["no"] * 2)
    monkeypatch.setattr(vocabulary_learning, "LEARNED_WORDS", 400)
    learned = []
    repeated = vocabulary_learning._repeated
    monkeypatch.setattr(
        vocabulary_learning,
        "_repeated",
        lambda words, scale: (learned.append(text) or text for text in repeated(words, scale)),
    )
    vocabulary = learn(tmp_path, text, 100, min_frequency=100)
    assert collections.Counter(" ".join(learned).split()) == {"ab": 300, "cd": 84, "xy": 15}
    # The frequency is scaled as well: 15 are enough where 10 are asked for, but not where 20 are.
    assert vocabulary.tokens[5:] == (
        "ab",
        "cd",
        "xy",
        "##b",
        "##d",
        "##y",
        "a",
        "b",
        "c",
        "d",
        "x",
        "y",
    )
    assert "xy" not in learn(tmp_path, text, 100, min_frequency=200).tokens
    monkeypatch.undo()
    assert learn(tmp_path, text, 100, min_frequency=100).tokens[5:12] == (
        "ab",
        "cd",
        "xy",
        "##r",
        "q",
        "##o",
        "n",
    )


def test_frequent_words_are_repeated_in_short_texts():
    texts = list(vocabulary_learning._repeated(collections.Counter(a=2500, b=3, c=1000), 1.0))
    assert [(text[0], len(text.split())) for text in texts] == [
        ("a", 1000),
        ("a", 1000),
        ("a", 500),
        ("c", 1000),
        ("b", 3),
    ]


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_standard_input_is_learned_from(tmp_path, monkeypatch, compress):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(compress(b"ab ab\nb\n"))))
    (tmp_path / "more").write_text("Ab\n")
    assert learn_vocabulary(["-", tmp_path / "more"], 100).tokens[5:] == ("ab", "b", "##b", "a")


@pytest.mark.parametrize(
    ("format", "content"),
    [
        ("sentences", "ab ab\nb\n\nab\n"),
        ("text", "ab\nab\n\nb ab"),
        ("jsonl", '{"text": "ab ab\\nb"}\n{"text": "ab"}\n'),
    ],
)
def test_formats(tmp_path, format, content):
    assert learn(tmp_path, content, 100, format=format).tokens[5:] == ("ab", "b", "##b", "a")


def test_no_workers_are_refused(tmp_path, refused):
    with refused(r"Expected at least 1 worker\. Received: 0"):
        learn(tmp_path, TEXT, 100, workers=0)


HINDI = "किताब मेज पर रखी है और बिल्ली सो रही है।\n" * 3


@pytest.mark.parametrize(
    ("text", "options", "warns"),
    [
        (HINDI, {}, True),
        (HINDI, {"accents": "keep"}, False),
        (HINDI, {"cased": True}, False),
        ("다람쥐 헌 쳇바퀴에 타고파\n" * 3, {}, True),
        ("The mill turns. " * 50 + "naïve\n", {}, False),
    ],
)
def test_letters_that_lose_their_marks_are_told(tmp_path, text, options, warns):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        learn(tmp_path, text, 400, **options)
    said = [str(warning.message) for warning in caught]
    assert any("use --accents keep" in message for message in said) == warns, said
