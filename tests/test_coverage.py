"""What is counted of the characters of a text. tests/test_tokenizing.py has a plain version on
random text."""

import unicodedata

import numpy as np
import pytest
import tensorflow as tf

from tfrecords import RecordsConfig, Vocabulary, build_records, inspect, load_manifest
from tfrecords.build import coverage
from tfrecords.build.coverage import COUNTS, TextCounter
from tfrecords.normalization import Normalization
from tfrecords.tokenizer import Tokenizer
from tfrecords.vocabulary import SPECIAL_TOKENS

VOCABULARY = Vocabulary((*SPECIAL_TOKENS, "a", "b", "##b", "!", "=", "ก", "##ก", "e"))


@pytest.fixture(scope="module", params=[True, False], ids=["cased", "uncased"])
def tokenizer(request):
    return Tokenizer(VOCABULARY, Normalization(request.param))


@pytest.fixture(scope="module")
def counter(tokenizer):
    return TextCounter(tokenizer)


def counts_of(counter, tokenizer, *sentences):
    ids = tokenizer(tf.constant(sentences, tf.string))
    counts = counter.count(sentences, ids.flat_values.numpy(), ids.row_lengths().numpy())
    assert tuple(counts) == COUNTS
    return {name: count for name, count in counts.items() if count}


LONG = 201


@pytest.mark.parametrize(
    ("sentence", "expected", "if_uncased"),
    [
        ("", {}, {}),
        (" \t\u00a0\u3000", {}, {}),
        ("ab  a!", {"characters": 4, "letters": 3}, {}),
        ("abz zb! b", {"characters": 7, "letters": 6, "unknown_characters": 5}, {}),
        # Only the words that are unknown, however long they are.
        ("ก" * 200, {"characters": 200, "letters": 200}, {}),
        (
            "ก" * LONG + " a",
            {"characters": LONG + 1, "letters": LONG + 1, "unknown_characters": LONG,
             "long_words": 1, "long_word_characters": LONG},
            {},
        ),
        ("中文!", {"characters": 3, "letters": 2, "unknown_characters": 2}, {}),
        # Marks that are typed apart, marks in a letter, and two in one.
        ("e\u0301 é", {"characters": 3, "letters": 2, "unknown_characters": 3},
         {"unknown_characters": 0, "stripped_marks": 2}),
        ("ế", {"characters": 1, "letters": 1, "unknown_characters": 1},
         {"unknown_characters": 0, "stripped_marks": 2}),
        # On an emoji a variation selector is no mark of a letter, nor is one alone.
        ("❤\ufe0f \u0301", {"characters": 3, "unknown_characters": 3}, {"unknown_characters": 2}),
        # Vowel signs that take room stay; those above and below do not.
        ("दुनिया", {"characters": 6, "letters": 3, "unknown_characters": 6}, {"stripped_marks": 1}),
        ("가 각", {"characters": 2, "letters": 2, "unknown_characters": 2}, {"parted_letters": 2}),
        # A character that becomes a word by itself only when its mark is gone.
        ("a≠b", {"characters": 3, "letters": 2, "unknown_characters": 3},
         {"unknown_characters": 0}),
        ("a\u200db \x01", {"characters": 4, "letters": 2}, {}),
    ],
)  # fmt: skip
def test_sentences_in_full(tokenizer, counter, sentence, expected, if_uncased):
    if not tokenizer.normalization.cased:
        expected = expected | if_uncased
    expected = {name: count for name, count in expected.items() if count}
    assert counts_of(counter, tokenizer, sentence) == expected


def test_counts_are_those_of_each_sentence_together(tokenizer, counter):
    sentences = ["ab z", "", "é!", "z" * 300, "각 zz", "ก", " "]
    total = dict.fromkeys(COUNTS, 0)
    for sentence in sentences:
        for name, count in counts_of(counter, tokenizer, sentence).items():
            total[name] += count
    assert counts_of(counter, tokenizer, *sentences) == {k: v for k, v in total.items() if v}


