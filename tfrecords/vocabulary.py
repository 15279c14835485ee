"""The WordPiece vocabulary: a text file with one token per line, whose line number, from 0, is the
token's id."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import pathlib
import string
import unicodedata

from tfrecords.errors import InputError
from tfrecords.files import write_text

MIN_FREQUENCY = 2
"""How often a pair of tokens occurs that learning merges into one."""
PAD, UNK, CLS, SEP, MASK = SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """A checked WordPiece vocabulary.

    >>> vocabulary = Vocabulary(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "run", "##ning"))
    >>> len(vocabulary), vocabulary.mask_id, vocabulary.cased
    (7, 4, False)

    Raises:
        InputError: A special token is missing, or a token is empty, padded with white space or
            repeated.
    """

    tokens: tuple[str, ...]
    """The tokens in the order of their ids; those inside a word begin with `##`."""

    source: str = dataclasses.field(default="the vocabulary", compare=False)
    """Where it came from, for messages."""

    def __post_init__(self) -> None:
        # Every line by itself, so that the first wrong one is named with its number.
        lines = {}
        for number, token in enumerate(self.tokens, start=1):
            where = f"{self.source}:{number}"
            if token.endswith("\r"):
                raise InputError(
                    f"{where}: expected Unix line ends. Received: a carriage return; convert the "
                    "file."
                )
            if not token or token != token.strip(" \t\n"):
                raise InputError(
                    f"{where}: expected one token without white space around it. Received: "
                    f"{token!r}."
                )
            if token in lines:
                raise InputError(
                    f"{where}: expected each token once. Received: {token!r}, as in line "
                    f"{lines[token]}."
                )
            lines[token] = number

        # The vocabulary as a whole.
        missing = [token for token in SPECIAL_TOKENS if token not in lines]
        if missing:
            raise InputError(
                f"{self.source}: expected the special tokens {' '.join(SPECIAL_TOKENS)}. "
                f"Received: a vocabulary without {' '.join(missing)}; add them or make one with "
                "'kbert vocabulary'."
            )
        if len(self.tokens) == len(SPECIAL_TOKENS):
            raise InputError(
                f"{self.source}: expected tokens of words. Received: a vocabulary of special "
                "tokens alone."
            )

    @classmethod
    def load(cls, path: str | os.PathLike) -> Vocabulary:
        """Reads and checks the file `path`.

        Raises:
            InputError: The file does not exist, is not UTF-8, or is not a BERT vocabulary; with the
                line number.
        """
        path = pathlib.Path(path)
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}: expected UTF-8. Received: an invalid byte at offset {error.start}."
            ) from None
        except OSError as error:
            raise InputError(
                f"Expected a vocabulary file at {path}. Received: {error.strerror}."
            ) from None
        return cls(tuple(text.removesuffix("\n").split("\n")), source=str(path))

    def save(self, path: str | os.PathLike) -> None:
        """Writes the vocabulary to `path`, one token per line, atomically."""
        write_text(path, self.text)

    @property
    def text(self) -> str:
        """The content of the vocabulary's file."""
        return "\n".join(self.tokens) + "\n"

    @functools.cached_property
    def sha256(self) -> str:
        """The SHA-256 of the content, in hexadecimal. Records and models keep it, to recognise the
        vocabulary that they were made with."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @functools.cached_property
    def ids(self) -> dict[str, int]:
        """A dict from token to id."""
        return {token: index for index, token in enumerate(self.tokens)}

    @functools.cached_property
    def cased(self) -> bool:
        """Whether any token that text can give has an upper-case letter or an accent.

        Special tokens do not count, nor does what else a vocabulary holds and no text gives, since
        punctuation is a word of its own: [unused1], or <S> in Google's Chinese one. Vowel signs of
        Indic scripts and composed Hangul count: an uncased vocabulary has none, since BERT drops or
        decomposes them with the accents."""
        return any(token != _uncased(token) for token in self.tokens if _is_of_text(token))

    @property
    def pad_id(self) -> int:
        return self.ids[PAD]

    @property
    def unk_id(self) -> int:
        return self.ids[UNK]

    @property
    def cls_id(self) -> int:
        return self.ids[CLS]

    @property
    def sep_id(self) -> int:
        return self.ids[SEP]

    @property
    def mask_id(self) -> int:
        return self.ids[MASK]

    def __len__(self) -> int:
        return len(self.tokens)


def _is_of_text(token: str) -> bool:
    """Whether the token is a single character, with or without ##, or has no punctuation, which
    tokenization sets apart."""
    word = token.removeprefix("##")
    return len(word) <= 1 or not any(
        character in string.punctuation or unicodedata.category(character)[0] == "P"
        for character in word
    )


def _uncased(text: str) -> str:
    """Lowers case and strips accents, as uncased BERT does."""
    return "".join(
        c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn"
    )
