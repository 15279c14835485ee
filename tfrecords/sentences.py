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


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What nupunkt, whose abbreviations are English, takes for the end of a sentence in other European
# languages. Nothing here occurs in English, whose sentences stay as they are.
_INSIDE = frozenset(
    form + "."
    for word in _words(
        "bzw vgl bspw evtl ggf sog inkl zzgl abb fa hrsg hr z.B d.h u.a o.ä i.d.R "  # German
        "mme mlle mgr env "  # French
        "sra srta dra dña ud uds avda pág núm "  # Spanish
        "sig sig.ra sigg dott dott.ssa "  # Italian
        "profa exa "  # Portuguese
        "dhr mevr bijv blz o.a m.a.w d.w.z "  # Dutch
        "ul np zob tzn m.in inż św tzw "  # Polish
        "např tj tzv viz resp "  # Czech
        "t.ex bl.a d.v.s jfr f.eks bl.a jf "  # Swedish, Danish
        "esim ks tri "  # Finnish
        "bkz örn sn m.ö "  # Turkish
        "ул см стр проф им обл гл"  # Russian
    )
    for form in (word, word[0].upper() + word[1:])
)
_LISTS = _words("usw. etc. ecc. enz. itd. itp. atd. apod. osv. jne. vb. vs.")
"""After these a sentence ends, unless a small letter follows."""
_PARTED = ("z. B.", "d. h.", "u. a.", "o. ä.", "EE. UU.", "a. C.", "т. д.", "т. е.", "т. п.")
_MONTHS = _words(
    "Januar Jänner Februar März Mai Juni Juli Oktober Dezember "  # German
    "januar februar marts maj juni juli oktober december januari februari mars augusti "
    "ledna února března dubna května června července srpna září října listopadu prosince "
    "tammikuuta helmikuuta maaliskuuta huhtikuuta toukokuuta kesäkuuta heinäkuuta elokuuta "
    "syyskuuta lokakuuta marraskuuta joulukuuta århundrede århundradet století"
)
_ENGLISH_TOO = frozenset(["April", "August", "September", "November"])
_BEFORE_ORDINALS = _words("im vom zum zur dem der das beim det 5. 4. 3. 2. 1.")


def _goes_on(before: str, after: str) -> bool:
    """Whether two sentences that nupunkt found are one, in a language other than English."""
    # Abbreviations by themselves, and those after which a sentence may end.
    word = before[before.rfind(" ") + 1 :]
    if word in _INSIDE:
        return True
    if word in _LISTS:
        return after[:1].islower()
    if len(word) > 4 and after[:1] < "\u0370":  # as most are: the rest is about short words
        return False
    if before.endswith(_PARTED):
        return True
    # Two abbreviations that belong together, of which this is the first.
    following = after.split(" ", 1)[0]
    if f"{word} {following}".rstrip(",;:") in _PARTED:
        return True
    if word[:-1].isdecimal() and word[-1:] == "." and len(word) <= 4:
        previous = before[: -len(word)].split()[-1:] or [""]
        following = following.rstrip(".,;:!?")
        if previous[0] in ("am", "Am") and following in _ENGLISH_TOO:
            return True
        return following in _MONTHS or previous[0] in _BEFORE_ORDINALS
    # Greek, Cyrillic and Armenian: no sentence begins with a small letter or ends with an initial.
    return ("\u0370" <= after[:1] <= "\u058f" and after[:1].islower()) or (
        len(word) == 2 and "\u0370" <= word[0] <= "\u058f" and word[0].isupper()
    )


def _joined(sentences: list[str]) -> list[str]:
    joined = sentences[:1]
    for sentence in sentences[1:]:
        if joined[-1][-1:] == "." and _goes_on(joined[-1], sentence):
            joined[-1] = f"{joined[-1]} {sentence}"
        else:
            joined.append(sentence)
    return joined


def break_sentences(paragraph: str) -> list[str]:
    """Breaks running text into sentences with nupunkt, whose abbreviations are English, with the
    most frequent abbreviations and dates of other European languages, and at the ends of sentences
    that other scripts have.

    >>> break_sentences("See e.g. Dr. Smith. It is late!")
    ['See e.g. Dr. Smith.', 'It is late!']
    >>> break_sentences("Am 3. Mai kam er bzw. sie. Gut!")
    ['Am 3. Mai kam er bzw. sie.', 'Gut!']
    >>> break_sentences("这是一支笔。那是一本书。")
    ['这是一支笔。', '那是一本书。']
    """
    found = _joined(cast("list[str]", nupunkt.sent_tokenize(paragraph)))  # tuples only if asked for
    sentences = (
        part
        for sentence in found
        for part in ([sentence] if sentence.isascii() else _OTHER_STOPS.split(sentence))
    )
    return [sentence.strip() for sentence in sentences if sentence.strip()]