def test_words_and_tokens_match_for_every_character(tokenizer, counter):
    """No character has the estimate instead of the count, inside of a word or alone."""
    characters = [
        chr(point)
        for point in range(0x20000)
        if unicodedata.category(chr(point)) not in ("Cn", "Cs", "Co")
    ]
    characters = characters[:: 1 if len(characters) < 1000 else 3]
    ids = tokenizer(tf.constant([f"z{one}z {one}" for one in characters]))
    tokens, ends = ids.flat_values.numpy(), np.cumsum(ids.row_lengths().numpy())
    counter.count(characters, tokens[:0], np.zeros(len(characters)))
    for character, start, end in zip(characters, [0, *ends], ends, strict=False):
        points = np.array([ord(one) for one in f"z{character}z {character}"], np.uint32)
        unknown, _, _ = coverage._words(
            points, counter._kinds.table, tokens[start:end], counter._starts_word, counter._unk_id
        )
        assert unknown >= 0, character


def test_words_that_do_not_match_the_tokens_are_estimated(tokenizer, counter):
    # As if half of the words were unknown, by tokens of another text.
    tokens = np.array([VOCABULARY.ids[token] for token in ("a", "##b", "[UNK]")], np.int32)
    counts = counter.count(["ab ab abab"], tokens, np.array([3]))
    assert (counts["characters"], counts["unknown_characters"]) == (8, 4)


@pytest.mark.parametrize("masking", ["static", "dynamic"])
def test_words_that_are_too_long_to_be_masked(tmp_path, refused, masking):
    # A sentence of three words is a sequence, of which three tokens are to be masked. Words have
    # six tokens, but for one in each document of the first text.
    vocabulary = Vocabulary((*SPECIAL_TOKENS, "a", "##b"))
    short, long = "ab", "abbbbb"
    for name, words in {"some": [short, *[long] * 36], "none": [long] * 12}.items():
        document = "\n".join([" ".join(words[n : n + 3]) for n in range(0, len(words), 3)])
        (tmp_path / name).write_text("\n\n".join([document] * 13))

    def build(name, unit):
        config = RecordsConfig(
            sequence_length=29,
            max_predictions=5,
            pairs="none",  # truncation cuts words, too
            mask_unit=unit,
            masking=masking,
            validation_fraction=0.0,
        )
        return build_records([tmp_path / name], vocabulary, tmp_path / f"{name} {unit}", config)

    counts = build("some", "word").counts["train"]
    assert 0 < counts["sampled_masks"] < counts["wanted_masks"] / 2
    assert counts["sampled_records"] == counts["records"]
    assert (counts["masked_tokens"] > 0) == (masking == "static")
    (warning,) = (
        line for line in inspect(tmp_path / "some word").split("\n") if "per sequence are" in line
    )
    assert warning.endswith("--mask-unit token masks parts of them.")
    for unit in ("word", "ngram"):
        with refused(
            r"short enough to be masked whole\. Received: none in .*; set --mask-unit token"
        ):
            build("none", unit)
        assert not list((tmp_path / f"none {unit}").glob("*"))
    counts = build("none", "token").counts["train"]
    assert counts["sampled_masks"] == counts["wanted_masks"] > 0
    assert "per record are" not in inspect(tmp_path / "none token")


def test_a_giant_document_among_small_ones_that_is_held_out(tmp_path):
    documents = [["one two three", "two one"]] * 39
    giant = ["one two three two one three"] * 101
    vocabulary = Vocabulary((*SPECIAL_TOKENS, "one", "two", "three"))
    config = RecordsConfig(sequence_length=13, max_predictions=2, validation_fraction=0.1)
    shares = set()
    for place in range(0, 39, 2):
        text = [*documents[:place], giant, *documents[place:]]
        (tmp_path / "a").write_text("\n\n".join("\n".join(document) for document in text))
        output = tmp_path / f"{place}"
        build_records([tmp_path / "a"], vocabulary, output, config)
        manifest = load_manifest(output)
        held_out = manifest.counts["validation"]["document_tokens"]
        assert manifest.counts["corpus"]["longest_document"] == 606
        share = held_out / manifest.counts["corpus"]["tokens"]
        shares.add(share > 0.5)
        warnings = [line for line in inspect(output).split("\n") if "are held out for" in line]
        assert len(warnings) == 1 + (share > 0.2)  # the coverage is no warning
        if share > 0.5:
            assert "the longest document has 75.7%; cut it" in warnings[1]
            break
    assert shares == {True, False}
