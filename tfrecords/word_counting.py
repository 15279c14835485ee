"""Counts the words of text files for a vocabulary, in one or several processes, and what is lost on
the way."""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
import tempfile
import warnings
from collections.abc import Callable, Sequence

import tensorflow as tf

from tfrecords.characters import MUCH_LOST, CharacterKinds, count_letters, is_much_invalid
from tfrecords.normalization import MAX_WORD_CHARACTERS, Normalization
from tfrecords.progress import progress_bar
from tfrecords.text.decoding import INVALID, PASSED_OVER
from tfrecords.text.formats import span_documents
from tfrecords.text.spans import SpanGroup
from tfrecords.tokenizer import normalize, set_words_apart, split_long_words, words_apart
from tfrecords.word_counts import MAX_WORDS, WordCounts, write_counts
from tfrecords.workers import Workers, automatic_workers

# About how many bytes of text a process counts in a second; to judge how many are worth starting.
_TEXT_SPEED = 10e6
_CHARACTERS_PER_BATCH = 1 << 19


@dataclasses.dataclass
class Found:
    """What was counted beside the words."""

    characters: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """In "all" words, and in those that are too "long"; the "letters", and what of them is "lost"
    with their accents."""
    reading: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """See `formats.span_documents`."""
    with_text: set[str] = dataclasses.field(default_factory=set)
    """The files that have some."""

    def add(self, other: Found) -> None:
        self.characters.update(other.characters)
        self.reading.update(other.reading)
        self.with_text |= other.with_text


def count_words(
    tasks: Sequence[SpanGroup],
    normalization: Normalization,
    reading: tuple[str, str, str, str | None],
    workers: int | None,
    progress: bool,
    directory: str,
    found_in_text: Found,
) -> collections.Counter[str]:
    """How often each word stands in the text, normalized; the most frequent ones. What else was
    counted is added to `found_in_text`."""
    words = WordCounts(directory)
    total = sum(group.bytes for group in tasks)
    if workers is None:
        workers = automatic_workers(total / _TEXT_SPEED)
    with (
        Workers(workers, _WordCounter, normalization, reading, directory) as pool,
        progress_bar("counting words", total, "B", progress) as bar,
    ):
        for group, (counted, files, found) in pool.map(_WordCounter.count, tasks):
            bar.update(group.bytes)
            found_in_text.add(found)
            words.add(counted, group.weight)
            for file in files:
                words.add_file(file, group.weight)
                pathlib.Path(file).unlink()
        return words.most_frequent()


class _WordCounter:
    """What a worker process owns: it counts the words of some spans of text."""

    def __init__(
        self,
        normalization: Normalization,
        reading: tuple[str, str, str, str | None],
        directory: str,
    ):
        splits = normalization.long_words == "split"
        limited = split_long_words if splits else tf.identity
        self._words_apart = tf.function(
            lambda texts: limited(set_words_apart(normalize(texts, normalization))),
            input_signature=[tf.TensorSpec([None], tf.string)],
            autograph=False,
        )
        self._kinds = CharacterKinds(self._words_apart) if normalization.strips else None
        self._format, self._errors, self._text_field, self._words_by = reading
        self._directory = directory

    def count(
        self, group: SpanGroup, report: Callable[..., object]
    ) -> tuple[collections.Counter[str], list[str], Found]:
        """Counts the words of the group; nothing is reported.

        Returns:
            Counts, files of further counts, since a compressed file may have any number of words,
            and what else was counted.
        """
        words, sentences, size = collections.Counter(), [], 0
        found, files = Found(), []
        for span in group.spans:
            for document in span_documents(
                span, self._format, self._errors, found.reading, self._text_field
            ):
                found.with_text.add(span.path)
                sentences += document
                size += sum(map(len, document))
                if size >= _CHARACTERS_PER_BATCH:
                    self._add(words, sentences, found.characters)
                    sentences, size = [], 0
                    if len(words) > MAX_WORDS:
                        files.append(self._written(words))
                        words.clear()
        self._add(words, sentences, found.characters)
        return words, files, found

    def _written(self, words: collections.Counter[str]) -> str:
        """A new file of the counts."""
        number, path = tempfile.mkstemp(prefix="counts-", dir=self._directory)
        os.close(number)
        write_counts(path, words.items())
        return path

    def _add(
        self,
        words: collections.Counter[str],
        sentences: list[str],
        characters: collections.Counter[str],
    ) -> None:
        if sentences:
            sentences = [words_apart(sentence, self._words_by) for sentence in sentences]
            text = b" ".join(self._words_apart(tf.constant(sentences)).numpy()).decode()
            kept = [word for word in text.split(" ") if 0 < len(word) <= MAX_WORD_CHARACTERS]
            words.update(kept)
            all_characters = len(text) - text.count(" ")
            characters["all"] += all_characters
            characters["long"] += all_characters - sum(map(len, kept))
            if self._kinds:
                points = self._kinds.points_of(sentences)
                _, letters, marks, parted = count_letters(points, self._kinds.table)
                characters.update({"letters": letters, "lost": marks + parted})


def warn_of_losses(found: Found) -> None:
    """Warns of what was lost, in the name of the caller of the caller."""
    _warn_of_what_was_passed_over(found.reading, found.characters["all"])
    _warn_of_lost_characters(found.characters)


def _warn_of_what_was_passed_over(counts: collections.Counter[str], characters: int) -> None:
    """Warns of what reading passed over; of much invalid UTF-8 with what mends it."""
    said = [
        f"{counts[name]:,} {words[counts[name] > 1]}"
        for name, words in PASSED_OVER.items()
        if counts[name]
    ]
    invalid = counts["replaced_characters"]
    if is_much_invalid(invalid, characters):
        said.append(f"{invalid / (characters + invalid):.1%} {INVALID}")
    if said:
        warnings.warn(f"{'; '.join(said)}.", stacklevel=4)


def _warn_of_lost_characters(characters: collections.Counter[str]) -> None:
    """Warns if much of the text is in words that are too long to be learned from, or letters lose
    many marks."""
    lost = characters["lost"] / max(1, characters["letters"])
    if lost > MUCH_LOST:
        warnings.warn(
            "--accents strip takes away marks such as accents, umlauts and vowel signs, or takes "
            f"letters apart, {100 * lost:.1f} times in 100 letters; use --accents keep to keep "
            "them, here and in 'kbert records'.",
            stacklevel=4,
        )
    share = characters["long"] / max(1, characters["all"])
    if share > MUCH_LOST:
        warnings.warn(
            f"{share:.1%} of the text's characters are in words of more than "
            f"{MAX_WORD_CHARACTERS}, which are left out, and become [UNK] in records; use "
            "--long-words split for text without spaces, here and in 'kbert records'.",
            stacklevel=4,
        )
