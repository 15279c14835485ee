import collections
import itertools

import plain_tokenizer
import pytest

from tfrecords import Normalization, Tokenizer, Vocabulary, learn_vocabulary, python_documents
from tfrecords.vocabulary import SPECIAL_TOKENS, split_word
from tfrecords.vocabulary_extension import new_pieces

LETTERS = "abcdefghijklmnopqrstuvwxyz"
PLAIN = Vocabulary(
    (
        *(*SPECIAL_TOKENS, "[unused0]", "the", "play", "##ing", *LETTERS),
        *(f"##{letter}" for letter in LETTERS),
    )
)
"""A vocabulary that can spell every word, and knows few."""


def learn(tmp_path, text, size, extend=PLAIN, **options):
    path = tmp_path / "text.txt"
    path.write_text(text)
    return learn_vocabulary([path], size, extend=extend, **options)


def test_the_pieces_that_save_most_tokens_come_first():
    # plasma saves five tokens eleven times, zymosis six tokens seven times, cat two tokens nine
    # times. the and plays are known, or nearly: plays saves one token six times.
    words = {"plasma": 11, "zymosis": 7, "cat": 9, "the": 500, "plays": 6, "rare": 1}
    assert new_pieces(words, PLAIN, 1, 2) == ["plasma"]
    assert new_pieces(words, PLAIN, 2, 2) == ["plasma", "zymosis"]
    assert new_pieces(words, PLAIN, 3, 2) == ["cat", "plasma", "zymosis"]
    assert new_pieces(words, PLAIN, 99, 2) == ["cat", "plasma", "plays", "zymosis"]
    assert "rare" in new_pieces(words, PLAIN, 99, 1)


def test_what_words_share_becomes_a_piece():
    words = {f"{first}carditis": 5 for first in "bcdfgh"}
    assert new_pieces(words, PLAIN, 1, 2) == ["##carditis"]


def test_characters_that_the_vocabulary_lacks_are_learned():
    words = {"übung": 5, "hübsch": 5, "the": 9, "ñu": 1}
    found = new_pieces(words, PLAIN, 2, 2)
    assert found == ["##ü", "ü"]
    known = PLAIN.ids.keys() | set(found)
    assert split_word("hübsch", known, 9) == ["h", "##ü", "##b", "##s", "##c", "##h"]


def test_a_piece_after_which_the_rest_of_a_word_has_no_match_is_not_learned():
    # abd is ab and ##d; with abc, which is worth most, abcd would be abc and nothing.
    known = Vocabulary((*SPECIAL_TOKENS, "ab", "a", "##b", "##c", "##cd", "##e"))
    words = {"abc": 50, "abcd": 3, "abce": 3}
    for room in range(1, 9):
        found = new_pieces(words, known, room, 2)
        pieces = known.ids.keys() | set(found)
        assert all(pieces.issuperset(split_word(word, pieces, 9)) for word in words), found


@pytest.fixture(scope="module")
def prose(tmp_path_factory):
    """A file of documentation, and the words of another one to know before."""
    documents = list(itertools.islice(python_documents(), 30))
    place = tmp_path_factory.mktemp("prose")
    for name, part in (("before", documents[:8]), ("after", documents[8:])):
        (place / f"{name}.txt").write_text("\n".join("\n".join(one) + "\n" for one in part))
    return place


@pytest.fixture(scope="module")
def before(prose):
    return learn_vocabulary([prose / "before.txt"], 900)


@pytest.fixture(scope="module")
def extended(prose, before):
    return learn_vocabulary([prose / "after.txt"], 1400, extend=before)


def test_their_pieces_keep_their_ids_and_every_new_one_is_used(prose, before, extended):
    text = (prose / "after.txt").read_text()
    assert len(extended) == 1400
    assert extended.tokens[:900] == before.tokens
    counts, was = (
        collections.Counter(plain_tokenizer.tokenize(text, vocabulary.ids, cased=False))
        for vocabulary in (extended, before)
    )
    new = extended.tokens[900:]
    assert min(counts[token] for token in new) >= 2
    # The frequent ones first, as in a vocabulary that was learned from nothing.
    assert new == tuple(sorted(new, key=lambda token: (-counts[token], token)))
    assert counts["[UNK]"] <= was["[UNK]"]
    assert counts.total() < 0.8 * was.total()


def test_it_saves_more_than_the_most_frequent_words_would(prose, before, extended):
    text = (prose / "after.txt").read_text()
    words = collections.Counter(plain_tokenizer.split_words(text, cased=False))
    frequent = [word for word, _ in words.most_common() if word not in before.ids][:500]
    plain = Vocabulary(before.tokens + tuple(frequent))
    ours, theirs = (
        len(plain_tokenizer.tokenize(text, vocabulary.ids, cased=False))
        for vocabulary in (extended, plain)
    )
    assert ours < theirs


@pytest.mark.parametrize("workers", [1, 2])
def test_one_vocabulary_for_any_order_of_files_and_number_of_workers(
    prose, before, extended, tmp_path, workers
):
    lines = (prose / "after.txt").read_text().split("\n\n")
    files = [tmp_path / name for name in "abc"]
    for number, file in enumerate(files):
        file.write_text("\n\n".join(lines[number::3]) + "\n")
    again = learn_vocabulary(files[::-1], 1400, extend=before, workers=workers)
    assert again == extended


def test_casing_follows_the_vocabulary_unless_said(tmp_path):
    text = "Nairobi and Lagos\n" * 3
    cased = Vocabulary((*PLAIN.tokens, "L", "Lagos"))
    assert "Nairobi" not in learn(tmp_path, text, 999).tokens
    assert "nairobi" in learn(tmp_path, text, 999).tokens
    assert "N" in "".join(learn(tmp_path, text, 999, cased=True).tokens[len(PLAIN) :])
    assert "N" in "".join(learn(tmp_path, text, 999, extend=cased).tokens[len(cased) :])
    assert "nairobi" in learn(tmp_path, text, 999, extend=cased, cased=False).tokens


def test_no_room_for_a_new_piece_is_refused(tmp_path, refused):
    with refused(r"a vocabulary size above the 61 tokens of the vocabulary\. Received: 61\."):
        learn(tmp_path, "plasma plasma\n", 61)
    assert learn(tmp_path, "plasma plasma\n", 62).tokens[61:] == ("plasma",)
    assert learn(tmp_path, "the the\n", 99) == PLAIN  # nothing to learn


def test_words_are_split_as_the_tokenizer_splits_them(prose, before):
    words = sorted(set((prose / "after.txt").read_text().lower().split()))
    words = [word for word in words if word.isalpha() and word.isascii()]
    longest = max(map(len, before.tokens))
    splits = [split_word(word, before.ids, longest) for word in words]
    expected = Tokenizer(before, Normalization(cased=True))(words).to_list()
    unknown = [before.unk_id]
    assert len(words) > 1000
    assert [
        [before.ids[piece] for piece in split] if before.ids.keys() >= set(split) else unknown
        for split in splits
    ] == expected
