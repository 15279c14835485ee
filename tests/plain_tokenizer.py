"""google-research/bert's FullTokenizer in plain Python: what tfrecords.Tokenizer must equal.

Follows tokenization.py there, in other words: clean the text, set CJK characters apart, split at
white space, lower and strip accents (uncased), split at punctuation, then WordPiece, greedily from
the left, longest token first."""

import unicodedata

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
ASCII_PUNCTUATION = ((33, 47), (58, 64), (91, 96), (123, 126))


def within(character, ranges):
    return any(low <= ord(character) <= high for low, high in ranges)


def is_punctuation(character):
    return within(character, ASCII_PUNCTUATION) or unicodedata.category(character).startswith("P")


def clean(text):
    """Drops control characters and turns every kind of space into the plain one."""
    kept = []
    for character in text:
        category = unicodedata.category(character)
        if character in " \t\n\r" or category == "Zs":
            kept.append(" ")
        elif category not in ("Cc", "Cf") and character != "\ufffd":
            kept.append(character)
    return "".join(kept)


def without_accents(word):
    return "".join(
        character
        for character in unicodedata.normalize("NFD", word)
        if unicodedata.category(character) != "Mn"
    )


def split_words(text, cased):
    """BasicTokenizer: text to words and punctuation marks."""
    spaced = "".join(
        f" {character} " if within(character, CJK) else character for character in clean(text)
    )
    words = []
    for word in spaced.split():
        if not cased:
            word = without_accents(word.lower())
        apart = "".join(
            f" {character} " if is_punctuation(character) else character for character in word
        )
        words += apart.split()
    return words


def split_tokens(word, vocabulary):
    """WordpieceTokenizer: the tokens of one word, or [UNK] if none make it up."""
    if len(word) > 200:
        return ["[UNK]"]
    tokens, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        end = next(
            (end for end in range(len(word), start, -1) if prefix + word[start:end] in vocabulary),
            None,
        )
        if end is None:
            return ["[UNK]"]
        tokens.append(prefix + word[start:end])
        start = end
    return tokens


def tokenize(text, vocabulary, cased):
    return [token for word in split_words(text, cased) for token in split_tokens(word, vocabulary)]
