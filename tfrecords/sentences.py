"""Running text to sentences."""

from __future__ import annotations

from typing import cast

import nupunkt
import regex

# Ends of sentences that nupunkt does not know, by Unicode's property: of CJK, Devanagari, Arabic,
# Khmer, Burmese, Ethiopic and many more. White space after them is not needed, but closing brackets
# and quotation marks belong to the sentence, and a wide full stop may be a decimal point.
_OTHER_STOPS = regex.compile(
    r"(?<=[\p{Sentence_Terminal}--[.!?]])"
    r"(?![[\p{Sentence_Terminal}\p{Pe}\p{Pf}\p{M}\"']--[.!?]])(?<![．﹒․](?=\d))\s*",
    regex.VERSION1,
)


def break_sentences(paragraph: str) -> list[str]:
    """Breaks running text into sentences with nupunkt, whose abbreviations are English, and at the
    ends of sentences that other scripts have.

    >>> break_sentences("See e.g. Dr. Smith. It is late!")
    ['See e.g. Dr. Smith.', 'It is late!']
    >>> break_sentences("这是一支笔。那是一本书。")
    ['这是一支笔。', '那是一本书。']
    """
    found = cast("list[str]", nupunkt.sent_tokenize(paragraph))  # tuples only if asked for
    sentences = (
        part
        for sentence in found
        for part in ([sentence] if sentence.isascii() else _OTHER_STOPS.split(sentence))
    )
    return [sentence.strip() for sentence in sentences if sentence.strip()]
