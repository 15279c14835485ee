"""How much of a text its tokens stand for: characters in words that became [UNK], words over the
limit of BERT's tokenization, and marks that uncased takes from letters.

The share of [UNK] among tokens hides what is lost: one of them may stand for a whole line of a
script without spaces."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfrecords.characters import APART, DROPPED, INSIDE, ROLE, SPACE, CharacterKinds, count_letters
from tfrecords.compilation import compiled
from tfrecords.normalization import MAX_WORD_CHARACTERS
from tfrecords.tokenizer import Tokenizer

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


class TextCounter:
    """Counts COUNTS in sentences and their tokens.

    Args:
        tokenizer: The Tokenizer that made the tokens.
    """

    def __init__(self, tokenizer: Tokenizer):
        vocabulary = tokenizer.vocabulary
        self._unk_id = vocabulary.unk_id
        self._starts_word = np.array([not token.startswith("##") for token in vocabulary.tokens])
        self._kinds = CharacterKinds(tokenizer.set_apart)

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
        points = self._kinds.points_of(sentences)
        ends = np.cumsum(np.fromiter(map(len, sentences), np.int64, len(sentences)))
        token_ends = np.cumsum(lengths, dtype=np.int64)
        totals = _count(
            points, ends, self._kinds.table, tokens, token_ends, self._starts_word, self._unk_id
        )
        return dict(zip(COUNTS, totals.tolist(), strict=True))


@compiled
def _count(points, ends, kinds, tokens, token_ends, starts_word, unk_id):
    """The sums of COUNTS, int64 [7]."""
    totals = np.zeros(7, np.int64)
    start = first = 0
    for n in range(len(ends)):
        sentence, ids = points[start : ends[n]], tokens[first : token_ends[n]]
        start, first = ends[n], token_ends[n]
        characters, letters, marks, parted = count_letters(sentence, kinds)
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
        while place >= start and (kinds[points[place]] & ROLE) in (INSIDE, DROPPED):
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
        role = kinds[points[n]] & ROLE if n < len(points) else SPACE
        if role in (INSIDE, DROPPED):
            typed += 1
            kept += role == INSIDE
            continue
        # The word before this character, if there is one, and the character if it is a word.
        for size, left in ((typed, kept), (1, 1)) if role == APART else ((typed, kept), (0, 0)):
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
