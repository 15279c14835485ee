"""What of a text is in its records, and what to do about the rest: the counts of a manifest in
words.

A count that the release that made the records did not know is absent, and nothing is said of it."""

from __future__ import annotations

from collections.abc import Iterator

from tfrecords.characters import MUCH_LOST, is_much_invalid
from tfrecords.documents import SAMPLED_DOCUMENTS
from tfrecords.normalization import MAX_WORD_CHARACTERS
from tfrecords.schema import USUAL_PACK, Manifest
from tfrecords.text.decoding import INVALID, PASSED_OVER
from tfrecords.text.formats import DEFAULT_FORMAT, TEXT_FORMATS

_TOO_MANY_UNUSED = 0.05
"""The share of the tokens that are in no record which is worth one."""
_MUCH_PADDING = 0.1
"""The share of padding from which on packing is advised, ..."""
_WORTH_PACKING = 1.05
"""... and how many times fewer records it has to make: long pairs may leave no room for others."""

_SPLIT, _CUT = "were split", "lose what does not fit"
# What is said of one, and of several; in the order of the manifest.
_COUNTED = {
    "long_words": (
        f"word of more than {MAX_WORD_CHARACTERS} characters",
        f"words of more than {MAX_WORD_CHARACTERS} characters",
    ),
    "stripped_marks": (
        "mark, such as an accent or a vowel sign, was taken from its letter",
        "marks, such as accents and vowel signs, were taken from letters",
    ),
    "parted_letters": (
        "letter, such as a Hangul syllable, was taken apart with its accents",
        "letters, such as Hangul syllables, were taken apart with their accents",
    ),
    "empty_sentences": ("line without a token was dropped", "lines without a token were dropped"),
    "empty_documents": (
        "document without a token was dropped",
        "documents without a token were dropped",
    ),
    "cut_documents": (
        "time a document longer than a million characters was cut: do empty lines separate the "
        "documents?",
        "times a document longer than a million characters was cut: do empty lines separate the "
        "documents?",
    ),
    "duplicate_paragraphs": (
        "paragraph that had stood in the text before was dropped",
        "paragraphs that had stood in the text before were dropped",
    ),
    "copied_documents": (
        "document is a copy of another",
        "documents are copies of others",
    ),
    "broken_lines": (
        "line longer than 1 MiB was read in parts",
        "lines longer than 1 MiB were read in parts",
    ),
    **PASSED_OVER,
}


def corpus_lines(manifest: Manifest) -> Iterator[str]:
    """What was found in the text and how much of it is in the records, then a line for everything
    that was lost or changed."""
    corpus = manifest.counts["corpus"]
    parts = [f"{corpus[name]:,} {name}" for name in ("documents", "sentences", "tokens")]
    if "characters" in corpus:
        parts.append(f"{corpus['characters']:,} characters")
    yield f"corpus: {', '.join(parts)}"
    yield f"coverage: {'; '.join(_coverage(manifest))}"
    if number := corpus["long_sentences"]:
        split, cut = ("was split", "loses what does not fit") if number == 1 else (_SPLIT, _CUT)
        yield (
            f"  {number:,} sentence{'s' * (number > 1)} longer than a sequence "
            f"{split if _are_split(manifest) else cut}"
        )
    for name, value in corpus.items():
        if value and name in _COUNTED:
            different = corpus["documents"] - value
            is_estimate = name == "copied_documents" and different > SAMPLED_DOCUMENTS
            about = "about " if is_estimate else ""
            yield f"  {about}{value:,} {_COUNTED[name][value > 1]}"


def _coverage(manifest: Manifest) -> Iterator[str]:
    """The shares of the text: known to the vocabulary, in the records, in the validation split."""
    corpus, (unused, tokens) = manifest.counts["corpus"], _unused(manifest)
    if characters := corpus.get("characters"):
        unknown, where = corpus["unknown_characters"], "in words that became [UNK]"
        yield _both(characters - unknown, unknown, "of the characters are in tokens", where)
    else:
        yield f"{_percent(corpus['unknown_tokens'], corpus['tokens'])} of the tokens are [UNK]"
    if invalid := _invalid(manifest):
        yield f"{invalid} of the text is invalid UTF-8"
    if tokens:
        yield _both(tokens - unused, unused, "of the tokens are in records", "in none")
        if held_out := _held_out(manifest):
            yield f"{_percent(held_out, tokens)} of the tokens are held out for validation"


def _both(kept: int, lost: int, where: str, elsewhere: str) -> str:
    """Two parts of a whole in words; the second if there is any."""
    shown = f"{_percent(kept, kept + lost)} {where}"
    return f"{shown}, {_percent(lost, kept + lost)} {elsewhere}" if lost else shown


def _percent(part: int, whole: int) -> str:
    """A share in percent, which is none or all only if it is exactly."""
    share = part / whole
    if share in (0, 1):
        return f"{share:.0%}"
    if share < 0.0001:
        return "less than 0.01%"
    if share > 0.9999:
        return "more than 99.99%"
    return f"{share:.2%}" if share < 0.01 or share > 0.99 else f"{share:.1%}"


