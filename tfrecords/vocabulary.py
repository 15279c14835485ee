"""The WordPiece vocabulary: a text file of one piece per line, whose line number is the piece's
id."""

import dataclasses
import functools
import hashlib
import pathlib
import unicodedata

from tfrecords.errors import InputError
from tfrecords.files import write_text

PAD, UNK, CLS, SEP, MASK = SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """A checked WordPiece vocabulary.

    >>> vocabulary = Vocabulary(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "run", "##ning"))
    >>> len(vocabulary), vocabulary.mask_id, vocabulary.cased
    (7, 4, False)

    Raises:
        InputError: A special token is missing, or a piece is empty, padded with white space or
            there twice.
    """

    tokens: tuple[str, ...]
    """The pieces in the order of their ids; pieces inside a word start with `##`."""

    source: str = dataclasses.field(default="the vocabulary", compare=False)
    """Where it came from, for messages."""

    def __post_init__(self):
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
                    f"{where}: expected one piece without white space around it. Received: "
                    f"{token!r}."
                )
            if token in lines:
                raise InputError(
                    f"{where}: expected each piece once. Received: {token!r}, as in line "
                    f"{lines[token]}."
                )
            lines[token] = number
        missing = [token for token in SPECIAL_TOKENS if token not in lines]
        if missing:
            raise InputError(
                f"{self.source}: expected the special tokens {' '.join(SPECIAL_TOKENS)}. "
                f"Received: a vocabulary without {' '.join(missing)}; add them or make one with "
                "'kbert vocabulary'."
            )
        if len(self.tokens) == len(SPECIAL_TOKENS):
            raise InputError(
                f"{self.source}: expected pieces of words. Received: a vocabulary of special "
                "tokens alone."
            )

    @classmethod
    def load(cls, path):
        """Reads and checks the file `path`.

        Raises:
            InputError: There is no such file, it is not UTF-8, or it is not a BERT vocabulary; with
                the line number.
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

    def save(self, path):
        """Writes the vocabulary to `path`, one piece per line, atomically."""
        write_text(path, self.text)

    @property
    def text(self):
        """The content of the vocabulary's file."""
        return "\n".join(self.tokens) + "\n"

    @functools.cached_property
    def sha256(self):
        """The SHA-256 of the content, in hexadecimal: what everything made with this vocabulary is
        tied to."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @functools.cached_property
    def ids(self):
        """A dict from piece to id."""
        return {token: index for index, token in enumerate(self.tokens)}

    @functools.cached_property
    def cased(self):
        """Whether any piece but the special tokens (all in brackets) has an upper-case letter or an
        accent.

        Vowel signs of Indic scripts and composed Hangul count too: an uncased vocabulary has none,
        since BERT drops or decomposes them with the accents."""
        return any(
            token != _uncased(token)
            for token in self.tokens
            if not (token[0] == "[" and token[-1] == "]")
        )

    @property
    def pad_id(self):
        return self.ids[PAD]

    @property
    def unk_id(self):
        return self.ids[UNK]

    @property
    def cls_id(self):
        return self.ids[CLS]

    @property
    def sep_id(self):
        return self.ids[SEP]

    @property
    def mask_id(self):
        return self.ids[MASK]

    def __len__(self):
        return len(self.tokens)

    def text_of(self, ids):
        """Joins pieces into readable text: `[run, ##ning]` becomes "running"."""
        return " ".join(self.tokens[index] for index in ids).replace(" ##", "")


def _uncased(text):
    """Lowers and strips accents, as uncased BERT does."""
    return "".join(
        c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn"
    )
