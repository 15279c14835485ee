"""BERT's tokenization as TensorFlow operations, for data and for exported models: text in,
WordPiece ids out.

It equals `FullTokenizer` of google-research/bert (tokenization.py): clean the text, put spaces
around CJK characters, lower case and strip accents (uncased), split at white space and punctuation,
then greedy longest-match-first WordPiece. tensorflow-text's own BERT tokenizers differ from it
(NFKC case folding, control characters kept, long words), so its normaliser stays off and the
normalisation is done here."""

from __future__ import annotations

import tensorflow as tf
import tensorflow_text as tf_text

from tfrecords.normalization import CJK, LONG_WORD_PARTS, MAX_WORD_CHARACTERS, Normalization
from tfrecords.vocabulary import UNK, Vocabulary

# To a type checker, TensorFlow's classes as tensorflow_text's sources import them are others than
# those of TensorFlow's stubs. Where the two meet, this file has a "pyright: ignore".

# White space except the space itself, with which RE2 would rewrite every word of the text:
# categories Zs, and Zl and Zp, at which Google's tokenizer splits by str.split.
_OTHER_SPACE = r"[\t\n\r\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]"
_CONTROL = r"[\p{Cc}\p{Cf}\x{fffd}]"
_CJK = "".join(rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in CJK)
_WORD_ENDS = r"([!-/:-@\[-`{-~\p{P}" + _CJK + "])"
_LONG_WORD = f"[^ ]{{{MAX_WORD_CHARACTERS + 1},}}"
_MAX_WORD_BYTES = 4 * MAX_WORD_CHARACTERS


class Tokenizer(tf.Module):
    """Turns a batch of texts into ragged WordPiece ids.

    A special token typed in a text, such as "[MASK]", is split like any other text and never
    becomes the special id.

    >>> from tfrecords.vocabulary import SPECIAL_TOKENS
    >>> tokenizer = Tokenizer(Vocabulary((*SPECIAL_TOKENS, "run", "##ning", "!")))
    >>> tokenizer(tf.constant(["Running!", "", "jump"])).to_list()
    [[5, 6, 7], [], [1]]

    Args:
        vocabulary: A Vocabulary.
        normalization: How texts are normalized; None for what the vocabulary itself shows.
    """

    def __init__(self, vocabulary: Vocabulary, normalization: Normalization | None = None):
        super().__init__()
        self.vocabulary = vocabulary
        self.normalization = normalization or vocabulary.normalization
        self._wordpiece = tf_text.FastWordpieceTokenizer(
            vocab=list(vocabulary.tokens),
            unknown_token=UNK,
            max_bytes_per_word=_MAX_WORD_BYTES,
            token_out_type=tf.int32,  # pyright: ignore[reportArgumentType]
        )

    def __call__(self, texts: tf.Tensor, printable_ascii: bool = False) -> tf.RaggedTensor:
        """Tokenizes `texts` (string [B], valid UTF-8) to a RaggedTensor of ids (int32 [B, None]).

        `printable_ascii` promises that the texts consist of the characters from space to "~", and
        skips the steps that those do not need."""
        return self._wordpiece.tokenize(  # pyright: ignore[reportReturnType]
            _limit_words(normalize(texts, self.normalization, printable_ascii), self.normalization)
        )

    def set_apart(self, texts: tf.Tensor) -> tf.Tensor:
        """Normalizes `texts` (string [B], valid UTF-8), with spaces around every word: what is
        looked up in the vocabulary, of whatever length."""
        return set_words_apart(normalize(texts, self.normalization))


def normalize(
    texts: tf.Tensor, normalization: Normalization, printable_ascii: bool = False
) -> tf.Tensor:
    """Cleans `texts` (string [B], valid UTF-8) as BERT does before it splits words, then lowers
    case and strips accents where the Normalization says so. Words stay as long as they are."""
    if printable_ascii:
        return texts if normalization.cased else tf.strings.lower(texts)
    texts = tf.strings.regex_replace(texts, _OTHER_SPACE, " ")
    texts = tf.strings.regex_replace(texts, _CONTROL, "")
    if not normalization.cased:
        # ASCII first, by a lowering without a locale: in a Turkish one, ICU turns I into ı.
        texts = tf.strings.lower(tf.strings.lower(texts), encoding="utf-8")
    if normalization.strips:
        texts = tf_text.normalize_utf8(texts, "NFD")  # pyright: ignore[reportAssignmentType]
        texts = tf.strings.regex_replace(texts, r"\p{Mn}", "")
    return texts


def set_words_apart(texts: tf.Tensor) -> tf.Tensor:
    """Puts spaces around every character of normalized `texts` (string [B]) that is a word by
    itself: CJK and punctuation."""
    return tf.strings.regex_replace(texts, _WORD_ENDS, r" \1 ")


def words_apart(text: str, separator: str | None) -> str:
    """A text with white space in place of what separates its words, if that is something else."""
    return text.replace(separator, " ") if separator and not separator.isspace() else text


def split_long_words(texts: tf.Tensor) -> tf.Tensor:
    """Splits every word of more than MAX_WORD_CHARACTERS in normalized `texts` (string [B]), whose
    words are set apart, into several of at most that many."""
    for part in LONG_WORD_PARTS:
        texts = tf.strings.regex_replace(texts, part, r"\0 ")
    return texts


def _limit_words(texts: tf.Tensor, normalization: Normalization) -> tf.Tensor:
    """Splits every word of more than MAX_WORD_CHARACTERS characters, or replaces it by one that
    certainly becomes [UNK].

    The WordPiece operation limits bytes, BERT limits characters. Putting spaces around a text's
    words changes no token, and is done only if some text has a long enough run without a space
    (1 line in 10,000); and such runs are searched only in texts of enough bytes (1 in 40)."""

    def limited() -> tf.Tensor:
        apart = set_words_apart(texts)
        if normalization.long_words == "split":
            return split_long_words(apart)
        return tf.strings.regex_replace(apart, _LONG_WORD, "x" * (_MAX_WORD_BYTES + 1))

    long_texts = tf.boolean_mask(texts, tf.strings.length(texts) > MAX_WORD_CHARACTERS)
    some = tf.reduce_any(tf.strings.regex_full_match(long_texts, rf"(?s).*{_LONG_WORD}.*"))
    return tf.cond(some, limited, lambda: texts)
