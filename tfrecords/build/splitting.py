"""Sentences that are longer than a sequence to several sentences that fit.

This happens where the text is tokenized, before documents are sorted by shard: what the parts of a
sentence are depends on nothing but its tokens, and every later step takes them for sentences."""

from __future__ import annotations

import unicodedata

import numpy as np

from tfrecords.compilation import compiled
from tfrecords.vocabulary import Vocabulary

_INSIDE, _WORD, _PUNCTUATION = 0, 1, 2


class SentenceSplitter:
    """Splits sentences that are too long into parts.

    A part ends behind the last punctuation in the second half of the room that it has, else before
    the last word that begins there, else where the room ends: so it is more than half full. Where a
    sentence is split depends on its tokens alone.

    Args:
        vocabulary: A Vocabulary. Punctuation is a token of a single character of one of Unicode's
            categories P; a token `##...` continues a word.
        longest: The most tokens of a sentence, which is else split.
        longest_part: The most tokens of a part, at least 1.
    """

    def __init__(self, vocabulary: Vocabulary, longest: int, longest_part: int):
        self._kinds = np.array([_kind(token) for token in vocabulary.tokens], np.uint8)
        self._longest, self._longest_part = longest, longest_part

    def parts(self, tokens: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The lengths of sentences after splitting.

        With parts of at most 6 tokens, and a sentence of 9 with a comma behind its fifth token:

            tokens      a b c d , e f g h      x y
            lengths     9                      2
            parts       5         4            2
            number      2                      1

        Args:
            tokens: int32 [number of tokens], the ids of all sentences one after the other.
            lengths: int64 [N], the tokens of each sentence.

        Returns:
            The lengths of all parts, int64 [at least N], in order; and of how many parts each
            sentence consists, int64 [N]: one unless it was too long.
        """
        if not len(lengths) or lengths.max() <= self._longest:
            return lengths, np.ones(len(lengths), np.int64)
        return _split(tokens, lengths, self._kinds, self._longest, self._longest_part)


def _kind(token: str) -> int:
    if token.startswith("##"):
        return _INSIDE
    return _PUNCTUATION if len(token) == 1 and unicodedata.category(token)[0] == "P" else _WORD


@compiled
def _split(tokens, lengths, kinds, longest, longest_part):
    """See `SentenceSplitter.parts`."""
    # A part is more than half full, so that there is room for twice as many.
    room = 0
    for n in range(len(lengths)):
        room += 1 + (2 * (lengths[n] // longest_part) if lengths[n] > longest else 0)
    parts, numbers = np.empty(room, np.int64), np.ones(len(lengths), np.int64)

    # Parts are cut off until what is left of the sentence fits.
    count = start = 0
    for n in range(len(lengths)):
        first, end = count, start + lengths[n]
        while lengths[n] > longest and end - start > longest_part:
            cut = _cut(tokens, start, start + longest_part, kinds)
            parts[count] = cut - start
            start = cut
            count += 1
        parts[count] = end - start
        start = end
        count += 1
        numbers[n] = count - first
    return parts[:count], numbers


@compiled
def _cut(tokens, start, limit, kinds):
    """Where the part ends that begins at `start` and must end at `limit`, before which the sentence
    does not end."""
    least = start + (limit - start) // 2
    for cut in range(limit, least, -1):
        # Of several marks in a row, such as a full stop and a quotation mark, none starts a part.
        if kinds[tokens[cut - 1]] == _PUNCTUATION and kinds[tokens[cut]] != _PUNCTUATION:
            return cut
    for cut in range(limit, least, -1):
        if kinds[tokens[cut]] != _INSIDE:
            return cut
    return limit
