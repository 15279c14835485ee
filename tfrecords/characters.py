"""What tokenization makes of single characters: what parts words, what is dropped, and which marks
letters lose.

Asked of the tokenizer's own operations once for every character that a text has, so that whole
texts can be counted in compiled loops."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tfrecords.compilation import compiled

MUCH_LOST = 0.01
"""The share of a text's characters, or letters, whose loss is worth a warning."""

# What is known of a character, in 16 bits: its role, some properties, and how many marks it loses.
INSIDE, SPACE, APART, DROPPED = 0, 1, 2, 3
_LETTER_BIT, _WHITE_BIT = 2, 4
ROLE, _LETTER, _PARTED, _WHITE, _ON_LETTER, _MARKS = 3, 1 << 2, 1 << 3, 1 << 4, 1 << 5, 8
_UNSEEN = 0xFFFF
_CODE_POINTS = 0x110000


def is_much_invalid(replaced: int, characters: int) -> bool:
    """Whether so many characters in the place of invalid UTF-8, beside those that were read, are
    more than a few damaged bytes."""
    return replaced > MUCH_LOST * (characters + replaced)


class CharacterKinds:
    """The kinds of characters: their role in a word (`kind & ROLE`: INSIDE, or SPACE or APART where
    words end, or DROPPED), and what `count_letters` counts.

    Args:
        set_apart: Normalizes texts (string [B]) and puts spaces around every word, as
            `Tokenizer.set_apart`.
    """

    def __init__(self, set_apart: Callable[[tf.Tensor], tf.Tensor]):
        self._set_apart = set_apart
        self.table = np.full(_CODE_POINTS, _UNSEEN, np.uint16)
        """The kind of every code point, of those that `points_of` has met."""
        self._learn(np.arange(128))

    def points_of(self, sentences: Sequence[str]) -> np.ndarray:
        """The code points of sentences, one after the other, which `table` knows from now on:
        uint32 [number of characters]."""
        text = "".join(sentences)
        if text.isascii():
            # Of one type for the loops, which would else be compiled twice.
            return np.frombuffer(text.encode("ascii"), np.uint8).astype(np.uint32)
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        # A text has a few hundred different characters, of which hardly one is new.
        self._learn(_unseen(points, self.table))
        return points

    def _learn(self, points: np.ndarray) -> None:
        """Asks the tokenizer what it makes of characters, each between two letters."""
        if not len(points):
            return
        characters = [chr(point) for point in points]
        words = self._set_apart(tf.constant([f"x{one}x" for one in characters]))
        normalized = self._set_apart(tf.constant(characters))
        for point, character, word, form in zip(
            points, characters, words.numpy(), normalized.numpy(), strict=True
        ):
            self.table[point] = _kind(character, word.decode().split(), form.decode())


def _kind(character: str, words: list[str], form: str) -> int:
    """What is known of a character, of which `form` is left and which stands between two letters as
    `words`."""
    # Its role: it parts words, is a word, is part of one, or leaves nothing.
    if len(words) == 1:
        kind = DROPPED if words == ["xx"] else INSIDE
    else:
        kind = SPACE if len(words) == 2 else APART
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
def count_letters(points: np.ndarray, kinds: np.ndarray) -> tuple[int, int, int, int]:
    """The characters of some text that are not white space, its letters, the marks that
    normalization takes from letters, and the letters that it takes apart into several.

    Args:
        points: uint32 [n], of a sentence or a whole text.
        kinds: The table of a CharacterKinds that knows them.
    """
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
    return len(points) - int(white), int(letters), int(marks), int(parted)


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
