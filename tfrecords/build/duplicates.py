"""Paragraphs that stand in a corpus more than once: all but the first are passed over, so that no
held-out text is trained on.

Two paragraphs are the same if 128 bits of BLAKE2b of their text are. Memory does not grow with the
corpus: the hashes of each task's text are on disk, sorted, and one range of hashes is compared at a
time over the files of all tasks."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import Sequence

import numpy as np
from safetensors import safe_open

from tfrecords.build.buckets import save_arrays

_RANGES = 256
_HASHES_AT_A_TIME = 1 << 22
"""About so many are compared at a time; they take some 200 MB."""


class ParagraphHasher:
    """Takes the paragraphs of a task in order, in the place of a `Reading`'s `keeps`, and keeps
    none of them but their hashes."""

    def __init__(self) -> None:
        self._digests = bytearray()

    def __call__(self, paragraph: str) -> bool:
        self._digests += hashlib.blake2b(paragraph.encode(), digest_size=16).digest()
        return False

    def save(self, path: str | os.PathLike) -> int:
        """Writes the hashes, sorted and with where each range of them begins, and returns their
        number."""
        hashes = np.frombuffer(bytes(self._digests), "<u8").reshape(-1, 2)
        order = np.lexsort((hashes[:, 1], hashes[:, 0]))
        first_byte = hashes[order, 0] >> np.uint64(56)
        index = np.searchsorted(first_byte, np.arange(_RANGES + 1, dtype=np.uint64))
        save_arrays(path, {"hashes": hashes[order], "paragraphs": order, "index": index})
        return len(hashes)


class FirstOccurrences:
    """Takes the paragraphs of a task in order again, as a `Reading`'s `keeps`, and keeps those that
    have not stood in the corpus before.

    Args:
        duplicates: The numbers of the others in the task: int64 [n], sorted.
    """

    def __init__(self, duplicates: np.ndarray) -> None:
        self._duplicates = iter(duplicates.tolist())
        self._next = next(self._duplicates, None)
        self._number = 0

    def __call__(self, paragraph: str) -> bool:
        keeps = self._number != self._next
        if not keeps:
            self._next = next(self._duplicates, None)
        self._number += 1
        return keeps


def hash_ranges(num_paragraphs: int) -> list[tuple[int, int]]:
    """The ranges of hashes that are compared at a time, for so many paragraphs: those whose first
    byte is from `start` to `end` - 1."""
    count = min(_RANGES, max(1, math.ceil(num_paragraphs / _HASHES_AT_A_TIME)))
    return list(itertools.pairwise(_RANGES * number // count for number in range(count + 1)))


def find_duplicates(
    files: Sequence[str | os.PathLike], path: str | os.PathLike, start: int, end: int
) -> int:
    """Compares the hashes of one range in the files of all tasks, in order; writes to `path` which
    paragraphs of each task have stood before, and returns their number."""
    # All hashes of the range, with the task and the paragraph that they are of.
    found, numbers = [], []
    for file_path in files:
        with safe_open(file_path, framework="numpy") as file:
            index = file.get_slice("index")[:]
            first, last = int(index[start]), int(index[end])
            if first < last:  # safetensors takes no slice of an empty array
                found.append(file.get_slice("hashes")[first:last])
                numbers.append(file.get_slice("paragraphs")[first:last])
            else:
                found.append(np.zeros((0, 2), np.uint64))
                numbers.append(np.zeros(0, np.int64))
    hashes, paragraphs = np.concatenate(found), np.concatenate(numbers)
    tasks = np.repeat(np.arange(len(files)), list(map(len, numbers)))

    # Of equal ones the first in the corpus stays.
    order = np.lexsort((paragraphs, tasks, hashes[:, 1], hashes[:, 0]))
    again = order[1:][(hashes[order[1:]] == hashes[order[:-1]]).all(axis=1)]
    again = again[np.lexsort((paragraphs[again], tasks[again]))]
    index = np.searchsorted(tasks[again], np.arange(len(files) + 1))
    save_arrays(path, {"paragraphs": paragraphs[again], "index": index})
    return len(again)


def read_duplicates(paths: Sequence[str | os.PathLike], task: int) -> np.ndarray:
    """The numbers of the paragraphs of a task that have stood before, from what `find_duplicates`
    wrote for every range: int64 [n], sorted."""
    found = [np.zeros(0, np.int64)]
    for path in paths:
        with safe_open(path, framework="numpy") as file:
            start, end = map(int, file.get_slice("index")[task : task + 2])
            if start < end:  # safetensors takes no slice of an empty array
                found.append(file.get_slice("paragraphs")[start:end])
    return np.sort(np.concatenate(found))
