"""How much of a corpus are copies of documents: of a held-out one, a copy is in training.

Documents are compared by a hash of their tokens, and few of them: those with the lowest hashes, as
many as fit a sample of fixed size (bottom-k sampling). A document and its copies are in the sample
together or not at all, so that the share of copies among all documents can be told from it; where
all of them fit, the share is exact."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import numpy as np
import safetensors.numpy

from tfrecords.build.buckets import save_arrays
from tfrecords.compilation import compiled
from tfrecords.documents import SAMPLED_DOCUMENTS, Documents
from tfrecords.hashing import FIRST_FACTOR, GOLDEN, SECOND_FACTOR


class DocumentSample:
    """The documents with the lowest hashes, how often each was there, and its tokens; of
    SAMPLED_DOCUMENTS they take 6 MB.

    The capacity is the same for a task and for the corpus: so the sample of the corpus does not
    depend on how its text is divided among tasks.

    Args:
        capacity: The most different documents that are kept.
    """

    def __init__(self, capacity: int = SAMPLED_DOCUMENTS):
        self._capacity = capacity
        # Hashes in ascending order; all up to the limit are here.
        self._hashes = np.zeros(0, np.uint64)
        self._times = np.zeros(0, np.int64)
        self._tokens = np.zeros(0, np.int64)
        self._limit = np.uint64(np.iinfo(np.uint64).max)

    def add(self, documents: Documents) -> None:
        """Adds documents."""
        starts = documents.sentence_starts[documents.document_starts]
        hashes = _hashes(documents.tokens, starts)
        self._merge(hashes, np.ones(len(hashes), np.int64), np.diff(starts))

    def _merge(self, hashes: np.ndarray, times: np.ndarray, tokens: np.ndarray) -> None:
        low = hashes <= self._limit
        joined = np.concatenate([self._hashes, hashes[low]])
        self._hashes, places, which = np.unique(joined, return_index=True, return_inverse=True)
        self._tokens = np.concatenate([self._tokens, tokens[low]])[places]
        self._times = np.bincount(which, np.concatenate([self._times, times[low]])).astype(np.int64)
        if len(self._hashes) > self._capacity:
            self._limit = self._hashes[self._capacity - 1]
        # The limit may have come down with that of a task.
        end = np.searchsorted(self._hashes, self._limit, "right")
        self._hashes, self._times = self._hashes[:end], self._times[:end]
        self._tokens = self._tokens[:end]

    def save(self, path: str | os.PathLike) -> None:
        """Writes the sample to a file, for `read`."""
        save_arrays(path, self.arrays())

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that a file for `read` holds, to be written together with others."""
        arrays = {"hashes": self._hashes, "times": self._times, "tokens": self._tokens}
        return arrays | {"limit": np.array([self._limit])}

    @classmethod
    def read(
        cls, paths: Iterable[str | os.PathLike], capacity: int = SAMPLED_DOCUMENTS
    ) -> DocumentSample:
        """The sample of a corpus, from those of all its tasks."""
        sample, found, size = cls(capacity), [], 0
        for path in paths:
            arrays = safetensors.numpy.load_file(path)
            # Above the limit of one task, documents of its text are missing.
            sample._limit = min(sample._limit, arrays["limit"][0])
            end = np.searchsorted(arrays["hashes"], sample._limit, "right")
            found.append([arrays[name][:end] for name in ("hashes", "times", "tokens")])
            size += end
            if size > 4 * capacity:  # merging sorts, so many are merged at a time
                sample._merge(*map(np.concatenate, zip(*found, strict=True)))
                found, size = [], 0
        if found:
            sample._merge(*map(np.concatenate, zip(*found, strict=True)))
        return sample

    def shares(self) -> tuple[float, float]:
        """The share of the documents, and of the tokens, that had been there before."""
        documents, tokens = self._times.sum(), (self._times * self._tokens).sum()
        copied, copied_tokens = self._times - 1, (self._times - 1) * self._tokens
        return copied.sum() / max(1, documents), copied_tokens.sum() / max(1, tokens)


def count_copies(paths: Sequence[str | os.PathLike], documents: int, tokens: int) -> dict[str, int]:
    """The counts of copies in a corpus: how many documents had been there before, and how many
    tokens they have. Of a document that was cut, each part is compared as one.

    Args:
        paths: The files with the samples of all tasks. An earlier release made none.
        documents: The documents of the corpus.
        tokens: Its tokens.

    Returns:
        "copied_documents" and "copied_tokens", exact unless there are more than SAMPLED_DOCUMENTS
        different documents; nothing if a sample is missing.
    """
    if not all(map(os.path.exists, paths)):
        return {}
    of_documents, of_tokens = DocumentSample.read(paths).shares()
    return {
        "copied_documents": round(of_documents * documents),
        "copied_tokens": round(of_tokens * tokens),
    }


@compiled
def _hashes(tokens, starts):
    """A hash of the tokens starts[n] to starts[n + 1] - 1 for every n: uint64 [number of starts -
    1], as good as random."""
    hashes = np.empty(len(starts) - 1, np.uint64)
    for n in range(len(hashes)):
        state = np.uint64(starts[n + 1] - starts[n])
        for place in range(starts[n], starts[n + 1]):
            state = (state ^ np.uint64(tokens[place])) * FIRST_FACTOR
            state ^= state >> np.uint64(32)
        # The last steps of splitmix64.
        state = (state + GOLDEN) * FIRST_FACTOR
        state = (state ^ (state >> np.uint64(27))) * SECOND_FACTOR
        hashes[n] = state ^ (state >> np.uint64(31))
    return hashes
