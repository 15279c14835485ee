"""Exact counts of words in bounded memory: when there are too many different words, counts go to
files, from which the most frequent words come back."""

from __future__ import annotations

import collections
import os
import pathlib
import zlib
from collections.abc import Iterable, Iterator, Mapping

MAX_WORDS = 1 << 21
"""The different words that are counted in memory, and that are kept in the end."""

_BUCKETS = 64


class WordCounts:
    """How often each word was seen.

    What it gives is a function of what was added alone, not of the order: no count is ever dropped
    before all of the same word are together.
    """

    def __init__(self, directory: str | os.PathLike):
        """
        Args:
            directory: An existing directory for the files.
        """
        self._words: collections.Counter[str] = collections.Counter()
        self._buckets = [pathlib.Path(directory) / f"bucket-{n}" for n in range(_BUCKETS)]
        self._spilled = False

    def add(self, counts: Mapping[str, int], weight: int = 1) -> None:
        """Adds the counts of at most some MAX_WORDS words, times `weight`."""
        if weight > 1:
            counts = {word: weight * count for word, count in counts.items()}
        self._words.update(counts)
        if len(self._words) > MAX_WORDS:
            self._spill()

    def add_file(self, path: str | os.PathLike, weight: int = 1) -> None:
        """Adds the counts that `write_counts` wrote, times `weight`."""
        for word, count in _read_counts(path):
            self._words[word] += weight * count
            if len(self._words) > MAX_WORDS:
                self._spill()

    def most_frequent(self) -> collections.Counter[str]:
        """The MAX_WORDS most frequent words and their counts, or all if there are no more; of
        equally frequent ones the first in the order of their text. Nothing is to be added after
        this."""
        if not self._spilled:
            return self._words
        self._spill()
        # All counts of a word are in one file.
        kept: collections.Counter[str] = collections.Counter()
        for bucket in self._buckets:
            for word, count in _read_counts(bucket):
                kept[word] += count
            if len(kept) > MAX_WORDS:
                order = sorted(kept.items(), key=lambda item: (-item[1], item[0]))
                kept = collections.Counter(dict(order[:MAX_WORDS]))
        return kept

    def _spill(self) -> None:
        """Appends the counts to the files and forgets them."""
        self._spilled = True
        parts: list[list[tuple[str, int]]] = [[] for _ in self._buckets]
        for word, count in self._words.items():
            parts[zlib.crc32(word.encode()) % _BUCKETS].append((word, count))
        for path, part in zip(self._buckets, parts, strict=True):
            write_counts(path, part)
        self._words.clear()


def write_counts(path: str | os.PathLike, counts: Iterable[tuple[str, int]]) -> None:
    """Appends words, which have no white space of ASCII, and their counts to a file."""
    with open(path, "a", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{word} {count}\n" for word, count in counts)


def _read_counts(path: str | os.PathLike) -> Iterator[tuple[str, int]]:
    with open(path, encoding="utf-8", newline="\n") as file:
        for line in file:
            word, count = line.rsplit(" ", 1)
            yield word, int(count)
