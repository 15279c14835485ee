"""Learns new pieces for a vocabulary that is there, from the counts of a text's words."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterator, Mapping

from tfrecords.vocabulary import Vocabulary, split_word

CHARACTERS = 1 << 22
"""The characters of different words that are learned from, those of the most frequent words: about
half a million words."""

_LONGEST_RUN = 12
"""Pieces that become one at a time."""
_LONGEST_PIECE = 48
"""Characters of a new piece."""
_LAST = 64
"""New pieces that are worth a round of their own."""


def new_pieces(
    words: Mapping[str, int], vocabulary: Vocabulary, room: int, min_frequency: int
) -> list[str]:
    """Learns at most `room` pieces that make the text shortest, in tokens, beside those of a
    vocabulary.

    Every run of pieces that the vocabulary splits a word into is a candidate, the whole word among
    them. Its gain is how often it stands in the text times the tokens that it saves; a word
    that is [UNK] for lack of a character gains all its characters. In every round the best
    candidates are taken, about half as many as there is room for, and the words are split again,
    since with each piece the gain of others changes. Pieces that are hardly used beside the rest
    are given up, and so are those after which a word would become [UNK].

    The result depends on the counts and the vocabulary alone.

    Args:
        words: How often each normalized word stands in the text.
        vocabulary: The vocabulary to extend.
        room: The most new pieces.
        min_frequency: How often a piece must be used.
    """
    text = _Text(words, vocabulary)
    banned: set[str] = set()
    while len(text.new) < room:
        # Half of the room, as what is taken now changes what is worth taking next.
        left = room - len(text.new)
        chosen = text.best(max(left // 2, min(left, _LAST)), min_frequency, banned)
        if not chosen:
            break
        text.split(text.new | chosen)
        # What is given up never comes back, so that this ends.
        while useless := text.useless(min_frequency):
            banned |= useless
            text.split(text.new - useless)
    return sorted(text.new)


class _Text:
    """The words of a text, split by a vocabulary and new pieces."""

    def __init__(self, words: Mapping[str, int], vocabulary: Vocabulary):
        self._vocabulary = vocabulary
        self._words = dict(_most_frequent(words))
        self.split(set())
        self._never_known = self._unknown

    def split(self, new: set[str]) -> None:
        """Splits all words by the vocabulary and these new pieces."""
        self.new = new
        self._pieces = self._vocabulary.ids.keys() | new
        self._longest = max(map(len, self._pieces))
        self._splits = {word: split_word(word, self._pieces, self._longest) for word in self._words}
        self._unknown = {
            word for word, split in self._splits.items() if not self._pieces.issuperset(split)
        }

    def best(self, count: int, min_frequency: int, banned: set[str]) -> set[str]:
        """The `count` candidates of the largest gain."""
        uses, gains = self._candidates()
        order = sorted(
            (piece for piece in gains if uses[piece] >= min_frequency and piece not in banned),
            key=lambda piece: (-gains[piece], piece),
        )
        # A part of one that is taken, or one of which a part is taken, has another gain then: it
        # waits for the next round.
        chosen: set[str] = set()
        parts: set[str] = set()
        for piece in order:
            runs = set(_runs(self._split_piece(piece)))
            if piece not in parts and chosen.isdisjoint(runs):
                chosen.add(piece)
                parts |= runs
            if len(chosen) == count:
                break
        return chosen

    def _split_piece(self, piece: str) -> list[str]:
        word = piece.removeprefix("##") if len(piece) > 2 else piece
        return split_word(word, self._pieces, self._longest, continuing=word != piece)

    def _candidates(self) -> tuple[collections.Counter[str], collections.Counter[str]]:
        """How often every candidate stands in the text, and its gain."""
        uses: collections.Counter[str] = collections.Counter()
        gains: collections.Counter[str] = collections.Counter()
        for word, count in self._words.items():
            split = self._splits[word]
            if word in self._unknown:
                for piece in {piece for piece in split if piece not in self._pieces}:
                    uses[piece] += count
                    gains[piece] += count * len(word)
                continue
            for start, stop in _bounds(len(split)):
                piece = _joined(split[start:stop])
                if len(piece) <= _LONGEST_PIECE:
                    uses[piece] += count
                    gains[piece] += count * (stop - start - 1)
        return uses, gains

    def useless(self, min_frequency: int) -> set[str]:
        """The new pieces that are hardly used, and those after which the rest of a word has no
        match, while the vocabulary alone has one for all of it."""
        uses: collections.Counter[str] = collections.Counter()
        harmful = set()
        for word, count in self._words.items():
            split = self._splits[word]
            if word not in self._unknown:
                for piece in split:
                    uses[piece] += count
            elif word not in self._never_known:
                harmful |= self.new.intersection(split)
        return harmful or {piece for piece in self.new if uses[piece] < min_frequency}


def _most_frequent(words: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """The most frequent words and their counts, of CHARACTERS together."""
    order = sorted(words.items(), key=lambda item: (-item[1], item[0]))
    sizes = itertools.accumulate(len(word) for word, _ in order)
    for item, size in zip(order, sizes, strict=True):
        if size > CHARACTERS:
            return
        yield item


def _bounds(length: int) -> Iterator[tuple[int, int]]:
    """The bounds of all runs of two to _LONGEST_RUN pieces.

    >>> list(_bounds(3))
    [(0, 2), (0, 3), (1, 3)]
    """
    for start in range(length - 1):
        for stop in range(start + 2, min(length, start + _LONGEST_RUN) + 1):
            yield start, stop


def _runs(split: list[str]) -> Iterator[str]:
    """All runs of a word's pieces, each as one piece, the whole among them."""
    return (_joined(split[start:stop]) for start, stop in _bounds(len(split)))


def _joined(pieces: list[str]) -> str:
    """
    >>> _joined(["##run", "##ning"])
    '##running'
    """
    return pieces[0] + "".join(piece[2:] for piece in pieces[1:])
