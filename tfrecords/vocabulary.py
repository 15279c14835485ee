"""The WordPiece vocabulary: a text file with one token per line, whose line number, from 0, is the
token's id."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import pathlib
import re
import warnings
from collections.abc import Container

from tfrecords.errors import InputError
from tfrecords.files import write_text
from tfrecords.normalization import ACCENTS, Normalization, is_split, without_accents

MIN_FREQUENCY = 2
"""How often a pair of tokens occurs that learning merges into one."""
MAX_TOKEN_BYTES = 256
"""The longest token in UTF-8, "##" aside, that tensorflow-text's WordPiece operation takes."""
PAD, UNK, CLS, SEP, MASK = SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


_JSON = re.compile(r'\s*\{\s*"')
_UNUSED = re.compile(r"\[unused\d+\]", re.IGNORECASE)
_NAMES = 5
_SHOWN = 60
_FEW_IMPOSSIBLE = 0.01


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """A checked WordPiece vocabulary.

    >>> vocabulary = Vocabulary(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "run", "##ning"))
    >>> len(vocabulary), vocabulary.mask_id, vocabulary.cased
    (7, 4, False)

    Raises:
        InputError: A special token is missing, or a token is empty, too long or repeated, or has
            white space in it.
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
            _check_token(token, where)
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

        # What would be a strange first token.
        if text.startswith("\ufeff"):
            raise InputError(
                f"{path}: expected UTF-8 without a byte order mark. Received: one, before the "
                "first token; remove it: sed -i '1s/^\\xef\\xbb\\xbf//'."
            )
        if _JSON.match(text):
            raise InputError(
                f"{path}: expected a text file with one token per line. Received: what looks like "
                "JSON; write its tokens in the order of their ids, one per line."
            )
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
    def normalization(self) -> Normalization:
        """The normalization that the tokens show: a guess, which says nothing of long words.

        Upper-case letters are kept if some token has one, and accents if some token has one; vowel
        signs of Indic scripts and composed Hangul count as such, since BERT strips or decomposes
        them with the accents. Special tokens do not count, nor does what else a vocabulary holds
        and no text gives: [unused1] and <S>, since punctuation is a word of its own, or an added
        Flywheel where there is a token f and none F, since learning takes in every character."""
        words = {token.removeprefix("##") for token in self.tokens if _is_of_text(token)}
        alphabet = {word for word in words if len(word) == 1}
        found = {
            character
            for character in set().union(*words)
            if character in alphabet or without_accents(character).lower()[:1] not in alphabet
        }
        cased = any(character != character.lower() for character in found)
        keeps = any(character != without_accents(character) for character in found)
        # In a script without case, text with accents is cased: then nothing of it is changed.
        has_case = cased or any(word != word.upper() for word in words)
        return Normalization(cased or (keeps and not has_case), ACCENTS[0] if keeps else None)

    @property
    def cased(self) -> bool:
        """Whether the tokens show that case is kept; see `normalization`."""
        return self.normalization.cased

    def impossible(self, normalization: Normalization) -> tuple[str, ...]:
        """The tokens with letters or digits that no normalized text gives, special tokens and such
        as [unused1] aside; in the order of their ids.

        Added to a vocabulary by hand, covid-19 is one, since punctuation is a word of its own, and
        Flywheel is one in an uncased model. Single characters are not listed: many vocabularies
        have ##! and ##中, as their learning took in every character in both forms. Nor is "...",
        which the released ones have.
        """
        return tuple(
            token
            for token in self.tokens
            if len(token.removeprefix("##")) > 1
            and token not in SPECIAL_TOKENS
            and not _UNUSED.fullmatch(token)
            and any(map(str.isalnum, token))
            and not normalization.is_possible(token.removeprefix("##"))
        )

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


def warn_of_impossible(vocabulary: Vocabulary, normalization: Normalization) -> None:
    """Warns of the tokens that no text gives, in one line with their number and the first ones, and
    with the options under which text would give most of them."""
    tokens = vocabulary.impossible(normalization)
    if not tokens:
        return
    # Few are added by hand. Many are a sign of the wrong options.
    others = [Normalization(cased, accents) for cased in (False, True) for accents in ACCENTS]
    advice = "they are never trained on"
    if len(tokens) > _FEW_IMPOSSIBLE * len(vocabulary):
        best = min(others, key=lambda other: len(vocabulary.impossible(other)))
        if 2 * len(vocabulary.impossible(best)) < len(tokens):
            advice = f"the vocabulary was made for {best.options}"
    names = ", ".join(tokens[:_NAMES]) + (", ..." if len(tokens) > _NAMES else "")
    warnings.warn(
        f"{vocabulary.source}: {len(tokens):,} of {len(vocabulary):,} tokens are never given by "
        f"text with {normalization.options}: {names}; {advice}.",
        stacklevel=3,
    )


def _check_token(token: str, where: str) -> None:
    """Raises InputError unless a token can stand in a vocabulary."""
    if token.endswith("\r"):
        raise InputError(
            f"{where}: expected Unix line ends. Received: a carriage return; convert the file."
        )
    # A single character may be white space beyond ASCII: Google's Chinese vocabulary has U+2028.
    word = token.removeprefix("##")
    is_one_space = len(word) == 1 and not word.isascii()
    if not token or (any(map(str.isspace, token)) and not is_one_space):
        raise InputError(
            f"{where}: expected one token without white space in it, since text is split there. "
            f"Received: {token[:_SHOWN]!r}{'...' * (len(token) > _SHOWN)}."
        )
    if len(word.encode()) > MAX_TOKEN_BYTES:
        raise InputError(
            f"{where}: expected tokens of at most {MAX_TOKEN_BYTES} bytes. Received: one of "
            f"{len(word.encode())}, {word[:20]!r}...; remove the line, or learn the vocabulary "
            "again."
        )


def split_word(
    word: str, pieces: Container[str], longest: int, *, continuing: bool = False
) -> list[str]:
    """Splits a normalized word as WordPiece does, the longest match first.

    A character that no piece begins with comes out as a piece of its own, which is not among
    `pieces`; the tokenizer makes [UNK] of such a word.

    >>> split_word("running", {"run", "##ning", "##n"}, 4), split_word("rung", {"run"}, 3)
    (['run', '##ning'], ['run', '##g'])

    Args:
        word: The word, as tokenization has it: without white space, normalized.
        pieces: The pieces of the vocabulary.
        longest: At least the number of characters of the longest piece, without "##".
        continuing: Whether the word is the rest of one, so that its first piece has "##" too.
    """
    found, start = [], 0
    while start < len(word):
        prefix = "##" if start or continuing else ""
        stop = min(len(word), start + longest)
        while stop > start + 1 and prefix + word[start:stop] not in pieces:
            stop -= 1
        found.append(prefix + word[start:stop])
        start = stop
    return found


def _is_of_text(token: str) -> bool:
    """Whether the token is a single character, with or without ##, or has no punctuation, which
    tokenization sets apart."""
    word = token.removeprefix("##")
    return len(word) <= 1 or not is_split(word)
