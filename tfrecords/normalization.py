"""What tokenization does to text before it looks for tokens: what can be chosen, and in plain
Python what becomes of a text. `tokenizer.normalize` does the same in TensorFlow."""

from __future__ import annotations

import dataclasses
import string
import unicodedata
from typing import Any

from tfrecords.errors import InputError, check_choice

MAX_WORD_CHARACTERS = 200
"""The longest word that is looked up, as in Google's WordpieceTokenizer
(max_input_chars_per_word)."""
LONG_WORD_PARTS = (
    rf"[^ ]{{1,{MAX_WORD_CHARACTERS}}}(?: |\z)|[^ ]{{150}}\p{{M}}*",
    rf"[^ ]{{{MAX_WORD_CHARACTERS}}}",
)
"""The parts of long words that become words by themselves, where those are to be split: what these
regular expressions match, the second in what the first leaves too long. Parts of 150 characters
take along the combining marks that follow, so that the next one begins with a letter."""
ACCENTS = ("keep", "strip")
LONG_WORDS = ("unknown", "split")
CJK = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
"""First and last code points of the ranges whose characters are words by themselves, as in Google's
BasicTokenizer (_is_chinese_char)."""


@dataclasses.dataclass(frozen=True)
class Normalization:
    """How text is normalized.

    >>> Normalization(cased=False).normalize("Ärger im\\u2028Büro")
    'arger im buro'
    >>> Normalization(cased=False, accents="keep").normalize("Ärger im\\u2028Büro")
    'ärger im büro'

    Raises:
        InputError: A value is none of the choices.
    """

    cased: bool
    """Whether case is kept; else text is lowercased."""
    accents: str | None = None
    """"keep", or "strip": text is decomposed (NFD) and loses its nonspacing marks. None becomes
    BERT's rule: "keep" if cased, else "strip"."""
    long_words: str = LONG_WORDS[0]
    """What becomes of a word of more than MAX_WORD_CHARACTERS: "unknown", the token [UNK] as in
    BERT, or "split", several words. Of use for text without spaces between words."""

    def __post_init__(self) -> None:
        # Values come from JSON that anyone may have written.
        if not isinstance(self.cased, bool):
            raise InputError(f"Expected cased as true or false. Received: {self.cased!r}.")
        if self.accents is None:
            object.__setattr__(self, "accents", ACCENTS[0] if self.cased else ACCENTS[1])
        check_choice(self, "accents", ACCENTS)
        check_choice(self, "long_words", LONG_WORDS)

    def chosen(
        self, cased: bool | None, accents: str | None = None, long_words: str | None = None
    ) -> Normalization:
        """This one where nothing is chosen. A choice of case brings BERT's rule for accents along,
        unless they are chosen too.

        >>> german = Normalization(cased=False, accents="keep")
        >>> german.chosen(None, long_words="split").description, german.chosen(False).description
        ('uncased (accents kept, long words split)', 'uncased')
        """
        if cased is None:
            cased, accents = self.cased, accents or self.accents
        return Normalization(cased, accents, long_words or self.long_words)

    @classmethod
    def taken_from(cls, fields: dict[str, Any]) -> tuple[Normalization, dict[str, Any]]:
        """A Normalization from the fields of a file that holds its fields among others, and those
        others. What an earlier release did not write is BERT's rule.

        Raises:
            TypeError: `cased` is missing.
            InputError: A value is none of the choices.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        own = {name: value for name, value in fields.items() if name in names}
        return cls(**own), {name: value for name, value in fields.items() if name not in names}

    @property
    def strips(self) -> bool:
        """Whether accents are stripped."""
        return self.accents == "strip"

    @property
    def follows_bert(self) -> bool:
        """Whether accents are stripped if and only if case is lowered, as in the released BERT."""
        return self.strips != self.cased

    @property
    def description(self) -> str:
        """In words: "uncased", or where it is not BERT's rule "uncased (accents kept)"."""
        notes = []
        if not self.follows_bert:
            notes.append("accents stripped" if self.strips else "accents kept")
        if self.long_words == "split":
            notes.append("long words split")
        return ("cased" if self.cased else "uncased") + (f" ({', '.join(notes)})" if notes else "")

    @property
    def options(self) -> str:
        """The options of the command line that choose it, as few as that takes."""
        options = ["--cased" if self.cased else "--uncased"]
        if not self.follows_bert:
            options.append(f"--accents {self.accents}")
        if self.long_words != LONG_WORDS[0]:
            options.append(f"--long-words {self.long_words}")
        return " ".join(options)

    def normalize(self, text: str) -> str:
        """Cleans a text, lowers its case and strips its accents, by Python's own tables of Unicode;
        words stay together, however long."""
        if text.isascii() and text.isprintable():  # most tokens of most vocabularies
            return text if self.cased else text.lower()
        text = "".join(
            " " if _is_space(character) else character
            for character in text
            if _is_space(character) or not _is_dropped(character)
        )
        text = text if self.cased else text.lower()
        return without_accents(text) if self.strips else text

    def words(self, text: str) -> list[str]:
        """The words of a text, however long: what stands between white space, and every character
        that is a word by itself.

        >>> Normalization(cased=False).words("Covid-19")
        ['covid', '-', '19']
        """
        apart = (f" {one} " if _is_word_alone(one) else one for one in self.normalize(text))
        return [word for word in "".join(apart).split(" ") if word]

    def is_possible(self, word: str) -> bool:
        """Whether a text can have the word, or a part of one, between the places where text is
        split."""
        return (
            len(word) <= MAX_WORD_CHARACTERS
            and self.normalize(word) == word
            and " " not in word
            and (len(word) == 1 or not is_split(word))
        )


def without_accents(text: str) -> str:
    """Decomposes a text (NFD) and drops its nonspacing marks (Mn), which include the vowel signs of
    some scripts."""
    decomposed = unicodedata.normalize("NFD", text)
    return "".join(mark for mark in decomposed if unicodedata.category(mark) != "Mn")


def is_split(word: str) -> bool:
    """Whether a word has a character that is a word by itself: punctuation or CJK."""
    if word.isascii() and word.isalnum():
        return False
    return any(map(_is_word_alone, word))


def _is_word_alone(character: str) -> bool:
    return (
        character in string.punctuation
        or unicodedata.category(character).startswith("P")
        or any(first <= ord(character) <= last for first, last in CJK)
    )


def _is_space(character: str) -> bool:
    # Zl and Zp are U+2028 and U+2029, at which Google's tokenizer splits by str.split.
    return character in " \t\n\r" or unicodedata.category(character) in ("Zs", "Zl", "Zp")


def _is_dropped(character: str) -> bool:
    return character == "\ufffd" or unicodedata.category(character) in ("Cc", "Cf")