def _invalid(manifest: Manifest) -> str:
    """The share of the characters that stand for invalid UTF-8, if there are many."""
    corpus = manifest.counts["corpus"]
    replaced, characters = corpus["replaced_characters"], corpus.get("characters", 0)
    is_much = characters and is_much_invalid(replaced, characters)
    return _percent(replaced, characters + replaced) if is_much else ""


def _are_split(manifest: Manifest) -> bool:
    """Whether sentences that are too long are split."""
    assert manifest.config is not None, "load_manifest gives none without"
    return manifest.config.long_sentences == "split" or manifest.config.pairs == "none"


def splits_of(manifest: Manifest) -> list[tuple[str, dict[str, int]]]:
    """The names of the splits, with their counts."""
    return [(split, counts) for split, counts in manifest.counts.items() if split != "corpus"]


def num_pairs(counts: dict[str, int]) -> int:
    """The number of pairs, or single segments, by the counts of a split. Releases without packing
    counted none, and every record was one."""
    return counts.get("pairs", counts["records"])


def padding_of(manifest: Manifest, counts: dict[str, int]) -> float:
    """The share of a split that is padding, from 0 to 1, by its counts; 0 of nothing."""
    positions = counts["records"] * manifest.sequence_length
    return 1 - counts["tokens"] / positions if positions else 0.0


def _unused(manifest: Manifest) -> tuple[int, int]:
    """How many of the text's tokens are in no record, of how many; (0, 0) if that is unknown."""
    splits = [counts for _, counts in splits_of(manifest)]
    if not all("unused_tokens" in counts for counts in splits):
        return 0, 0
    unused, tokens = (
        sum(counts[name] for counts in splits) for name in ("unused_tokens", "document_tokens")
    )
    return unused, tokens


def _held_out(manifest: Manifest) -> int:
    return manifest.counts.get("validation", {}).get("document_tokens", 0)


def warnings_of(manifest: Manifest) -> Iterator[str]:
    """What is far beyond an ordinary corpus and worth a second look, with what mends it."""
    yield from _of_characters(manifest)
    yield from _of_sentences(manifest)
    yield from _of_held_out_text(manifest)
    for split, counts in splits_of(manifest):
        yield from _of_split(manifest, split, counts)


def advice_of(manifest: Manifest) -> Iterator[str]:
    """What would save time in training: packing, where there is much padding. How much it saves was
    counted when the records were made."""
    split, counts = splits_of(manifest)[0]
    rows, padding = counts.get("packed_records", 0), padding_of(manifest, counts)
    if rows and padding > _MUCH_PADDING and counts["records"] > _WORTH_PACKING * rows:
        how = "" if manifest.is_dynamic else ", as 'kbert pack' does with records that are there"
        yield (
            f"{padding:.1%} of the {split} split is padding; --pack {USUAL_PACK} would make "
            f"{counts['records'] / rows:.2f} times fewer records of the same pairs{how}."
        )


def _of_characters(manifest: Manifest) -> Iterator[str]:
    if invalid := _invalid(manifest):
        yield f"{invalid} {INVALID}."

    # Words that the vocabulary does not know, or that are too long for any vocabulary.
    corpus = manifest.counts["corpus"]
    tokens, characters = corpus["unknown_tokens"], corpus.get("unknown_characters", 0)
    known = corpus.get("characters", 0)
    if tokens > MUCH_LOST * corpus["tokens"] or characters > MUCH_LOST * known:
        share = (
            f", which stand for {_percent(characters, known)} of the characters" if known else ""
        )
        yield (
            f"{_percent(tokens, corpus['tokens'])} of the tokens are [UNK]{share}; "
            f"{_mend_of_unknown_words(manifest)}."
        )

    # What goes with the accents. Uncased does so by BERT's rule, and some languages lose vowels.
    letters = corpus.get("letters", 0)
    keep = "--accents keep, for the vocabulary too, keeps"
    if corpus.get("stripped_marks", 0) > MUCH_LOST * letters:
        yield (
            f"--accents strip takes away marks such as accents, umlauts and vowel signs, "
            f"{100 * corpus['stripped_marks'] / letters:.1f} for every 100 letters; {keep} them."
        )
    if corpus.get("parted_letters", 0) > MUCH_LOST * letters:
        yield (
            f"--accents strip takes apart {_percent(corpus['parted_letters'], letters)} of the "
            f"letters, such as Hangul syllables; {keep} them whole."
        )


def _mend_of_unknown_words(manifest: Manifest) -> str:
    """The advice against the most probable cause of many [UNK]."""
    corpus, config = manifest.counts["corpus"], manifest.config
    assert config is not None, "load_manifest gives none without"
    vocabulary = manifest.load_vocabulary()
    long_words = corpus.get("long_word_characters", 0) if config.long_words == "unknown" else 0
    if 2 * long_words > corpus.get("unknown_characters", 0):
        return (
            f"most of that is in {corpus['long_words']:,} words of more than "
            f"{MAX_WORD_CHARACTERS} characters, which --long-words split keeps"
        )
    shown = vocabulary.normalization
    if (shown.cased, shown.strips) != (config.cased, config.accents == "strip"):
        return f"the vocabulary looks {shown.description}, as {shown.options} would read the text"
    return "'kbert vocabulary' makes a vocabulary from this text that knows its words"


