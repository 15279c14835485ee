"""How much of a text its tokens stand for: characters in words that became [UNK], words over the
limit of BERT's tokenization, and marks that uncased takes from letters.

The share of [UNK] among tokens hides what is lost: one of them may stand for a whole line of a
script without spaces."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfrecords.compilation import compiled
from tfrecords.tokenizer import MAX_WORD_CHARACTERS, Tokenizer

COUNTS = (
    "characters",
    "letters",
    "stripped_marks",
    "parted_letters",
    "unknown_characters",
    "long_words",
    "long_word_characters",
)
"""What is counted. characters: those of the text that are not white space. letters: those of them
that are letters. stripped_marks: marks on letters, typed apart or not, that uncased takes away.
parted_letters: letters that uncased takes apart into several, such as Hangul syllables.
unknown_characters: those in words that became [UNK]. long_words: words of more than
MAX_WORD_CHARACTERS characters; long_word_characters: the characters in them."""

# What is known of a character, in 16 bits: what tokenization makes of it, some properties, and how
# many marks it loses.
_INSIDE, _SPACE, _APART, _DROPPED = 0, 1, 2, 3
_LETTER_BIT, _WHITE_BIT = 2, 4
_ROLE, _LETTER, _PARTED, _WHITE, _ON_LETTER, _MARKS = 3, 1 << 2, 1 << 3, 1 << 4, 1 << 5, 8
_UNSEEN = 0xFFFF
_CODE_POINTS = 0x110000


class TextCounter:
    """Counts COUNTS in sentences and their tokens.

    Args:
        tokenizer: The Tokenizer that made the tokens.
    """

    def __init__(self, tokenizer: Tokenizer):
        vocabulary = tokenizer.vocabulary
        self._tokenizer = tokenizer
        self._unk_id = vocabulary.unk_id
        self._starts_word = np.array([not token.startswith("##") for token in vocabulary.tokens])
        self._kinds = np.full(_CODE_POINTS, _UNSEEN, np.uint16)
        self._learn_kinds(np.arange(128))

    def count(
        self, sentences: Sequence[str], tokens: np.ndarray, lengths: np.ndarray
    ) -> dict[str, int]:
        """The counts of some sentences, a sum over each by itself.

        Args:
            sentences: The sentences, N.
            tokens: int32 [number of tokens], their ids one after the other.
            lengths: int64 [N], the number of tokens of each.

        Returns:
            A number for each of COUNTS.
        """
        text = "".join(sentences)
        if text.isascii():
            # Of one type for the loops, which would else be compiled twice.
            points = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.uint32)
        else:
            points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
            # A text has a few hundred different characters, of which hardly one is new.
            self._learn_kinds(_unseen(points, self._kinds))
        ends = np.cumsum([len(sentence) for sentence in sentences], dtype=np.int64)
        token_ends = np.cumsum(lengths, dtype=np.int64)
        totals = _count(
            points, ends, self._kinds, tokens, token_ends, self._starts_word, self._unk_id
        )
        return dict(zip(COUNTS, totals.tolist(), strict=True))

    def _learn_kinds(self, points: np.ndarray) -> None:
        """Asks the tokenizer what it makes of characters, each between two letters."""
        if not len(points):
            return
        characters = [chr(point) for point in points]
        words = self._tokenizer.set_apart(tf.constant([f"x{one}x" for one in characters]))
        normalized = self._tokenizer.set_apart(tf.constant(characters))
        for point, character, word, form in zip(
            points, characters, words.numpy(), normalized.numpy(), strict=True
        ):
            self._kinds[point] = _kind(character, word.decode().split(), form.decode())


def _kind(character: str, words: list[str], form: str) -> int:
    """What is known of a character, of which `form` is left and which stands between two letters as
    `words`."""
    # Its role: it parts words, is a word, is part of one, or leaves nothing.
    if len(words) == 1:
        kind = _DROPPED if words == ["xx"] else _INSIDE
    else:
        kind = _SPACE if len(words) == 2 else _APART
    category = unicodedata.category(character)
    kind |= _WHITE * character.isspace()
    kind |= _LETTER * (category[0] == "L")
    # What may stand between a letter and its mark: other marks, and the joiners of Indic scripts.
    kind |= _ON_LETTER * (category[0] == "M" or category == "Cf")
    # Marks and letters in it that are not left, or are left apart.
    marks = _marks(character.lower()) - _marks(form)
    kind |= _PARTED * (category[0] == "L" and len(form.split()) == 1 and len(form.strip()) > 1)
    return kind | max(0, marks) << _MARKS


def _marks(text: str) -> int:
    decomposed = unicodedata.normalize("NFD", text)
    return sum(unicodedata.category(character) == "Mn" for character in decomposed)


@compiled
def _unseen(points, kinds):
    """The characters of `points` whose kind is not known yet, each once."""
    found = []
    for point in points:
        if kinds[point] == _UNSEEN:
            kinds[point] = 0
            found.append(np.int64(point))
    return np.array(found, np.int64)


@compiled
def _count(points, ends, kinds, tokens, token_ends, starts_word, unk_id):
    """The sums of COUNTS, int64 [7]."""
    totals = np.zeros(7, np.int64)
    start = first = 0
    for n in range(len(ends)):
        sentence, ids = points[start : ends[n]], tokens[first : token_ends[n]]
        start, first = ends[n], token_ends[n]
        characters, letters, marks, parted = _letters(sentence, kinds)
        totals[0] += characters
        totals[1] += letters
        totals[2] += marks
        totals[3] += parted
        # Words are looked at one by one only where some may count.
        if _has(ids, unk_id) or _may_have_long_word(sentence, kinds):
            unknown, long_words, long_word_characters = _words(
                sentence, kinds, ids, starts_word, unk_id
            )
            # Where words and tokens do not match, the share of [UNK] among words has to do.
            if unknown < 0:
                unknown = _estimate(characters, ids, starts_word, unk_id)
            totals[4] += unknown
            totals[5] += long_words
            totals[6] += long_word_characters
    return totals


@compiled
def _letters(points, kinds):
    """The characters of a sentence, its letters, the marks taken from them, and the letters taken
    apart."""
    white = letters = 0
    seen = np.uint16(0)
    for point in points:
        kind = kinds[point]
        white += kind >> _WHITE_BIT & 1
        letters += kind >> _LETTER_BIT & 1
        seen |= kind
    marks = parted = 0
    if seen & _PARTED or seen >> _MARKS:
        marks, parted = _lost_of_letters(points, kinds)
    return len(points) - white, letters, marks, parted


@compiled
def _lost_of_letters(points, kinds):
    """The marks taken from letters, and the letters taken apart."""
    marks = parted = 0
    on_letter = False
    for point in points:
        kind = kinds[point]
        parted += (kind & _PARTED) != 0
        # A mark on something else, such as the variation selector of an emoji, is no loss.
        on_letter = (kind & _LETTER) != 0 or (on_letter and (kind & _ON_LETTER) != 0)
        if on_letter:
            marks += kind >> _MARKS
    return marks, parted


@compiled
def _has(tokens, unk_id):
    found = False
    for n in range(len(tokens)):
        found |= tokens[n] == unk_id
    return found


@compiled
def _may_have_long_word(points, kinds):
    """Whether more than MAX_WORD_CHARACTERS in a row do not end a word. From the end of a window of
    that size back to the end of a word: so most characters need not be looked at."""
    start = 0
    while start + MAX_WORD_CHARACTERS < len(points):
        place = start + MAX_WORD_CHARACTERS
        while place >= start and (kinds[points[place]] & _ROLE) in (_INSIDE, _DROPPED):
            place -= 1
        if place < start:
            return True
        start = place + 1
    return False


@compiled
def _words(points, kinds, tokens, starts_word, unk_id):
    """The characters of a sentence in words that became [UNK], or -1 if its words and tokens do not
    match; the number of words over the limit, and their characters."""
    unknown = long_words = long_word_characters = 0
    typed = kept = token = 0  # characters of this word, those left of them, its first token
    for n in range(len(points) + 1):
        role = kinds[points[n]] & _ROLE if n < len(points) else _SPACE
        if role in (_INSIDE, _DROPPED):
            typed += 1
            kept += role == _INSIDE
            continue
        # The word before this character, if there is one, and the character if it is a word.
        for size, left in ((typed, kept), (1, 1)) if role == _APART else ((typed, kept), (0, 0)):
            if left:
                if left > MAX_WORD_CHARACTERS:
                    long_words += 1
                    long_word_characters += size
                if token < len(tokens) and tokens[token] == unk_id:
                    unknown += size
                token += 1
                while token < len(tokens) and not starts_word[tokens[token]]:
                    token += 1
        typed = kept = 0
    return unknown if token == len(tokens) else -1, long_words, long_word_characters


@compiled
def _estimate(characters, tokens, starts_word, unk_id):
    """`characters` times the share of [UNK] among the words of a sentence, rounded."""
    unknown = words = 0
    for token in tokens:
        unknown += token == unk_id
        words += starts_word[token]
    return (2 * characters * unknown + words) // (2 * max(1, words))
