import collections

import plain_tokenizer
import pytest

from tfrecords import Vocabulary, learn_vocabulary
from tfrecords.vocabulary import SPECIAL_TOKENS

TEXT = """The river runs past the old mill, and the miller's daughter counts the running water.
Nobody counts the stones; the stones count the years!

Ein Müller mahlt Mehl. Die Mühle mahlt, der Fluß fließt.
Die Mühlen mahlen langsam, aber die Müller mahlen schnell.
"""


def learn(tmp_path, text, size, **options):
    path = tmp_path / "text.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return learn_vocabulary([path], size, **options)


def test_small_vocabulary_in_full(tmp_path):
    # ab is merged first. "ab" then stands there three times, "b" once, "a" and "##b" never.
    vocabulary = learn(tmp_path, "ab ab b ab\n", 100)
    assert vocabulary.tokens == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ab", "b", "##b", "a")


@pytest.mark.parametrize("cased", [False, True])
@pytest.mark.parametrize("size", [61, 83, 1009])
def test_order_is_special_tokens_then_frequency_then_text(tmp_path, cased, size):
    vocabulary = learn(tmp_path, TEXT, size, cased=cased)
    counts = collections.Counter(plain_tokenizer.tokenize(TEXT, vocabulary.ids, cased))
    pieces = vocabulary.tokens[5:]
    assert vocabulary.tokens[:5] == SPECIAL_TOKENS
    assert pieces == tuple(sorted(pieces, key=lambda piece: (-counts[piece], piece)))
    assert counts["[UNK]"] == 0
    assert len(vocabulary) <= size
    assert vocabulary.cased is cased


def test_text_too_small_for_the_size_gives_a_smaller_vocabulary(tmp_path):
    small, large, all_there_is = (len(learn(tmp_path, TEXT, size)) for size in (61, 71, 1009))
    assert 55 < small <= 61 < 65 < large <= 71 < all_there_is < 100


def test_uncased_has_neither_capitals_nor_accents(tmp_path):
    uncased, cased = (set("".join(learn(tmp_path, TEXT, 1009, cased=c).tokens[5:])) for c in (False, True))
    assert not uncased & set("TNEMDFü")
    assert uncased | set("TNEMDFü") == cased


def test_min_frequency_bounds_the_merges(tmp_path):
    assert "stone" in " ".join(learn(tmp_path, TEXT, 1009, min_frequency=2).tokens)
    assert all(len(piece.removeprefix("##")) == 1 for piece in learn(tmp_path, TEXT, 1009, min_frequency=101).tokens[5:])


def test_counts_cover_every_batch_of_sentences(tmp_path):
    # More sentences than fit one batch; the rare word of the first batch is the frequent one of the last.
    text = "one two\n" * 4096 + "two\n" * 7
    assert learn(tmp_path, text, 100).tokens[5:7] == ("two", "one")


def test_special_token_typed_in_the_text_is_no_second_piece(tmp_path):
    vocabulary = learn(tmp_path, "[MASK] [MASK] mask [CLS]\n" * 3, 100)
    assert [token for token in vocabulary.tokens if "MASK" in token.upper()] == ["[MASK]", "mask"]


def test_saved_vocabulary_loads_as_it_was(tmp_path):
    vocabulary = learn(tmp_path, TEXT, 83)
    vocabulary.save(tmp_path / "vocab.txt")
    assert Vocabulary.load(tmp_path / "vocab.txt") == vocabulary


def test_invalid_utf8_is_refused_or_replaced(tmp_path, refused):
    with refused(r"text\.txt: expected UTF-8\. Received: an invalid byte at offset 3"):
        learn(tmp_path, b"ab \xff ab\n", 100)
    assert learn(tmp_path, b"ab \xff ab\n", 100, errors="replace").tokens[5:] == ("ab", "##b", "a", "b")


@pytest.mark.parametrize(
    ("text", "size", "pattern"),
    [
        (TEXT, 5, r"Expected a vocabulary size above the 5 special tokens\. Received: 5"),
        (TEXT, 23, r"Expected a vocabulary size with room for every character of the text\. Received: 23, where .* take \d\d;"),
        ("", 100, r"Expected text to learn a vocabulary from\. Received: input files without a single word"),
        (" \n\n\x00\n", 100, r"Received: input files without a single word"),
    ],
)
def test_text_or_size_that_cannot_do_is_refused(tmp_path, refused, text, size, pattern):
    with refused(pattern):
        learn(tmp_path, text, size)


def test_a_script_of_many_characters_is_learned(tmp_path):
    # A quarter of a large vocabulary may be characters, not only the 1,000 that the library takes by itself.
    path = tmp_path / "text.txt"
    path.write_text("\n".join(chr(0x4E00 + index) * 2 for index in range(1500)))
    vocabulary = learn_vocabulary([path], size=6000)
    assert sum(len(token) == 1 for token in vocabulary.tokens) == 1500