def _of_sentences(manifest: Manifest) -> Iterator[str]:
    # Documents that are not told apart.
    corpus, config = manifest.counts["corpus"], manifest.config
    assert config is not None, "load_manifest gives none without"
    if corpus["sentences"] > 1000 * corpus["documents"]:
        yield (
            f"{corpus['sentences'] / corpus['documents']:,.0f} sentences in a document; "
            f"{_are_documents_separate(manifest)}"
        )

    # Sentences that are none.
    truncated = not _are_split(manifest)
    mends = ["--long-sentences split keeps all of them"] * truncated
    if manifest.format == "sentences":
        mends.append("if a line is a paragraph, --format paragraphs breaks it into sentences")
    if mends and corpus["long_sentences"] > 0.1 * corpus["sentences"]:
        yield (
            f"{_percent(corpus['long_sentences'], corpus['sentences'])} of the sentences are "
            f"longer than a sequence and {_CUT if truncated else _SPLIT}; "
            f"{', and '.join(mends)}."
        )

    # What no pair has.
    assert config.duplicates is not None, "RecordsConfig settles it"
    unused, tokens = _unused(manifest)
    if unused > _TOO_MANY_UNUSED * tokens:
        dropped = sum(counts["dropped"] for _, counts in splits_of(manifest)) / config.duplicates
        if 2 * dropped > unused:
            yield (
                f"{_percent(unused, tokens)} of the tokens are in no record, as documents of a "
                f"single token make no pair; {_are_documents_separate(manifest)}"
            )
            return
        mends = ["--long-sentences split"] * (truncated and corpus["long_sentences"] > 0)
        mends.append(f"--duplicates {2 * config.duplicates}, which makes more pairs of it")
        yield (
            f"{_percent(unused, tokens)} of the tokens are in no record, as pairs are truncated to "
            f"the length of a sequence; what helps: {'; '.join(mends)}; or --pairs none."
        )


def _are_documents_separate(manifest: Manifest) -> str:
    format = TEXT_FORMATS[manifest.format or DEFAULT_FORMAT]
    if format.separator:
        return f"do {format.separator} separate the documents, as the format requires?"
    return f"is the text {format.document}?"


def _of_held_out_text(manifest: Manifest) -> Iterator[str]:
    """Documents are held out, and one of them may be half of the text."""
    held_out, tokens = _held_out(manifest), _unused(manifest)[1]
    assert manifest.config is not None, "load_manifest gives none without"
    fraction = manifest.config.validation_fraction
    if tokens and held_out > 2 * fraction * tokens:
        longest = manifest.counts["corpus"].get("longest_document", 0)
        why = (
            f"the longest document has {_percent(longest, tokens)}; cut it into several"
            if 2 * longest > held_out
            else "documents are few or unequal; give more of them"
        )
        yield (
            f"{_percent(held_out, tokens)} of the tokens are held out for validation, where "
            f"--validation-fraction asks for {fraction:.3g} of the documents: {why}, or change "
            "--validation-fraction or --seed."
        )

    # A copy of a held-out document may be trained on.
    corpus = manifest.counts["corpus"]
    if corpus.get("copied_tokens", 0) > MUCH_LOST * corpus["tokens"]:
        so = ", so that held-out text may be in training too" if held_out else ""
        # What is left of them with --deduplicate differs in capitals or white space.
        mend = "; --deduplicate drops what had stood in the text before"
        yield (
            f"{_percent(corpus['copied_tokens'], corpus['tokens'])} of the tokens are in documents "
            f"that are copies of others{so}{'' if manifest.config.deduplicate else mend}."
        )


def _of_split(manifest: Manifest, split: str, counts: dict[str, int]) -> Iterator[str]:
    # Records and their pairs.
    pairs = num_pairs(counts)
    if not pairs:
        yield f"there are no records in the {split} split."
    if manifest.pairs != "none" and not 0.3 * pairs <= counts["positive_labels"] <= 0.7 * pairs:
        kind = "random" if manifest.pairs == "nsp" else "swapped"
        yield (
            f"{counts['positive_labels'] / pairs:.0%} of the {split} pairs are "
            f"{kind}, where about 50 % is usual; documents of one or two sentences cause this: "
            "do empty lines separate documents, and line ends sentences?"
        )
    if padding_of(manifest, counts) > 0.5:
        yield (
            f"more than half of the {split} split is padding; a shorter --sequence-length, or "
            f"--pack {USUAL_PACK}, would save time."
        )

    # Masks: words are masked whole, and those that are longer than what is to be masked never.
    if counts.get("sampled_masks", 0) < 0.5 * counts.get("wanted_masks", 0):
        sampled = counts["sampled_records"]
        yield (
            f"{counts['sampled_masks'] / sampled:.1f} tokens per sequence are masked in the "
            f"{split} split, where {counts['wanted_masks'] / sampled:.1f} should be: longer words "
            "are never masked; --mask-unit token masks parts of them."
        )
